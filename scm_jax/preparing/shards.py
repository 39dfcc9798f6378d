"""ArrayRecord files, whole or not at all, that TFDS can read.

A record is a `tf.train.Example`, written without TensorFlow. Neither images
(PNG) nor latents (float16 noise, of which compression saves 8 %) are compressed
again, which makes reading them cheaper.
"""

import contextlib
import hashlib
import os
import pathlib
import socket
from collections.abc import Iterable, Iterator

from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from scm_jax.errors import UserError

OPTIONS = "group_size:1,uncompressed"  # one record is read alone
VERSION = "1.0.0"


def file_name(name: str, split: str, shard: int, shards: int) -> str:
  """TFDS's name of a shard."""
  return f"{name}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def record(feature: str, data: bytes, label: int | None) -> bytes:
  """One example, the same bytes every time."""
  example = tf_example_pb2.Example()
  features = example.features.feature
  features[feature].bytes_list.value.append(data)
  if label is not None:
    features["label"].int64_list.value.append(label)
  return example.SerializeToString(deterministic=True)


def write(
  path: pathlib.Path, scratch: pathlib.Path, records: Iterable[bytes]
) -> tuple[int, str]:
  """Writes a shard beside its place and moves it there once it is on disk.

  Args:
    path: where it is to appear.
    scratch: folder for the unfinished file, on the same disk.
    records: what `record` gives.

  Returns:
    The file's size and SHA-256.

  Raises:
    UserError: it cannot be written.
  """
  # Its own, should two processes make the same shard by mistake.
  owner = f"{socket.gethostname()}.{os.getpid()}"
  partial = scratch / f"{path.name}.{owner}.tmp"
  try:
    with _reporting(path):
      writer = array_record_module.ArrayRecordWriter(str(partial), OPTIONS)
    count = 0
    for data in records:
      with _reporting(path):
        writer.write(data)
      count += 1
    with _reporting(path):
      writer.close()
      _check(partial, count)
      size, checksum = digest(partial)
      os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
  return size, checksum


@contextlib.contextmanager
def _reporting(path: pathlib.Path) -> Iterator[None]:
  """Turns what writing raises, and nothing else, into one line."""
  try:
    yield
  except (OSError, RuntimeError, ValueError) as error:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    raise UserError(f"cannot write {path}: {reason}") from error


def _check(path: pathlib.Path, count: int) -> None:
  """Flushes the file, and reads back how many records it has."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())
  reader = array_record_module.ArrayRecordReader(str(path))
  found = reader.num_records()
  reader.close()
  if found != count:
    raise ValueError(f"{found} of {count} records are on disk; is it full?")


def digest(path: pathlib.Path) -> tuple[int, str]:
  """Size and SHA-256 of a file."""
  with open(path, "rb") as file:
    checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return file.tell(), checksum
