"""The file that holds all results and the state of every part."""

import json
import pathlib
from typing import Any

from scm_jax import errors, files
from scm_jax.errors import ConfigError

FILE = "accelerator.json"
# States of a part: all results are there; an error ended it; time did; it lacks
# packages.
DONE, FAILED, CUT, IMPOSSIBLE = "done", "failed", "cut short", "impossible"


class Record:
  """The results of all calls, written after every change.

  Attributes:
    parts: by name, `state`, `seconds`, `results` (by key) and, where it failed
      or is impossible, `why`.
  """

  def __init__(self, folder: pathlib.Path, tiny: bool):
    """Reads the results of earlier calls.

    Raises:
      ConfigError: they are of other sizes, of which `tiny` are the smallest.
      UserError: the file is damaged.
    """
    self._path, self._tiny = folder / FILE, tiny
    self.parts: dict[str, dict[str, Any]] = {}
    if not self._path.exists():
      return
    with errors.reading(self._path):
      found = json.loads(self._path.read_text())
      self.parts = found["parts"]
    if found.get("tiny", tiny) != tiny:
      raise ConfigError(
        f"{self._path} has the results of a run {'without' if tiny else 'with'}"
        " --tiny; choose another --out"
      )

  def part(self, name: str) -> dict[str, Any]:
    """Returns the entry of a part, which may be changed before `write`."""
    empty = {"state": CUT, "seconds": 0.0, "results": {}}
    return self.parts.setdefault(name, empty)

  def results(self, name: str) -> dict[str, Any]:
    """Returns a part's results by key; none of a part that was not begun."""
    return self.parts.get(name, {}).get("results", {})

  def write(self) -> None:
    """Replaces the file at once, so that a reader never sees half of it."""
    text = json.dumps({"tiny": self._tiny, "parts": self.parts}, indent=1)
    files.write_text(self._path, text + "\n")

  def state(self, name: str) -> str | None:
    """Returns a part's state; None of a part that was not begun."""
    return self.parts.get(name, {}).get("state")

  def remaining(self, names: list[str]) -> list[str]:
    """Returns the parts that are not done: those that failed come last."""
    left = [name for name in names if self.state(name) != DONE]
    return sorted(left, key=lambda name: self.state(name) == FAILED)

  def failures(self) -> list[str]:
    """Returns the parts that failed, and the checks that did not pass."""
    found = [n for n, part in self.parts.items() if part["state"] == FAILED]
    return found + [
      f"{name}: {key}"
      for name, part in self.parts.items()
      for key, value in part["results"].items()
      if isinstance(value, dict) and value.get("passed") is False
    ]
