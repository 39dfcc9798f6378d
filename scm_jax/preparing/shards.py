"""ArrayRecord files that TFDS can read, each whole or not at all.

A record is a `tf.train.Example`, written without TensorFlow. Neither images
(PNG) nor latents (float16 noise, of which compression saves 8 %) are compressed
again, which makes reading them cheaper.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import numpy as np
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from scm_jax import errors, files
from scm_jax.errors import UserError

RECORD_OPTIONS = "group_size:1,uncompressed"  # one record is read alone


@dataclass
class Shard:
  """A finished shard.

  Attributes:
    classes: the number of records of each label; empty without labels.
    notes: the number of special images of each sort; see `transform.decode`.
    unreadable: pairs of an item's key and the reason.
    sums: for latents, the sums of means, and of means squared plus variances,
      over all positions, [2, C]; empty for images.
  """

  file: str
  records: int = 0
  bytes: int = 0
  sha256: str = ""
  classes: dict[str, int] = field(default_factory=dict)
  notes: dict[str, int] = field(default_factory=dict)
  unreadable: list[list[str]] = field(default_factory=list)
  sums: list[list[float]] = field(default_factory=list)
  positions: int = 0

  def add_moments(self, stored: np.ndarray) -> None:
    """Adds the means and deviations of one image, [h, w, 2 C], to the sums."""
    mean, std = np.split(stored.astype(np.float64), 2, axis=-1)
    squares = mean**2 + std**2  # expected, of a latent that is drawn
    sums = np.stack([mean.sum(axis=(0, 1)), squares.sum(axis=(0, 1))])
    self.sums = (np.array(self.sums) + sums if self.sums else sums).tolist()
    self.positions += mean.shape[0] * mean.shape[1]


def record(feature: str, data: bytes, label: int | None) -> bytes:
  """Serializes one example, to the same bytes every time."""
  example = tf_example_pb2.Example()
  features = example.features.feature
  features[feature].bytes_list.value.append(data)
  if label is not None:
    features["label"].int64_list.value.append(label)
  return example.SerializeToString(deterministic=True)


def write(
  path: pathlib.Path, scratch: pathlib.Path, records: Iterable[bytes]
) -> tuple[int, str]:
  """Writes a shard of serialized records, and returns its `digest`.

  The unfinished file lies in `scratch`, on the same disk.

  Raises:
    UserError: the file cannot be written.
  """
  with files.replaced_file(path, scratch) as partial:
    with _reporting(path):
      writer = array_record_module.ArrayRecordWriter(
        str(partial), RECORD_OPTIONS
      )
    count = 0
    for data in records:
      with _reporting(path):
        writer.write(data)
      count += 1
    with _reporting(path):
      writer.close()
      reader = array_record_module.ArrayRecordReader(str(partial))
      found = reader.num_records()
      reader.close()
    if found != count:
      raise UserError(
        f"cannot write {path}: {found} of {count} records are on the disk; "
        "free some space on it"
      )
    return digest(partial)


@contextlib.contextmanager
def _reporting(path: pathlib.Path) -> Generator[None]:
  """Turns ArrayRecord's errors, but not those of `records`, into one line."""
  try:
    yield
  except (RuntimeError, ValueError) as error:
    raise UserError(f"cannot write {path}: {errors.one_line(error)}") from error


def digest(path: pathlib.Path) -> tuple[int, str]:
  """Returns a file's size in bytes and its SHA-256."""
  with open(path, "rb") as file:
    checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return file.tell(), checksum
