"""Where a record comes from: its training's folder, repetitions and teacher.

All is read from the `config.json` of the training. Where that is out of reach,
as when reports were copied without their runs, names of folders have to do.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from scm_jax import configuration, files

_SEED = re.compile(r"(?i)[_.\- ]?seed[=_\- ]?\d+")


class Origins:
  """Finds trainings' folders and reads each config once."""

  def __init__(self) -> None:
    self._configs: dict[str, dict[str, Any] | None] = {}

  def find(self, workdir: str, report: epath.Path) -> dict[str, Any]:
    """Returns where a record comes from, as fields of `score_table.Entry`.

    Args:
      workdir: the folder that the record names, often relative to where
        `evaluate` ran.
      report: the file that the record is in.
    """
    if not workdir:
      return {}
    folder = self._folder(workdir, report)
    config = self._config(folder)
    if config is None:
      return {"training": folder, "repeats": without_seed(folder)}
    teacher = str(config.get("teacher") or "")
    data = config.get("data")
    return {
      "training": folder,
      "teacher": teacher and self._folder(teacher, report),
      "dataset": str(data.get("name", "")) if isinstance(data, Mapping) else "",
      "repeats": self._repeats(config, report),
      "method": json.dumps(config.get("objective"), sort_keys=True),
    }

  def _repeats(self, config: Mapping[str, Any], report: epath.Path) -> str:
    """Returns what trainings that differ only in their seeds have in common."""
    kept = {
      field: value
      for field, value in configuration.flatten(config).items()
      if field != "seed" and not configuration.may_change(field)
    }
    if teacher := str(config.get("teacher") or ""):
      folder = self._folder(teacher, report)
      own = self._config(folder)
      # A teacher is trained without one, so this goes no deeper.
      known = own is not None and not own.get("teacher")
      kept["teacher"] = (
        self._repeats(own or {}, report) if known else without_seed(folder)
      )
    return json.dumps(kept, sort_keys=True)

  def _folder(self, workdir: str, report: epath.Path) -> str:
    """Returns a run's folder on this machine, or its name if there is none."""
    parts = epath.Path(workdir).parts
    places = [epath.Path(workdir)]
    for home in (report.parent, report.parent.parent):
      places += [home.joinpath(*parts[-n:]) for n in range(len(parts), 0, -1)]
    for place in places:
      if self._config(str(place)) is not None:
        return files.absolute(place)
    return workdir

  def _config(self, folder: str) -> dict[str, Any] | None:
    """Returns a run's config, or None where there is none to be read."""
    if folder not in self._configs:
      try:
        found = json.loads((epath.Path(folder) / "config.json").read_text())
      except (OSError, ValueError):
        found = None
      self._configs[folder] = found if isinstance(found, dict) else None
    return self._configs[folder]


def without_seed(name: str) -> str:
  """Returns `runs/scd_16_seed=2` or `runs/seed_2/scd` without the seed."""
  return _SEED.sub("", name)


def short_names(folders: list[str]) -> list[str]:
  """Returns each folder's last part, or as many as tell it from the others."""
  parts = [[part for part in folder.split("/") if part] for folder in folders]

  def shorten(own: list[str]) -> str:
    others = [other for other in parts if other != own]
    for count in range(1, len(own)):
      if all(other[-count:] != own[-count:] for other in others):
        return "/".join(own[-count:])
    return "/".join(own)

  return [shorten(own) for own in parts]
