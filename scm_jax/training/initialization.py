"""The weights that a run begins from: a teacher's, or another run's."""

import json
import logging
from typing import Any

import jax
from etils import epath
from flax import traverse_util

from scm_jax import errors, files, networks
from scm_jax.defaults import Run
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import export_folder, imitation, partial_restore
from scm_jax.sampler import Sampler
from scm_jax.training import resolve, workdir
from scm_jax.training.checkpoints import checksum, storage
from scm_jax.training.ema import snapshots
from scm_jax.training.step import extra_config


def load_teacher(
  config: Run,
  path: epath.Path,
  begun: bool,
  where: workdir.Where = None,
) -> Sampler | None:
  """Loads the teacher of a run and its guide, which must not change meanwhile.

  Its checksum is written into the workdir `path` at the start, because a run
  that has `begun`, and goes on with other weights, would silently train another
  student. `where` gives the shardings to read into; see `workdir.load_stored`.

  Raises:
    ConfigError: its network does not fit, or its weights have changed.
    UserError: one of them cannot be read.
  """
  if not config.teacher:
    return None
  stored = workdir.load_stored(config.teacher, config.teacher_ema, where)
  teacher = stored.model
  if teacher.kind != (kind := config.spec.teacher_kind):
    raise ConfigError(f"{config.teacher} is not a {kind} teacher's workdir")
  weak = {}
  if config.guide:
    folder = _guide_folder(config)
    try:
      guide = workdir.load_guide(folder, config.guide_ema, where)
      stored = workdir.guided_by(stored, guide)
    except UserError as error:
      raise type(error)(f"config.guide={config.guide}: {error}") from None
    teacher, weak = stored.model, {"guide": _seen(folder, guide)}
  check_teacher(config, teacher)
  seen = _seen(config.teacher, stored) | weak
  seen["checksum"] = _checksum(stored)
  record = path / workdir.TEACHER
  if not begun or not record.exists():
    if begun:
      logging.warning(
        f"{record} is missing, so that nothing tells whether the run began "
        f"with this teacher; it goes on with {config.teacher}"
      )
    if jax.process_index() == 0:
      files.write_text(record, json.dumps(seen, indent=2) + "\n")
  elif (old := _begun_with(record))["checksum"] != seen["checksum"]:
    kept = epath.Path(config.teacher) / storage.FOLDER / str(old["step"])
    went_on = old["step"] != seen["step"] and kept.exists()
    same = f"go on with --config.teacher={kept}, or " if went_on else ""
    before, now = _described(old), _described(seen)
    steps = f" (its step was {before}; now {now})" if before != now else ""
    raise ConfigError(
      f"the teacher {config.teacher} has changed since this run began{steps}; "
      f"{same}choose another --workdir"
    )
  return teacher


def _begun_with(record: epath.Path) -> dict[str, Any]:
  """Returns the entry of `teacher.json` that a run began with."""
  with errors.reading(record):
    found = json.loads(record.read_text())
    found["checksum"], found["step"], found["ema"]
    return found


def _guide_folder(config: Run) -> str:
  """Returns the folder of `config.guide`; `snapshots/STEP` is the teacher's.

  Raises:
    ConfigError: the teacher is an export, which has no snapshots.
  """
  if not config.guide.startswith(f"{snapshots.FOLDER}/"):
    return config.guide
  if export_folder.description(config.teacher):
    raise ConfigError(
      f"config.guide={config.guide} names a snapshot of the teacher, but "
      f"{config.teacher} is an export, which has none; leave config.guide "
      "empty for classifier-free guidance, or give another folder"
    )
  own, _ = workdir.at_checkpoint(config.teacher)
  return str(own / config.guide)


def _seen(folder: str, stored: workdir.Stored) -> dict[str, Any]:
  """Returns where a network is from, for `teacher.json`."""
  about = stored.about
  return {"workdir": folder, "step": about["step"], "ema": about["ema"]}


def _described(seen: dict[str, Any]) -> str:
  """Returns an entry of `teacher.json` as a part of a message."""
  text = f"{seen['step']}, average {seen['ema']}"
  if guide := seen.get("guide"):
    text += f", guided by {guide['workdir']} at step {_described(guide)}"
  return text


def _checksum(stored: workdir.Stored) -> int:
  """Returns the checksum of a teacher's weights and its guidance network's.

  The teacher's weights count as they are stored, the guidance network's as they
  are used. The value does not depend on the mesh: the latter, which end in
  other bits in shards, are normalised one by one on one device for it.
  """
  value = checksum.of(stored.average)
  guide = stored.guide
  if guide is None or guide.average is guide.model.params:
    return checksum.of(guide and guide.average, value)
  config = resolve.resolve(guide.about["config"])
  for path, leaf in jax.tree_util.tree_leaves_with_path(guide.average):
    alone = {path[-1].key: checksum.fetch(leaf)}
    alone = resolve.constrained(config, alone)
    value = checksum.of(jax.device_get(alone), value)
  return value


