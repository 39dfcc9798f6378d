"""What a run begins from: a teacher's weights, or another run's."""

import logging
from typing import Any

from ml_collections import ConfigDict

from scm_jax.errors import ConfigError
from scm_jax.interop import transfer
from scm_jax.model import Model
from scm_jax.training import build


def check_teacher(config: ConfigDict, model: Model, theirs: ConfigDict) -> None:
  """Raises ConfigError for a teacher that is not one for a run.

  Args:
    config: of the run.
    model: the teacher.
    theirs: its config.
  """
  folder = config.teacher
  if not config.start:
    _transfer(config, model, folder)  # for what it may refuse
  check_data(config, model, folder)
  if not build.asks_teacher(config) or config.objective.guidance == "none":
    return
  if not (model.guide or config.data.num_classes):
    raise ConfigError(
      f"config.objective.guidance is {config.objective.guidance!r}, but the "
      f"teacher {folder} takes no labels and has no guide"
    )
  if not (model.guide or theirs.objective.label_dropout):
    raise ConfigError(
      f"config.objective.guidance is {config.objective.guidance!r}, but the "
      f"teacher {folder} was always given labels, and has no guide"
    )


def check_data(config: ConfigDict, model: Model, folder: str) -> None:
  """Raises ConfigError unless a model's data are a run's.

  Args:
    config: of the run.
    model: its teacher, or what it starts from.
    folder: the model's workdir, for the message.
  """
  theirs, ours = model.network.config, build.network_config(config)
  for field in ("resolution", "in_channels", "num_classes"):
    a, b = getattr(theirs, field), getattr(ours, field)
    if a != b:
      raise ConfigError(
        f"the teacher {folder} does not fit this network: {field} is {a} there "
        f"and {b} here; give both the same config.network and config.data"
      )
  theirs, ours = model.codec, build.codec(config)
  if theirs != ours:
    raise ConfigError(
      f"the teacher {folder} was trained on data scaled as {theirs}, this run "
      f"scales it as {ours}"
    )


def weights(config: ConfigDict, model: Model, folder: str) -> dict[str, Any]:
  """The parameters that a run takes from a model; the rest is drawn.

  Raises:
    ConfigError: their networks differ in more than form and guidance.
  """
  params, report = _transfer(config, model, folder)
  if report.fresh or report.unused:
    logging.info("weights of %s:\n%s", folder, report)
  if config.objective.reset_weighting:
    params.pop("weighting", None)
  return params


def _transfer(
  config: ConfigDict, model: Model, folder: str
) -> tuple[dict[str, Any], transfer.Transfer]:
  source, target = model.network.config, build.network_config(config)
  if type(source) is not type(target):
    raise ConfigError(
      f"the teacher {folder} and this network are of different families; give "
      "both the same config.network.family"
    )
  params, report = transfer.start(model.params, source, target)
  if report.misfits:
    raise ConfigError(
      f"the teacher {folder} does not fit this network: {report.misfits[0]}; "
      "give both the same config.network and config.data"
    )
  return params, report
