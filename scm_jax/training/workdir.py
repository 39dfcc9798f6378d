"""A workdir: everything a run leaves behind, and all that later tasks need."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from scm_jax import configuration, errors, files, networks
from scm_jax.defaults import get_defaults
from scm_jax.errors import UserError
from scm_jax.interop import autoencoder as autoencoders
from scm_jax.interop import export_folder
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler
from scm_jax.training import resolve
from scm_jax.training.checkpoints import best, storage
from scm_jax.training.ema import averaging, loading, snapshots

CONFIG, TEACHER, METRICS = "config.json", "teacher.json", "metrics.jsonl"
ORIGIN = "origin.json"  # in a workdir of EMA weights alone
GUIDE = "guide"  # a workdir inside one: of the network that guides its own

# From a tree of shapes to the same tree with shardings: where to read it to.
# None stands for the first device of every process.
Where = Callable[[Any], Any] | None


class Stored(NamedTuple):
  """A model as a folder holds it.

  Attributes:
    model: the sampler, on its network's constraint, without an autoencoder.
    about: `config`, `step` and `ema`; and `source`, the content of
      `origin.json`, if the weights are from elsewhere.
    average: the EMA weights as stored; an export's are the model's own.
    guide: the network that guides it, if it has one.
  """

  model: Sampler
  about: dict[str, Any]
  average: Any
  guide: "Stored | None" = None


def load_config(path: epath.PathLike) -> ConfigDict:
  """Reads the config of a workdir, or of the run that an export comes from.

  Fields that did not exist when it was written have their defaults.

  Args:
    path: the workdir, one of its checkpoints (`DIR/checkpoints/STEP`) or
      snapshots (`DIR/snapshots/STEP`), or the export's folder.

  Raises:
    UserError: there is none, it is damaged, or its objective or network comes
      from a package that is not installed.
  """
  config = _read_config(path)
  if "run" not in config:
    raise UserError(f"{path} is not a workdir: its {CONFIG} is not a run's")
  family = config.get("network", {}).get("family", "unet")
  for name, known in ((config.run, OBJECTIVES), (family, networks.FAMILIES)):
    if name not in known:
      raise UserError(
        f"{path} is a run of {name!r}, which nothing that is installed here "
        "has; install the package that adds it (docs/extending.md)"
      )
  return configuration.complete(config, get_defaults(config.run, family))


def _read_config(path: epath.PathLike) -> ConfigDict:
  if exported := export_folder.description(path):
    return configuration.from_json(json.dumps(exported["training"]))
  path, _ = at_checkpoint(path)
  file = path / CONFIG
  if not file.exists():
    raise UserError(f"{path} is not a workdir: it has no {CONFIG}")
  try:
    return configuration.from_json(file.read_text())
  except (UserError, UnicodeDecodeError) as error:
    raise UserError(f"{file} is damaged: {error}") from error


def at_checkpoint(path: epath.PathLike) -> tuple[epath.Path, int | None]:
  """Splits `DIR/checkpoints/STEP` into workdir and step, elsewhere None.

  A snapshot's folder, `DIR/snapshots/STEP`, is split likewise.
  """
  path = epath.Path(path)
  inside = path.parent.name in (storage.FOLDER, snapshots.FOLDER)
  if inside and path.name.isdigit():
    return path.parent.parent, int(path.name)
  return path, None


def results_folder(path: epath.PathLike) -> epath.Path:
  """Returns the folder in which results of a network are kept by default.

  That of a checkpoint, a snapshot or `best/`, which the training may remove or
  replace at any time, is their workdir.
  """
  folder, _ = at_checkpoint(path)
  is_best = folder.name == best.FOLDER and (folder / best.SCORE).exists()
  return folder.parent if is_best else folder


def load(
  path: epath.PathLike, average: float = 0.0, autoencoder: str | None = None
) -> tuple[Sampler, dict]:
  """Loads the sampler of a workdir, at its newest checkpoint, or of an export.

  Args:
    path: as in `load_config`.
    average: the EMA, by its number in `config.ema`; 0 is the first. Where there
      are snapshots, any relative width will do.
    autoencoder: the file that decodes samples of latents; "" draws small
      previews instead; None is the workdir's own.

  Returns:
    The sampler, and the dict `Stored.about`.

  Raises:
    UserError: there is no workdir, no checkpoint, no such EMA, or no
      autoencoder where there should be one.
  """
  stored = load_stored(path, average)
  if autoencoder is None and export_folder.description(path):
    autoencoder = export_folder.autoencoder(path)
  elif autoencoder is None:
    autoencoder = stored.about["config"].data.autoencoder
  return autoencoders.attach_file(stored.model, autoencoder), stored.about


def load_stored(
  path: epath.PathLike, average: float, where: Where = None
) -> Stored:
  """Loads what `load` does, without autoencoder, and the weights as stored.

  `where` gives the shardings that parameters are read into, those of the
  guidance network under `guide`; None is this process's first device. The other
  arguments and the errors are those of `load`.
  """
  if export_folder.description(path):
    return _load_export(path, average, where)
  params, about = _load_average(path, average, where)
  model = resolve.model(resolve.resolve(about["config"]), params)
  stored = Stored(model, about, params)
  folder = at_checkpoint(path)[0] / GUIDE
  if (folder / CONFIG).exists():
    stored = guided_by(stored, load_guide(folder, 0.0, where))
  return stored


def guided_by(stored: Stored, guide: Stored) -> Stored:
  """Returns a diffusion model that another one guides; see `Sampler.guided_by`.

  Raises:
    ConfigError: they do not fit.
  """
  return stored._replace(model=stored.model.guided_by(guide.model), guide=guide)


def _load_export(path: epath.PathLike, average: float, where: Where) -> Stored:
  model, origin = export_folder.read(path, where, average)
  config = load_config(path)
  about = {"config": config, "step": origin.step, "ema": origin.ema}
  if origin.source:
    about["source"] = origin.source
  guide = None
  if model.guidance_network:
    second = dataclasses.replace(
      model, network=model.guidance_network, params=model.guidance_params
    )
    guide = Stored(second, about, second.params)
  return Stored(model, about, model.params, guide)


def load_guide(path: epath.PathLike, average: float, where: Where) -> Stored:
  """Loads a model that guides another one; see `load_stored`.

  Its parameters are placed as those under `guide`.
  """
  if where is None:
    return load_stored(path, average)
  inside = lambda like: where({GUIDE: like})[GUIDE]
  return load_stored(path, average, inside)


def _load_average(path, average, where) -> tuple[Any, dict]:
  """Reads EMA weights, not yet on the constraint, and what they are."""
  config = load_config(path)
  average = average or config.ema[0]
  folder, step = at_checkpoint(path)
  like = param_shapes(config)
  if where:
    like = where(like)
  of_snapshot = epath.Path(path).parent.name == snapshots.FOLDER
  if of_snapshot and step is not None:
    found = loading.load_snapshot(folder, config, average, like, step)
  else:
    found = loading.load(folder, config, average, like, step)
  about = {
    "config": config,
    "step": found.step,
    "ema": averaging.name(average),
  }
  if (record := folder / ORIGIN).exists():
    with errors.reading(record):
      about["source"] = json.loads(record.read_text())
  return found.params, about


def param_shapes(config: ConfigDict) -> Any:
  """Returns shapes and types of the parameters of a run's network."""
  return networks.build(resolve.resolve(config).network).shapes


