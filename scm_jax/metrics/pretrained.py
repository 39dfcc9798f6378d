"""Published feature networks by name, with weights from the user's file.

Nothing is downloaded: a message says what to fetch. The name also says how
images are resized, since scores of different conventions are not comparable.
"""

import io
import os
import pathlib

from scm_jax import files, spelling
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import safetensors, state_dict
from scm_jax.interop.state_dict import Misfit
from scm_jax.metrics import dinov2, dinov2_weights, inception, inception_weights
from scm_jax.metrics.extractor import Extractor

NAMES = (*inception.NAMES, *dinov2.NAMES)


def load(name: str, path: str | os.PathLike[str]) -> Extractor:
  """The extractor of a published network.

  Args:
    name: of `NAMES`; `inception` and `dinov2` resize as EDM2 does.
    path: `.pth` (a state dict), `.pkl` (NVIDIA's) or `.safetensors`; read
      without executing anything.

  Raises:
    ConfigError: an unknown name.
    UserError: the file is missing, damaged or another network's; one line that
      says what to fetch.
  """
  weights = _module(name)
  path = pathlib.Path(path).expanduser()
  tensors = _read(name, path)
  try:
    return weights.extractor(tensors, name)
  except Misfit as error:
    raise UserError(
      f"{path} is not the network of {name!r}: {error}; {_fetch(name)}"
    ) from error


def convert(
  name: str,
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
) -> None:
  """Writes a file's tensors as safetensors, under the names they have.

  The file is checked as `load` checks it; the new one appears whole or not at
  all.

  Raises:
    ConfigError: an unknown name, or a target of another kind.
    UserError: as of `load`, or the target cannot be written.
  """
  if pathlib.Path(target).suffix != ".safetensors":
    raise ConfigError(f"{target} does not end in .safetensors")
  load(name, source)
  tensors = _read(name, pathlib.Path(source).expanduser())
  data = io.BytesIO()
  safetensors.write(data, tensors, {"format": "pt"})
  files.write_bytes(target, data.getvalue())


def _module(name: str):
  if name not in NAMES:
    raise ConfigError(
      f"unknown features {name!r}; {spelling.hint(name, NAMES)}"
    )
  return inception_weights if name in inception.NAMES else dinov2_weights


def _read(name: str, path: pathlib.Path) -> state_dict.Tensors:
  if not path.is_file():
    raise UserError(f"no weights of {name!r} at {path}: {_fetch(name)}")
  try:
    return state_dict.read(path)
  except UserError as error:
    raise UserError(f"{error}; {_fetch(name)}") from error


def _fetch(name: str) -> str:
  return f"{_module(name).FETCH} and give it by --weights={name}=FILE"
