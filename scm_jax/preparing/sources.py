"""Opens what `--source` names: a folder, a zip, or `tfds:NAME`."""

import dataclasses
import os

from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing import trees
from scm_jax.preparing.listing import Source

TFDS = "tfds:"

IMAGENET = (
  "ImageNet is to be downloaded by hand: after logging in at "
  "image-net.org/download-images, ILSVRC2012_img_train.tar (138 GB), 'Training "
  "images (Task 1 & 2)'; unpacked, and each of the 1,000 tar files in it once "
  "more, so that the images lie in {path}/n01440764/*.JPEG and so on "
  "(docs/data.md has the commands)"
)


@dataclasses.dataclass(frozen=True)
class Spec:
  """Which images; picklable, so that each worker opens them anew.

  Attributes:
    path: a folder, a zip, a folder in a zip (`FILE.zip/FOLDER`) or `tfds:NAME`.
    split: of a TFDS dataset.
    tfds_dir: where TFDS datasets lie, and are downloaded to.
  """

  path: str
  split: str = "train"
  tfds_dir: str = ""


def open_source(spec: Spec) -> Source:
  """The source of a spec.

  Raises:
    UserError: it is not there, or nothing that can be read.
  """
  path = spec.path
  if path.startswith(TFDS):
    from scm_jax.preparing import catalogue  # not in workers that read files

    root = spec.tfds_dir or os.environ.get("TFDS_DATA_DIR", "")
    root = os.path.expanduser(root or "~/tensorflow_datasets")
    return catalogue.Dataset(path.removeprefix(TFDS), spec.split, root)
  if os.path.isdir(path):
    return trees.Tree(trees.Folder(path))
  archive, found, inside = path.partition(".zip/")
  archive += ".zip" if found else ""
  if os.path.isfile(archive):
    return trees.Tree(trees.Zip(_a_zip(archive), inside))
  hint = f"; {IMAGENET.format(path=path)}" if _is_imagenet(path) else ""
  raise UserError(f"--source={path}: there is no such folder or zip{hint}")


def by_name(name: str) -> str:
  """The source to take where none is named, by the name of a config's data."""
  return f"{TFDS}imagenet2012" if _is_imagenet(name) else f"{TFDS}{name}"


def _a_zip(path: str) -> str:
  if path.endswith((".tar", ".tgz", ".gz")):
    hint = f" {IMAGENET.format(path='FOLDER')}" if _is_imagenet(path) else ""
    raise ConfigError(
      f"--source={path} is a tar file; unpack it and name the folder.{hint}"
    )
  return path


def _is_imagenet(text: str) -> bool:
  text = text.lower()
  return "imagenet" in text or "ilsvrc" in text
