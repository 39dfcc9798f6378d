"""Writes metrics and images as TensorBoard event files, without TensorFlow.

An event file is a sequence of `Event` protos, each framed by TensorBoard's
`RecordWriter`. TensorBoard brings the protos, too. As in TensorFlow 2, scalars
and images are tensors whose metadata name the plugin that shows them.
"""

import itertools
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from scm_jax import image_grid
from scm_jax.training.monitoring.append_file import AppendFile

# A file beyond this size is closed and another one begun; TensorBoard reads
# them all. It bounds the memory and the uploads of an object in a bucket.
MAX_BYTES = 64 * 2**20

_file_numbers = itertools.count()


class TensorBoardWriter:
  """A writer of scalars and images to event files in a folder."""

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self._file = self._new_file()

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes scalars by name, as float32."""
    metadata = scalar_metadata.create_summary_metadata(None, None)
    self._write(step, metadata, {k: _scalar(v) for k, v in scalars.items()})

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes images by name, each uint8 [N, H, W, C] with C of 1 or 3."""
    metadata = image_metadata.create_summary_metadata(None, None)
    self._write(step, metadata, {k: _pngs(v) for k, v in images.items()})

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def _write(
    self,
    step: int,
    metadata: summary_pb2.SummaryMetadata,
    tensors: Mapping[str, tensor_pb2.TensorProto],
  ) -> None:
    if self._file.size >= MAX_BYTES:
      self._file.close()
      self._file = self._new_file()
    values = [
      summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=metadata)
      for name, tensor in tensors.items()
    ]
    summary = summary_pb2.Summary(value=values)
    _append_event(self._file, step=step, summary=summary)

  def _new_file(self) -> AppendFile:
    """Begins a file whose name sorts after those before it.

    TensorBoard reads the files of a folder in the order of their names.
    """
    seconds, number = int(time.time()), next(_file_numbers)
    unique = f"{socket.gethostname()}.{os.getpid()}.{number:04d}"
    name = f"events.out.tfevents.{seconds:010d}.{unique}.v2"
    file = AppendFile(self._folder / name)
    _append_event(file, file_version="brain.Event:2")
    return file


def _append_event(file: AppendFile, **fields: Any) -> None:
  event = event_pb2.Event(wall_time=time.time(), **fields)
  RecordWriter(file).write(event.SerializeToString())


def _scalar(value: Any) -> tensor_pb2.TensorProto:
  with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
    return tensor_util.make_tensor_proto(np.asarray(value, np.float32))


def _pngs(images: np.ndarray) -> tensor_pb2.TensorProto:
  """Returns what the image plugin reads: width, height, a PNG of each image."""
  height, width = images.shape[1:3]
  pngs = [image_grid.encode_png(image) for image in images]
  return tensor_util.make_tensor_proto([b"%d" % width, b"%d" % height, *pngs])
