"""Finds the file that `--config` names, and the configs that are shipped.

The shipped configs lie in the repository's folder `configs`, which a wheel
holds as `scm_jax/shipped/configs`. It is the only folder in `scm_jax/shipped`,
so that `from configs import common` works in both places, without a package
`configs` beside scm_jax.
"""

import pathlib
import re

import scm_jax
from scm_jax import errors
from scm_jax.errors import ConfigError

_NAME = re.compile(r"\w+")
_FOLDER = "configs"


def root() -> pathlib.Path:
  """Returns the folder that holds the folder `configs` of shipped configs."""
  package = pathlib.Path(scm_jax.__file__).parent
  shipped = package / "shipped"
  return shipped if shipped.is_dir() else package.parent


def names() -> list[str]:
  """Returns the names of the shipped configs, sorted."""
  files = (root() / _FOLDER).glob("*.py")
  # The others in the folder hold what several configs share.
  return sorted(f.stem for f in files if "\ndef get_config(" in f.read_text())


def find(config: str) -> str:
  """Returns the path of a config file.

  Args:
    config: a path, or a bare name such as `digits`. That is the file of this
      name if there is one, else `configs/digits.py` in the current folder, else
      the shipped config.

  Returns:
    The path as it was given, or the file that the name means. A path need not
    exist.

  Raises:
    ConfigError: there is no config of this name.
  """
  if not _NAME.fullmatch(config) or pathlib.Path(config).is_file():
    return config
  local = pathlib.Path(_FOLDER, f"{config}.py")
  if local.is_file():
    return str(local)
  shipped = names()
  if config in shipped:
    return str(root() / local)
  if pathlib.Path(config).exists():  # a folder, which the reader refuses
    return config
  near = errors.nearest(config, shipped)
  raise ConfigError(
    f"there is no config {config!r}; the shipped ones are {', '.join(shipped)}"
    + (f" (did you mean {near!r}?)" if near else "")
    + f"; give a file of your own by its path, such as ./{config}.py"
  )


def missing(path: str) -> str:
  """Returns the message about a path of a config file that does not exist."""
  text = f"there is no config file {path!r}"
  name, comma, argument = path.partition(",")
  if comma:
    return f"{text}; arguments follow a colon: {name}:{argument}"
  stem = pathlib.Path(path).stem
  neighbours = map(str, pathlib.Path(path).parent.glob("*.py"))
  if near := errors.nearest(path, neighbours):
    return f"{text}; did you mean {near!r}?"
  if stem in names():
    return f"{text}; the shipped config is --config={stem}"
  return text
