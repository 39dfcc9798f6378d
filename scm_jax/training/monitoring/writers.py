"""Writes a run's metrics: `metrics.jsonl`, and event files for TensorBoard.

An event file is a sequence of `Event` protos, each framed by TensorBoard's
`RecordWriter`. As in TensorFlow 2, scalars and images are tensors whose
metadata name the plugin that shows them. TensorFlow is not needed.
"""

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from scm_jax import files, image_grid
from scm_jax.errors import UserError
from scm_jax.training import workdir

# An event file beyond this size is closed and another one begun; TensorBoard
# reads them all. It bounds the memory and the uploads of an object in a bucket.
MAX_BYTES = 64 * 2**20
INTERVAL = 60.0  # seconds between two uploads of an object in a bucket
_REMEDY = "make room and run the same command again"

_file_numbers = itertools.count()


class AppendFile:
  """A file whose new data are on the disk at once, in a bucket in a minute.

  Nothing can be appended to an object in a bucket. So it is kept in memory and
  uploaded whole: once a minute if it has grown, and when it is flushed. All
  methods raise UserError if the file cannot be written.
  """

  def __init__(self, path: epath.Path, content: bytes = b""):
    """Creates the file, or replaces it as a whole, with some content."""
    files.write_bytes(path, content)
    self._path, self.size = path, len(content)
    self._uploaded, self._clock = len(content), time.monotonic()
    self._object, self._file = bytearray(content), None
    if not files.is_remote(path):
      # Unbuffered, so that data which a full disk refused are not tried again.
      self._file = open(path, "ab", buffering=0)

  def write(self, data: bytes) -> None:
    """Appends `data`."""
    self.size += len(data)
    if self._file is None:
      self._object += data
      if time.monotonic() - self._clock >= INTERVAL:
        self.flush()
      return
    with files.writing(self._path, _REMEDY):
      while data:
        data = data[self._file.write(data) :]

  def flush(self) -> None:
    """Makes everything that was written readable by others."""
    if self._file is None and self._uploaded < self.size:
      with files.writing(self._path, _REMEDY):
        self._path.write_bytes(bytes(self._object))
      self._uploaded, self._clock = self.size, time.monotonic()

  def close(self) -> None:
    """Flushes and closes the file."""
    self.flush()
    if self._file is not None:
      self._file.close()


class JsonlWriter:
  """A writer of JSON objects, one a line: `step`, then scalars by name."""

  def __init__(self, path: epath.Path, start_step: int):
    """Opens the file and drops its lines of steps after `start_step`.

    A killed run lost the updates of those steps, and this run repeats them.
    """
    found = path.read_bytes() if path.exists() else b""
    lines = found.decode(errors="replace").splitlines()
    kept = [line for line in lines if line and _step(line) <= start_step]
    self._file = AppendFile(path, "".join(x + "\n" for x in kept).encode())

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes a line; NaN and infinities, which JSON lacks, become null."""
    numbers = {k: np.asarray(value).item() for k, value in scalars.items()}
    known = {k: x if np.isfinite(x) else None for k, x in numbers.items()}
    self._file.write(f"{json.dumps({'step': step} | known)}\n".encode())

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Does nothing: the file holds scalars alone."""

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class TensorBoardWriter:
  """A writer of scalars and images to event files in a folder."""

  def __init__(self, folder: epath.Path, start_step: int = 0):
    """Opens a file, and marks in it that a process goes on after a step."""
    self._folder = folder
    self._file = self._new_file()
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    _append_event(self._file, step=start_step + 1, session_log=start)
    self._file.flush()  # a sign of life, before anything is compiled

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes scalars by name, as float32."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
      values = {k: np.asarray(x, np.float32) for k, x in scalars.items()}
    self._write(step, scalar_metadata, values)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes images by name, each uint8 [N, H, W, C] with C of 1 or 3."""
    self._write(step, image_metadata, {k: _texts(x) for k, x in images.items()})

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def _write(self, step: int, plugin: Any, tensors: Mapping[str, Any]) -> None:
    if self._file.size >= MAX_BYTES:
      self._file.close()
      self._file = self._new_file()
    metadata = plugin.create_summary_metadata(None, None)
    summary = summary_pb2.Summary()
    for name, values in tensors.items():
      tensor = tensor_util.make_tensor_proto(values)
      summary.value.add(tag=name, tensor=tensor, metadata=metadata)
    _append_event(self._file, step=step, summary=summary)

  def _new_file(self) -> AppendFile:
    """Begins a file whose name sorts last: TensorBoard reads them by name."""
    seconds, number = int(time.time()), next(_file_numbers)
    unique = f"{socket.gethostname()}.{os.getpid()}.{number:04d}"
    name = f"events.out.tfevents.{seconds:010d}.{unique}.v2"
    file = AppendFile(self._folder / name)
    _append_event(file, file_version="brain.Event:2")
    return file


class MultiWriter:
  """Several writers as one, which are closed however a `with` block ends.

  Of all processes, the first has writers (see `create`), the others have none.
  All methods raise UserError if a file cannot be written.
  """

  def __init__(self, writers: Sequence[TensorBoardWriter | JsonlWriter]):
    self._writers = writers

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes the scalars of a step, by name."""
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes the images of a step by name, each uint8 [N, H, W, C]."""
    for writer in self._writers:
      writer.write_images(step, images)

  def flush(self) -> None:
    """Makes everything that was written readable by others."""
    for writer in self._writers:
      writer.flush()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Closes all writers; their errors do not replace the block's own."""
    with contextlib.ExitStack() as stack:
      if kind is not None:
        stack.enter_context(contextlib.suppress(UserError))
      for writer in self._writers:
        stack.callback(writer.close)


def create(path: epath.Path, start_step: int) -> MultiWriter:
  """Returns the writers of a workdir, for a run that goes on after a step."""
  lines = JsonlWriter(path / workdir.METRICS, start_step)
  return MultiWriter([TensorBoardWriter(path, start_step), lines])


def _step(line: str) -> float:
  """Returns the step of a line; infinity where a kill cut the line short."""
  try:
    return int(json.loads(line)["step"])
  except (ValueError, KeyError, TypeError):
    return float("inf")


def _append_event(file: AppendFile, **fields: Any) -> None:
  event = event_pb2.Event(wall_time=time.time(), **fields)
  RecordWriter(file).write(event.SerializeToString())


def _texts(images: np.ndarray) -> list[bytes]:
  """Returns what the image plugin reads: width, height, a PNG of each image."""
  height, width = images.shape[1:3]
  pngs = [image_grid.encode_png(image) for image in images]
  return [b"%d" % width, b"%d" % height, *pngs]
