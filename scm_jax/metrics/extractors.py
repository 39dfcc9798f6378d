"""The registry of feature extractors, and the files of published weights.

Nothing is downloaded: a message says what to fetch. The name of a published
network also says how images are resized, because scores of different
conventions are not comparable.
"""

import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from scm_jax import errors, files
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import safetensors, state_dict
from scm_jax.interop.state_dict import Misfit
from scm_jax.metrics import (
  classifier,
  clip,
  dinov2,
  inception,
  judge,
  random_features,
)
from scm_jax.metrics.extractor import Extractor, Source
from scm_jax.metrics.pixels import pixel_extractor

PUBLISHED = {
  **dict.fromkeys(inception.NAMES, inception),
  **dict.fromkeys(dinov2.NAMES, dinov2),
  **dict.fromkeys(clip.NAMES, clip),
}
# What makes each of them. The published ones need weights that the user gives.
EXTRACTORS: dict[str, Callable[[Source], Extractor]] = {
  "classifier": classifier.extractor,
  "pixels": lambda source: pixel_extractor(source.image_shape),
  judge.NAME: judge.extractor,
  random_features.NAME: random_features.extractor,
  **{
    name: lambda source, name=name: load(name, source.weights[name])
    for name in PUBLISHED
  },
}


def check(names: Sequence[str], weights: Mapping[str, str]) -> None:
  """Raises ConfigError unless extractors and their weights' files are right.

  Names must be known, and weights be given, by name, for all that need them.
  """
  if not names:
    raise ConfigError(f"no features; choose from {', '.join(EXTRACTORS)}")
  for name in (*names, *weights):
    _check_name(name, EXTRACTORS)
  published = PUBLISHED.keys() & names
  for name in sorted(published - weights.keys()):
    raise ConfigError(
      f"features {name!r} need the published network's weights: "
      f"--weights={name}=FILE"
    )
  for name in sorted(weights.keys() - published):
    raise ConfigError(
      f"--weights={name}=...: --features has no {name!r} to use them"
    )


def _check_name(name: str, known: Mapping[str, object]) -> None:
  if name not in known:
    raise ConfigError(f"unknown features {name!r}; {errors.hint(name, known)}")


def make(names: Sequence[str], source: Source) -> list[Extractor]:
  """Makes extractors that `check` has accepted, on all processes together.

  Raises:
    UserError: weights cannot be read, or a classifier cannot be trained.
  """
  return [EXTRACTORS[name](source) for name in names]


def load(name: str, path: str | os.PathLike[str]) -> Extractor:
  """Loads the extractor of a published network, a key of `PUBLISHED`.

  The file is a `.pth` (a state dict), a `.pkl` (NVIDIA's) or a `.safetensors`;
  nothing in it is executed.

  Raises:
    ConfigError: the name is unknown.
    UserError: the file is missing, damaged or another network's; the message
      says what to fetch.
  """
  _check_name(name, PUBLISHED)
  network, path = PUBLISHED[name], pathlib.Path(path).expanduser()
  fetch = f"fetch {network.URL} and give it by --weights={name}=FILE"
  if not path.is_file():
    raise UserError(f"no weights of {name!r} at {path}: {fetch}")
  try:
    return network.extractor(state_dict.read(path), name)
  except UserError as error:
    raise UserError(f"{error}; {fetch}") from error
  except Misfit as error:
    raise UserError(
      f"{path} is not the network of {name!r}: {error}; {fetch}"
    ) from error


def convert(
  name: str, source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> None:
  """Writes a file's tensors as safetensors, under the names that they have.

  The source is checked as `load` checks it.

  Raises:
    ConfigError: the name is unknown, or `target` is not a safetensors file.
    UserError: `source` cannot be used, or `target` cannot be written.
  """
  if pathlib.Path(target).suffix != ".safetensors":
    raise ConfigError(f"{target} does not end in .safetensors")
  source, data = pathlib.Path(source).expanduser(), io.BytesIO()
  load(name, source)
  safetensors.write(data, state_dict.read(source), {"format": "pt"})
  files.write_bytes(target, data.getvalue())
