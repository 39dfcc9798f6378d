"""What an evaluation scores: trained runs, or images from anywhere."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from scm_jax.codec import LatentCodec
from scm_jax.errors import ConfigError
from scm_jax.evaluation import dataset, pictures, selection
from scm_jax.evaluation.candidate import Candidate, GivenImages
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.evaluation.request import Request
from scm_jax.training import resolve, workdir
from scm_jax.training.checkpoints import checksum

_BATCH = 256  # images at once, where no config says otherwise
# Settings of a sampler, which may change between two evaluations of a run.
_DRAWN = (
  *("t_mid", "times", "gamma", "sigma_max", "solver", "solver_steps"),
  *("guidance", "guidance_interval", "guidance_channels"),
)
_PREVIEWS = (
  "there is no autoencoder, so the samples are small previews of latents and "
  "no distance to real images means anything; give --autoencoder=FILE"
)


class Runs:
  """Trained runs, of which the first one's data are the default reference.

  It has the shape (H, W, C) of the images, the number of them to score by
  default (0 if any can be drawn), the size of a batch, and sentences on why
  scores mean little. `marks` are digests of all that is scored, in JSON's
  types. `choose_reference` returns the one that a request means,
  `open_dataset` a dataset to compare with, and `groups` yields the candidates
  of each run of the report.
  """

  count = 0

  def __init__(self, request: Request):
    """Loads the first run; raises ConfigError for guidance that none takes."""
    self._grid = grid = request.grid
    self._load = selection.make_loader(request.networks)
    selection.check_steps(grid)
    selection.check_guidance(grid, self._load, request.networks)

  @property
  def _first(self) -> tuple[Any, Any]:
    model, metadata = self._load(self._grid.workdirs[0], self._grid.ema[0])
    return model, metadata["config"]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self._first[0].image_shape

  @property
  def batch_size(self) -> int:
    return self._first[1].sample.batch_size

  @property
  def warnings(self) -> tuple[str, ...]:
    codec = self._first[0].codec
    lacks = isinstance(codec, LatentCodec) and not codec.autoencoder
    found = [_PREVIEWS] if lacks else []
    for path in self._grid.workdirs:
      run = resolve.resolve(workdir.load_config(path))
      found += [f"{path}: {remark}" for remark in resolve.remarks(run)]
    return tuple(found)

  def marks(self) -> list[Any]:
    found = []
    for path, width in itertools.product(self._grid.workdirs, self._grid.ema):
      model, metadata = self._load(path, width)
      mark = checksum.of((model.weights, model.decoder))
      drawn = [getattr(model, name) for name in _DRAWN]
      found.append((metadata["step"], metadata["ema"], mark, drawn))
    return found

  def choose_reference(self, asked: str | None) -> str:
    return self._first[1].evaluate.reference if asked is None else asked

  def open_dataset(self, reference: str = "") -> ImageDataset:
    model, config = self._first
    return ImageDataset(config.data, model, reference)

  def groups(self) -> Iterator[Sequence[Candidate]]:
    return selection.groups(self._grid, self._load)


class Images:
  """Images of a folder or file, as the only run of the report; see `Runs`."""

  batch_size = _BATCH
  warnings = ()

  def __init__(self, request: Request):
    """Opens the images; raises ConfigError if fewer than those to be scored."""
    self.choose_reference(request.reference)
    self._pictures = found = pictures.open_pictures(request.images)
    self.image_shape, self.count = found.shape, found.count
    if request.protocol.num > found.count:
      raise ConfigError(
        f"{found.path} holds {found.count} images, and --num is "
        f"{request.protocol.num}; give no more than there are"
      )

  def marks(self) -> list[Any]:
    return [self._pictures.digest]

  def choose_reference(self, asked: str | None) -> str:
    if not asked:
      raise ConfigError(
        "--images needs something to compare with: --reference=NAME[:SPLIT] "
        "or --reference=FILE"
      )
    return asked

  def open_dataset(self, reference: str = "") -> ImageDataset:
    if not reference:
      raise ConfigError(
        "the classifier is trained on a dataset, and the reference is a file; "
        "give the name of a dataset as --reference, or other --features"
      )
    return ImageDataset(dataset.describe(reference), None, reference)

  def groups(self) -> Iterator[Sequence[Candidate]]:
    yield [GivenImages(self._pictures)]


Subjects = Runs | Images
