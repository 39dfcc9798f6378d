"""TensorBoard's event files, written without TensorFlow.

A file is a sequence of `Event` protos, each framed by its length and checksums
(TFRecord). TensorBoard brings the protos; what is in them is what TensorFlow 2
writes: tensors, with metadata that name the plugin which shows them.
"""

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorboard.compat.proto import (
  event_pb2,
  summary_pb2,
  tensor_pb2,
  tensor_shape_pb2,
  types_pb2,
)
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata

from scm_jax import image_grid
from scm_jax.training.monitoring.append_file import GrowingFile

# A file beyond this is closed and another begun; TensorBoard reads them all. It
# bounds what an object in a bucket takes in memory and at every upload.
MAX_BYTES = 64 * 2**20

_numbers = itertools.count()  # of the files of this process


class EventWriter:
  """Writes scalars and pictures to event files in a folder."""

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self._file = self._begin()

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Adds scalars by name, as float32."""
    about = scalar_metadata.create_summary_metadata(None, None)
    self._add(step, about, {k: _scalar(v) for k, v in scalars.items()})

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds pictures by name, each uint8 [N, H, W, C] with C of 1 or 3."""
    about = image_metadata.create_summary_metadata(None, None)
    self._add(step, about, {k: _pictures(v) for k, v in images.items()})

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def _add(
    self,
    step: int,
    about: summary_pb2.SummaryMetadata,
    tensors: Mapping[str, tensor_pb2.TensorProto],
  ) -> None:
    if self._file.size >= MAX_BYTES:
      self._file.close()
      self._file = self._begin()
    values = [
      summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=about)
      for name, tensor in tensors.items()
    ]
    summary = summary_pb2.Summary(value=values)
    self._file.write(_record(step=step, summary=summary))

  def _begin(self) -> GrowingFile:
    """A file that sorts after those before it, as TensorBoard reads them."""
    unique = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers):04d}"
    name = f"events.out.tfevents.{int(time.time()):010d}.{unique}.v2"
    first = _record(file_version="brain.Event:2")
    return GrowingFile(self._folder / name, first)


def _record(**fields: Any) -> bytes:
  """An event, framed: length, its checksum, data, their checksum."""
  checksum = pywrap_tensorflow.masked_crc32c
  data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
  length = struct.pack("<Q", len(data))
  return b"".join(
    [length, struct.pack("<I", checksum(length))]
    + [data, struct.pack("<I", checksum(data))]
  )


def _scalar(value: Any) -> tensor_pb2.TensorProto:
  return tensor_pb2.TensorProto(
    dtype=types_pb2.DT_FLOAT,
    tensor_shape=tensor_shape_pb2.TensorShapeProto(),
    float_val=[np.asarray(value).item()],
  )


def _pictures(images: np.ndarray) -> tensor_pb2.TensorProto:
  """Width, height and a PNG of each."""
  height, width = images.shape[1:3]
  strings = [b"%d" % width, b"%d" % height]
  strings += [image_grid.encode_png(image) for image in images]
  size = tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))
  return tensor_pb2.TensorProto(
    dtype=types_pb2.DT_STRING,
    tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[size]),
    string_val=strings,
  )
