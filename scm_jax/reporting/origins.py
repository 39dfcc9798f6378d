"""What a run's folder says of it: which runs repeat it, and its teacher.

All is read from `config.json`. Where that is out of reach, as when reports were
copied without their runs, names have to do.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from scm_jax import files

# What two trainings may differ in and yet repeat each other: the seed, and how
# and where they ran. The teacher is compared by what it is, not by its folder.
_ASIDE = (
  "seed",
  "teacher",
  "log_every",
  "checkpoint_every",
  "sample_every",
  "evaluate_every",
  "evaluate",
  "keep_checkpoints",
  "keep_every",
  "snapshot_every",
  "snapshot_dtype",
  "divergence_limit",
  "profile",
  "sample",
  "total_steps",  # a record has the step that it is of
  "mesh",
  "sharding",
  "offload",
  "watchdog",
)
_SEED = re.compile(r"(?i)[_.\- ]?seed[=_\- ]?\d+")


class Origin(NamedTuple):
  """Where a record comes from.

  Attributes:
    folder: of the training; "" where the record does not say.
    kin: the same for trainings that differ in nothing but their seeds.
    method: the same for trainings with the same objective; "" is unknown.
    teacher: folder of the teacher; "" is none, None unknown.
    dataset: "" is unknown.
  """

  folder: str
  kin: str
  method: str = ""
  teacher: str | None = None
  dataset: str = ""


class Origins:
  """Looks folders up, each of them once."""

  def __init__(self) -> None:
    self._configs: dict[str, dict[str, Any] | None] = {}

  def of(self, workdir: str, report: epath.Path) -> Origin:
    """The origin of a record.

    Args:
      workdir: as the record has it, often relative to where `evaluate` ran.
      report: the file in which the record is.
    """
    if not workdir:
      return Origin("", "")
    folder = self._find(workdir, report)
    config = self._config(folder)
    if config is None:
      return Origin(folder, without_seed(folder))
    teacher = str(config.get("teacher") or "")
    data = config.get("data")
    return Origin(
      folder=folder,
      kin=self._kin(config, report),
      method=json.dumps(config.get("objective"), sort_keys=True),
      teacher=teacher and self._find(teacher, report),
      dataset=str(data.get("name", "")) if isinstance(data, Mapping) else "",
    )

  def _kin(self, config: Mapping[str, Any], report: epath.Path) -> str:
    rest = {key: value for key, value in config.items() if key not in _ASIDE}
    teacher = str(config.get("teacher") or "")
    if teacher:
      folder = self._find(teacher, report)
      own = self._config(folder)
      # A teacher is trained without one, so this goes no deeper.
      known = own is not None and not own.get("teacher")
      rest["teacher"] = (
        self._kin(own or {}, report) if known else without_seed(folder)
      )
    return json.dumps(rest, sort_keys=True)

  def _find(self, workdir: str, report: epath.Path) -> str:
    """The folder on this machine; the name as it is if there is none."""
    parts = epath.Path(workdir).parts
    places = [epath.Path(workdir)]
    for home in (report.parent, report.parent.parent):
      places += [home.joinpath(*parts[-n:]) for n in range(len(parts), 0, -1)]
    for place in places:
      if self._config(str(place)) is not None:
        return files.absolute(place)
    return workdir

  def _config(self, folder: str) -> dict[str, Any] | None:
    if folder not in self._configs:
      self._configs[folder] = _read(epath.Path(folder) / "config.json")
    return self._configs[folder]


def without_seed(name: str) -> str:
  """`runs/scd_16_seed=2` and `runs/seed_2/scd` without the seed."""
  return _SEED.sub("", name)


def _read(file: epath.Path) -> dict[str, Any] | None:
  try:
    found = json.loads(file.read_text())
  except (OSError, ValueError):
    return None
  return found if isinstance(found, dict) else None