def check_free(folder: epath.PathLike) -> epath.Path:
  """Returns a folder's path, if there is no such folder or it is empty.

  Raises:
    UserError: the folder is not empty, or cannot be read.
  """
  path = epath.Path(files.absolute(folder))
  with errors.reading(path):
    if path.exists() and list(path.iterdir()):
      raise UserError(f"{path} is not empty; choose another --out")
  return path


def write_averages(
  folder: epath.PathLike,
  config: ConfigDict,
  kept: dict[str, Any],
  step: int,
  origin: dict[str, Any],
  beside: Callable[[epath.Path], Any] = lambda partial: None,
) -> epath.Path:
  """Makes a workdir that holds EMA weights, but no run to continue.

  It serves as a model, and as a teacher.

  Args:
    folder: where the workdir appears, whole or not at all; it may be empty.
    config: the workdir's config; its `ema` names the weights.
    kept: the EMA weights by name.
    step: the step of the run that the weights come from.
    origin: the content of `origin.json`, which says where they come from.
    beside: a function that writes other files into the unfinished folder.

  Raises:
    UserError: the folder is not empty or cannot be written.
  """
  path = check_free(folder)
  with files.replaced_folder(path) as partial:
    checkpoints = storage.Checkpoints(partial)
    try:
      checkpoints.save_ema(kept, step)
    finally:
      checkpoints.close()
    files.write_text(partial / ORIGIN, json.dumps(origin, indent=2) + "\n")
    whole = config.copy_and_resolve_references()
    files.write_text(partial / CONFIG, configuration.to_json(whole))
    beside(partial)
  return path