def load_start(
  config: Run, teacher: Sampler | None, where: workdir.Where = None
) -> Any:
  """Loads the parameters that a new run begins with; None draws them all.

  The student's are those of `config.start`, or else of the teacher. Those of
  the objective's other networks, under their names, are the teacher's too, or
  those of an adapted teacher that the run starts from, whose layers may be
  others. Parameters that these lack are drawn. `where` gives the shardings to
  read into; see `workdir.load_stored`.

  Raises:
    ConfigError: its network does not fit.
  """
  start, first, folder = {}, teacher, config.teacher
  if config.start:
    model = workdir.load_stored(config.start, 0.0, where).model
    check_data(config, model, config.start)
    start = weights(config, model, config.start, where)
    if teacher and model.kind == teacher.kind:
      first, folder = model, config.start  # it answers as the teacher does
  elif teacher:
    start = weights(config, teacher, config.teacher, where)
  extra = {
    name: weights(extra_config(config, name), first, folder, where)
    for name, other in config.spec.extra.items()
    if first and other.from_teacher
  }
  return start | extra or None


def check_teacher(config: Run, model: Sampler) -> None:
  """Raises ConfigError for a teacher that does not fit a run."""
  folder = config.teacher
  check_data(config, model, folder)
  if not config.start:
    _transfer(config, model, folder)  # for what it may refuse
  if not config.asks_teacher:
    return
  if added := model.network.config.added_inputs:
    raise ConfigError(
      f"the teacher {folder} takes {' and '.join(added)} as an input, "
      f"which config.run={config.run} does not give it; choose one without"
    )
  guided = config.objective.guidance != "none"
  if guided and (why := model.guidance_refusal()):
    raise ConfigError(
      f"config.objective.guidance is {config.objective.guidance!r}, but the "
      f"teacher {folder} cannot be guided: {why}"
    )


def check_data(config: Run, model: Sampler, folder: str) -> None:
  """Raises ConfigError unless a model was trained on a run's kind of data.

  The model is the run's teacher, or that of the workdir that it starts from.
  """
  theirs, ours = model.network.config, config.network
  for field in ("resolution", "in_channels", "num_classes"):
    a, b = getattr(theirs, field), getattr(ours, field)
    if a != b:
      raise ConfigError(
        f"the network of {folder} does not fit this one: {field} is {a} there "
        f"and {b} here; give both the same config.network and config.data"
      )
  theirs, ours = model.codec, config.codec
  if theirs != ours:
    raise ConfigError(
      f"the network of {folder} was trained on data scaled as {theirs}, this "
      f"run scales it as {ours}"
    )


def weights(
  config: Run, model: Sampler, folder: str, where: workdir.Where = None
) -> dict[str, Any]:
  """Returns the parameters that a run takes from a model; the rest is drawn.

  Raises:
    ConfigError: their networks differ in more than form and guidance.
  """
  params, report = _transfer(config, model, folder)
  fitted = imitation.imitate(
    model.params, model.network.config, config.network, fetch=checksum.fetch
  )
  if fitted:
    fitted = _in_place(fitted, where)
    flat = traverse_util.flatten_dict(params) | fitted
    params = traverse_util.unflatten_dict(flat)
    report = report.with_fitted({"/".join(path) for path in fitted})
  if report.fresh or report.unused:
    logging.info("weights of %s:\n%s", folder, report)
  if config.objective.reset_weighting:
    params.pop("weighting", None)
  elif "weighting" not in params:
    raise ConfigError(
      f"config.objective.reset_weighting is false, but the weighting head of "
      f"{folder} is of another kind than config.network.weighting="
      f"{config.network.weighting}; give the kind of {folder}, or true"
    )
  return params


def _in_place(
  fitted: dict[imitation.Path, Any], where: workdir.Where
) -> dict[imitation.Path, Any]:
  """Puts arrays of this host into the shards that `where` gives."""
  if where is None:
    return fitted
  whole = {path: checksum.fetch(leaf) for path, leaf in fitted.items()}
  like = where(traverse_util.unflatten_dict(whole))
  return {
    path: jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda part, x=whole[path]: x[part]
    )
    for path, leaf in traverse_util.flatten_dict(like).items()
  }


def _transfer(
  config: Run, model: Sampler, folder: str
) -> tuple[dict[str, Any], partial_restore.Report]:
  source, target = model.network.config, config.network
  if type(source) is not type(target):
    raise ConfigError(
      f"the teacher {folder} and this network are of different families; give "
      "both the same config.network.family"
    )
  forms = networks.FAMILIES[networks.family_name(target)].forms
  if source.published != target.published and not forms.sign:
    raise ConfigError(
      f"the network of {folder} is of the form {source.form!r}, from which one "
      f"of {target.form!r} cannot start; set --config.network.form="
      f"{source.form}"
    )
  # An adaptation gives the weights their function again.
  adapts = config.spec.kind == "diffusion" and config.asks_teacher
  for field in forms.same:
    theirs, ours = getattr(source, field), getattr(target, field)
    if theirs != ours and not adapts:
      raise ConfigError(
        f"the network of {folder} has {field}={theirs}, with which its weights "
        f"are another function than with {ours}; start from a run that adapted "
        "it (--config=adapt:run=teacher) by --config.start=WORKDIR, or set "
        f"--config.network.{field}={theirs}"
      )
  params, report = partial_restore.restore(model.params, source, target)
  if report.misfits:
    added = [f"emb_{name}" for name in target.added_inputs]
    raise ConfigError(
      f"the network of {folder} does not fit this one: {report.misfits[0]}; "
      "give both the same config.network and config.data"
      + f" (layers {' and '.join(added)} alone may be missing there)"
      * bool(added)
    )
  return params, report
