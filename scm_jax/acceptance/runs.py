"""The runs that are measured, and what is known of them beforehand.

`reference.json` has, for every config, its run and the fields that are no
defaults of that run (so that ml_collections is not needed), and what a CPU
computed; `reference` makes it.
"""

import functools
import json
import pathlib
from typing import Any

from scm_jax import defaults
from scm_jax.defaults import Run
from scm_jax.training import resolve

REFERENCE = pathlib.Path(__file__).with_name("reference.json")


class _Fields(dict):
  """A dict whose entries are attributes too, as those of a ConfigDict."""

  __getattr__ = dict.__getitem__

  def to_dict(self) -> dict[str, Any]:
    return self


@functools.cache
def reference() -> dict[str, Any]:
  """Returns what `reference.json` holds."""
  return json.loads(REFERENCE.read_text())


def digits(objective: str, tiny: bool) -> str:
  """Returns the name of a run on digits."""
  return f"configs/digits.py:run={objective}" + (",tiny" if tiny else "")


def imagenet(objective: str, size: str, tiny: bool) -> str:
  """Returns the name of a run on ImageNet's latents."""
  name = f"configs/imagenet512.py:run={objective},size={size}"
  return name + (",tiny" if tiny else "")


def run(name: str, **changes: Any) -> Run:
  """Returns the run that `--config=NAME` describes, from its stored fields.

  `changes` are other values of fields, by their dotted names.
  """
  changed = reference()["configs"][name] | changes
  fields = _Fields(defaults.get_fields(changed["run"]))
  fields["teacher"] = "random"  # its weights are drawn
  for group in (*defaults.GROUPS, "network", "objective"):
    fields[group] = _Fields(fields[group])
  for name, value in changed.items():
    group, _, field = name.rpartition(".")
    (fields[group] if group else fields)[field] = _tuples(value)
  return resolve.resolve(fields)


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
