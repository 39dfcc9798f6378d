"""How reports name and draw objectives, those of newer versions included."""

from collections.abc import Iterable
from typing import NamedTuple

from scm_jax.objectives import OBJECTIVES

# For names that the registry does not have, in the order in which they appear.
_SPARE = (("#009E73", "^"), ("#CC79A7", "v"), ("#E69F00", "P"))


class Appearance(NamedTuple):
  """The name, the colour and the marker of an objective in reports."""

  label: str
  color: str
  marker: str


def appearances(names: Iterable[str]) -> dict[str, Appearance]:
  """Returns the appearance of every objective, registered or not."""
  result: dict[str, Appearance] = {}
  for name in dict.fromkeys(names):
    result[name] = Appearance(name, *_SPARE[len(result) % len(_SPARE)])
    if spec := OBJECTIVES.get(name):
      result[name] = Appearance(spec.label, spec.color, spec.marker)
  return result


def is_teacher(name: str) -> bool:
  """Returns whether an objective trains teachers."""
  return name in OBJECTIVES and OBJECTIVES[name].kind == "diffusion"


def rank(name: str) -> int:
  """Returns an objective's place in legends; unregistered ones come last."""
  return [*OBJECTIVES, name].index(name)


def series_title(name: str, steps: int | None, nfe: int | None) -> str:
  """Returns what a reader is shown: `sCD, 2 steps`, or `teacher, 63 NFE`."""
  if is_teacher(name) or steps is None:
    sampler = "–" if nfe is None else f"{nfe} NFE"
  else:
    sampler = f"{steps} step{'s' * (steps > 1)}"
  return f"{appearances([name])[name].label}, {sampler}"
