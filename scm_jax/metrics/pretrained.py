"""Published feature networks by name, with weights from the user's file.

Nothing is downloaded: a message says what to fetch. The name also says how
images are resized, because scores of different conventions are not comparable.
"""

import io
import os
import pathlib
from types import ModuleType

from scm_jax import errors, files
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import safetensors, state_dict
from scm_jax.interop.state_dict import Misfit
from scm_jax.metrics import dinov2, dinov2_weights, inception, inception_weights
from scm_jax.metrics.extractor import Extractor

NAMES = (*inception.NAMES, *dinov2.NAMES)


def load(name: str, path: str | os.PathLike[str]) -> Extractor:
  """Loads the extractor of a published network.

  Args:
    name: one of `NAMES`; `inception` and `dinov2` resize as EDM2 does.
    path: the weights' file: `.pth` (a state dict), `.pkl` (NVIDIA's) or
      `.safetensors`. Nothing in it is executed.

  Raises:
    ConfigError: the name is unknown.
    UserError: the file is missing, damaged or another network's; the message
      says what to fetch.
  """
  return _load(name, pathlib.Path(path).expanduser())[0]


def convert(
  name: str,
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
) -> None:
  """Writes a file's tensors as safetensors, under the names that they have.

  The new file appears whole or not at all.

  Args:
    name: one of `NAMES`.
    source: the weights' file, which is checked as `load` checks it.
    target: the path of the new file.

  Raises:
    ConfigError: the name is unknown, or `target` is not a safetensors file.
    UserError: `source` cannot be used, or `target` cannot be written.
  """
  if pathlib.Path(target).suffix != ".safetensors":
    raise ConfigError(f"{target} does not end in .safetensors")
  _, tensors = _load(name, pathlib.Path(source).expanduser())
  data = io.BytesIO()
  safetensors.write(data, tensors, {"format": "pt"})
  files.write_bytes(target, data.getvalue())


def _load(
  name: str, path: pathlib.Path
) -> tuple[Extractor, state_dict.Tensors]:
  weights = _module(name)
  fetch = f"{weights.FETCH} and give it by --weights={name}=FILE"
  if not path.is_file():
    raise UserError(f"no weights of {name!r} at {path}: {fetch}")
  try:
    tensors = state_dict.read(path)
    return weights.extractor(tensors, name), tensors
  except UserError as error:
    raise UserError(f"{error}; {fetch}") from error
  except Misfit as error:
    raise UserError(
      f"{path} is not the network of {name!r}: {error}; {fetch}"
    ) from error


def _module(name: str) -> ModuleType:
  if name not in NAMES:
    raise ConfigError(f"unknown features {name!r}; {errors.hint(name, NAMES)}")
  return inception_weights if name in inception.NAMES else dinov2_weights
