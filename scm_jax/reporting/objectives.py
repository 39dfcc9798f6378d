"""How reports name and draw each objective."""

from collections.abc import Iterable
from typing import NamedTuple


class Objective(NamedTuple):
  """How an objective appears in reports.

  Attributes:
    label: the name that a reader is shown.
    color: a colour of Okabe and Ito's palette, which colour-blind readers can
      tell apart.
    marker: a matplotlib marker.
    kind: the sampler that its networks need, "diffusion" or "consistency".
  """

  label: str
  color: str
  marker: str
  kind: str


OBJECTIVES = {
  "teacher": Objective("teacher", "#333333", "s", "diffusion"),
  "diffusion": Objective("diffusion", "#333333", "s", "diffusion"),
  "sct": Objective("sCT", "#D55E00", "D", "consistency"),
  "scd": Objective("sCD", "#0072B2", "o", "consistency"),
}
# For objectives of a newer version, in the order in which they appear.
_SPARE = (("#009E73", "^"), ("#CC79A7", "v"), ("#E69F00", "P"))


def appearances(names: Iterable[str]) -> dict[str, Objective]:
  """Returns the appearance of every objective, known or not."""
  result: dict[str, Objective] = {}
  for name in names:
    if name not in result:
      color, marker = _SPARE[len(result) % len(_SPARE)]
      other = Objective(name, color, marker, "consistency")
      result[name] = OBJECTIVES.get(name, other)
  return result


def is_teacher(name: str) -> bool:
  """Returns whether students can be compared with runs of an objective."""
  return name in OBJECTIVES and OBJECTIVES[name].kind == "diffusion"


def rank(name: str) -> int:
  """Returns an objective's place in legends; unknown ones come last."""
  return [*OBJECTIVES, name].index(name)


def series_title(name: str, steps: int | None, nfe: int | None) -> str:
  """Returns what a reader is shown: `sCD, 2 steps`, or `teacher, 63 NFE`."""
  if is_teacher(name) or steps is None:
    sampler = "–" if nfe is None else f"{nfe} NFE"
  else:
    sampler = f"{steps} step{'s' * (steps > 1)}"
  return f"{appearances([name])[name].label}, {sampler}"
