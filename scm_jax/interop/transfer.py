"""A student's start from a teacher of another form: what carries over.

sCM's `trigflow` form sees the time through other features than the published
ones (`edm2`, DDPM++'s `edm`; Section 4.1), so what reads those features is
drawn afresh, and a short adaptation makes the network whole again. All else is
the same function of the same inputs and is copied.
"""

import dataclasses
from collections.abc import Container, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from scm_jax import networks

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Transfer:
  """What became of the parameters, by their names (`denoiser/conv_in/weight`).

  Attributes:
    copied: taken from the source.
    negated: taken with the other sign: F of TrigFlow is minus EDM's.
    fitted: made so that the network imitates the source (`imitation`).
    fresh: drawn afresh, since the source has nothing of the kind.
    unused: the source's, without a place in the network.
    misfits: what should fit and does not, with its shapes here and there.
  """

  copied: tuple[str, ...]
  negated: tuple[str, ...]
  fresh: tuple[str, ...]
  unused: tuple[str, ...]
  misfits: tuple[str, ...]
  fitted: tuple[str, ...] = ()

  def __str__(self) -> str:
    """One line for each kind, blocks of a kind together."""
    lines = []
    for field in ("copied", "negated", "fitted", "fresh", "unused"):
      if group := getattr(self, field):
        lines.append(f"{field} ({len(group)}): {', '.join(_summary(group))}")
    return "\n".join(lines)

  def with_fitted(self, names: Container[str]) -> "Transfer":
    """The same where some that were fresh have been fitted."""
    fitted = tuple(name for name in self.fresh if name in names)
    fresh = tuple(name for name in self.fresh if name not in names)
    return dataclasses.replace(self, fitted=fitted, fresh=fresh)


def start(
  params: Mapping[str, Any],
  source: networks.NetworkConfig,
  target: networks.NetworkConfig,
) -> tuple[dict[str, Any], Transfer]:
  """The parameters of `target` that a network `source` with `params` gives.

  Args:
    params: of the source.
    source: its config.
    target: of the network that starts from it.

  Returns:
    Part of the parameters of `target`, the rest of which are to be drawn; and
    what became of each. Between equal forms all are copied but those that one
    of the two lacks because it takes no guidance scale, and a weighting head
    of another kind.
  """
  given = traverse_util.flatten_dict(params)
  init = networks.build(target).init
  wanted = traverse_util.flatten_dict(jax.eval_shape(init, jax.random.key(0)))
  same_form = source.form == target.form
  same_head = same_form and source.weighting_head == target.weighting_head

  def changed(path):
    """Whether the two networks differ in what this parameter reads."""
    if path[0] == "weighting":
      return not same_head
    return not same_form and _of_time(path)

  other_sign = source.published != target.published
  taken = {}
  kinds = {field.name: [] for field in dataclasses.fields(Transfer)}
  for path in sorted(wanted.keys() | given.keys()):
    name, here, there = "/".join(path), wanted.get(path), given.get(path)
    both = here is not None and there is not None
    fits = both and np.shape(here) == np.shape(there)
    if fits and not changed(path):
      negate = other_sign and _is_sign(path, wanted)
      taken[path] = -there if negate else there
      kinds["negated" if negate else "copied"].append(name)
    elif changed(path) or _may_differ(path, same_form):
      kinds["fresh"] += [name] * (here is not None)
      kinds["unused"] += [name] * (there is not None)
    else:
      shapes = f"{_shape(there)} there and {_shape(here)} here"
      kinds["misfits"].append(f"{name} is {shapes}")
  listed = {kind: tuple(names) for kind, names in kinds.items()}
  return traverse_util.unflatten_dict(taken), Transfer(**listed)


def _shape(leaf: Any) -> str:
  return "missing" if leaf is None else str(np.shape(leaf))


def _of_time(path: Path) -> bool:
  """Reads features of the time, which two forms do not share.

  `emb_noise` and `fourier` are the U-Net's, `emb_0` is DDPM++'s.
  """
  return path[2:3] in (("emb_noise",), ("fourier",), ("emb_0",))


def _is_sign(path: Path, network: Container[Path]) -> bool:
  """Carries the sign of the output: a gain, or without one the last layer."""
  gain = ("denoiser", "out_gain")
  if gain in network:
    return path == gain
  return path[:2] == ("denoiser", "conv_out")


def _may_differ(path: Path, same_form: bool) -> bool:
  """Whether a network may do without the source's parameter at `path`."""
  if "emb_guidance" in path:
    return True
  modulates = "modulation" in path or path[2:3] == ("emb",)
  return modulates and not same_form


def _summary(names: tuple[str, ...]) -> list[str]:
  """`enc_*/conv0/weight (3)` for blocks of a kind; others as they are."""
  counts: dict[str, int] = {}
  for name in names:
    _, *parts = name.split("/")
    side = parts[0].split("_")[0]
    if side in ("enc", "dec"):
      parts[0] = f"{side}_*"
    key = "/".join(parts) if name.startswith("denoiser") else name
    counts[key] = counts.get(key, 0) + 1
  return [f"{k} ({n})" if n > 1 else k for k, n in counts.items()]
