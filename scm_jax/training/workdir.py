"""A workdir: everything a run leaves behind, and all that later tasks need."""

import json
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from scm_jax import configuration, files, networks
from scm_jax.errors import ConfigError, UserError
from scm_jax.model import Model
from scm_jax.training import build, checkpoint, ema

CONFIG, TEACHER, METRICS = "config.json", "teacher.json", "metrics.jsonl"

# What may differ between a run's start and its continuation: how long, how
# often and where; never what is computed at a step. The teacher's weights are
# held to be the same by their checksum, wherever they lie.
MAY_CHANGE = (
  "total_steps",
  "log_every",
  "checkpoint_every",
  "sample_every",
  "keep_checkpoints",
  "keep_every",
  "divergence_limit",
  "profile",
  "sample",
  "teacher",
  "data.data_dir",
)


def open_for(config: ConfigDict, folder: str) -> epath.Path:
  """Makes a workdir for a run, or checks that it is this run's.

  Raises:
    ConfigError: it belongs to another config; the message says what differs.
    UserError: it cannot be written.
  """
  path = epath.Path(folder).resolve()
  try:
    path.mkdir(parents=True, exist_ok=True)
    if (path / CONFIG).exists():
      _check_same(load_config(path), config, path)
  except OSError as error:
    raise UserError(
      f"the workdir {path} cannot be written ({error.strerror or error})"
    ) from error
  return path


def write_config(path: epath.Path, config: ConfigDict) -> None:
  """Writes the resolved config, from when on the workdir is this run's.

  Raises:
    UserError: it cannot be written.
  """
  files.write_text(path / CONFIG, configuration.to_json(config))


def _check_same(old: ConfigDict, new: ConfigDict, path: epath.Path) -> None:
  differences = [
    line
    for line in configuration.diff(old, new)
    if not _may_change(line.partition(":")[0])
  ]
  if differences:
    # The run and its seed before the details of groups.
    differences.sort(key=lambda line: "." in line.partition(":")[0])
    shown, rest = differences[:4], len(differences[4:])
    if rest:
      shown.append(f"and {rest} more")
    raise ConfigError(
      f"the workdir {path} belongs to another config ({'; '.join(shown)}); "
      "choose another --workdir"
    )


def _may_change(field: str) -> bool:
  return any(field == f or field.startswith(f + ".") for f in MAY_CHANGE)


def load_config(path: epath.PathLike) -> ConfigDict:
  """The config of a workdir.

  Raises:
    UserError: there is none, or it is damaged.
  """
  file = epath.Path(path) / CONFIG
  if not file.exists():
    raise UserError(f"{path} is not a workdir: it has no {CONFIG}")
  try:
    return configuration.from_json(file.read_text())
  except UserError as error:
    raise UserError(f"{file} is damaged: {error}") from error


def load(path: epath.PathLike, sigma_rel: float = 0.0) -> tuple[Model, dict]:
  """The model of a workdir, at its newest checkpoint.

  Args:
    path: the workdir.
    sigma_rel: which average of the weights; 0 is the config's first.

  Returns:
    The model, and a dict with `config`, `step` and `ema`.

  Raises:
    UserError: no workdir, no checkpoint, or no such average.
  """
  average, about = _load_average(path, sigma_rel)
  return build.model(about["config"], average), about


def _load_average(path, sigma_rel) -> tuple[Any, dict]:
  """What `load` loads, as it was saved."""
  config = load_config(path)
  name = ema.name(sigma_rel or config.ema[0])
  names = [ema.name(s) for s in config.ema]
  if name not in names:
    raise UserError(
      f"{path} keeps no average of width {sigma_rel}; it has {', '.join(names)}"
    )
  network = networks.build(build.network_config(config))
  params = jax.eval_shape(network.init, jax.random.key(0))
  if not (epath.Path(path) / checkpoint.FOLDER).exists():
    raise UserError(f"{path} has no checkpoint yet; train first")
  checkpoints = checkpoint.Checkpoints(path, reading=True)
  averages, step = checkpoints.restore_ema({n: params for n in names})
  checkpoints.close()
  return averages[name], {"config": config, "step": step, "ema": name}


def load_teacher(
  config: ConfigDict, path: epath.Path, begun: bool
) -> Model | None:
  """The teacher of a run, held to be the same for the run's whole life.

  Its checksum is written at the start; a continuation with other weights would
  silently train another student.

  Args:
    config: of the run.
    path: its workdir.
    begun: whether the run continues from a checkpoint.

  Raises:
    ConfigError: its network does not fit, or its weights have changed.
  """
  if not config.teacher:
    return None
  average, about = _load_average(config.teacher, config.teacher_ema)
  teacher = build.model(about["config"], average)
  if teacher.consistency:
    raise ConfigError(f"{config.teacher} is not a diffusion teacher's workdir")
  _check_fits(config, teacher)
  seen = {
    "workdir": config.teacher,
    "step": about["step"],
    "ema": about["ema"],
    "checksum": checksum(average),
  }
  record = path / TEACHER
  if not begun or not record.exists():
    files.write_text(record, json.dumps(seen, indent=2) + "\n")
  elif (old := json.loads(record.read_text()))["checksum"] != seen["checksum"]:
    raise ConfigError(
      f"the teacher {config.teacher} has changed since this run began (its "
      f"step was {old['step']}, average {old['ema']}; now {seen['step']}, "
      f"{seen['ema']}); choose another --workdir"
    )
  return teacher


def _check_fits(config: ConfigDict, teacher: Model) -> None:
  student = networks.build(build.network_config(config))
  wanted = _leaf_shapes(jax.eval_shape(student.init, jax.random.key(0)))
  has = _leaf_shapes(teacher.params)
  for name in sorted(wanted.keys() | has.keys()):
    if "emb_guidance" in name or wanted.get(name) == has.get(name):
      continue
    raise ConfigError(
      f"the teacher {config.teacher} does not fit this network: {name} is "
      f"{has.get(name, 'missing')} there and {wanted.get(name, 'missing')} "
      "here; give both the same config.network and config.data"
    )
  theirs, ours = teacher.codec, build.codec(config)
  if theirs != ours:
    raise ConfigError(
      f"the teacher {config.teacher} was trained on data scaled as {theirs}, "
      f"this run scales it as {ours}"
    )


def _leaf_shapes(params: Any) -> dict[str, tuple[int, ...]]:
  leaves = traverse_util.flatten_dict(params["denoiser"], sep="/")
  return {name: leaf.shape for name, leaf in leaves.items()}


def checksum(params: Any) -> int:
  """A checksum of all parameters' bytes."""
  value = 0
  for leaf in jax.tree.leaves(params):
    value = zlib.crc32(np.asarray(leaf).tobytes(), value)
  return value
