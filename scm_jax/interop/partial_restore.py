"""The parameters that a network takes from one of another form.

sCM's `trigflow` form sees the time through other features than the published
forms (`edm2`, DDPM++'s `edm`; Section 4.1), so the layers that read those
features are initialised anew, and a short adaptation makes the network whole
again. All other layers are the same function of the same inputs and are copied.
"""

import collections
import dataclasses
import re
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from scm_jax import networks


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of each parameter, by its name (`denoiser/conv_in/weight`)."""

  copied: tuple[str, ...]  # taken from the source
  # Taken with the opposite sign, because TrigFlow's F is minus EDM's.
  negated: tuple[str, ...]
  fresh: tuple[str, ...]  # to be initialised: the source has nothing alike
  unused: tuple[str, ...]  # those of the source without a place in the target
  misfits: tuple[str, ...]  # that should fit and do not, each with both shapes
  fitted: tuple[str, ...] = ()  # to imitate the source; see `imitation`

  def __str__(self) -> str:
    """Returns one line for each kind; equal layers of blocks are counted."""
    lines = []
    for field in ("copied", "negated", "fitted", "fresh", "unused"):
      if group := getattr(self, field):
        lines.append(f"{field} ({len(group)}): {', '.join(_summary(group))}")
    return "\n".join(lines)

  def with_fitted(self, names: Container[str]) -> "Report":
    """Returns a report in which `names` are fitted instead of fresh."""
    fitted = tuple(name for name in self.fresh if name in names)
    fresh = tuple(name for name in self.fresh if name not in names)
    return dataclasses.replace(self, fitted=fitted, fresh=fresh)


def restore(
  params: Mapping[str, Any],
  source: networks.NetworkConfig,
  target: networks.NetworkConfig,
) -> tuple[dict[str, Any], Report]:
  """Returns the parameters that a target network takes from a source network.

  Between networks of one form, all parameters are copied except those that one
  of the two lacks because it is not told as much, and a weighting head of
  another kind. The rest of the target's parameters must be initialised.
  """
  given = traverse_util.flatten_dict(params)
  wanted = traverse_util.flatten_dict(networks.build(target).shapes)
  forms = networks.FAMILIES[networks.family_name(target)].forms
  same_form = source.form == target.form
  same_head = same_form and source.weighting_head == target.weighting_head
  other_sign = source.published != target.published
  taken = {}
  kinds = {field.name: [] for field in dataclasses.fields(Report)}
  for path in sorted(wanted.keys() | given.keys()):
    name, here, there = "/".join(path), wanted.get(path), given.get(path)
    shapes = [x if x is None else np.shape(x) for x in (here, there)]
    fits = None not in shapes and shapes[0] == shapes[1]
    layer = set(path[2:3])
    reads_other_inputs = not same_form and bool(forms.time_layers & layer)
    if path[0] == "weighting":
      reads_other_inputs = not same_head
    modulates = not same_form and bool(forms.modulation & layer)
    if fits and not reads_other_inputs:
      negate = other_sign and path[: len(forms.sign)] == forms.sign
      taken[path] = -there if negate else there
      kinds["negated" if negate else "copied"].append(name)
    elif (
      reads_other_inputs
      or modulates
      or (networks.ADDED_LAYERS | forms.added).intersection(path)
    ):
      kinds["fresh"] += [name] * (here is not None)
      kinds["unused"] += [name] * (there is not None)
    else:
      ours, theirs = ("missing" if x is None else x for x in shapes)
      kinds["misfits"].append(f"{name} is {theirs} there and {ours} here")
  listed = {kind: tuple(names) for kind, names in kinds.items()}
  return traverse_util.unflatten_dict(taken), Report(**listed)


def _summary(names: tuple[str, ...]) -> list[str]:
  """Returns names, those of like blocks as one: `enc_*/conv0/weight (3)`."""
  like = (
    re.sub(r"^(enc|dec|block)_\w+", r"\1_*", name.removeprefix("denoiser/"))
    for name in names
  )
  counts = collections.Counter(like)
  return [f"{k} ({n})" if n > 1 else k for k, n in counts.items()]
