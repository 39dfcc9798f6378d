"""The networks that a server draws from: their names, choices and samplers."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from scm_jax.errors import UserError
from scm_jax.interop import export_folder
from scm_jax.sampler import Sampler

# What clients may choose from. Each combination is one compiled program.
SIZES = (1, 4, 9, 16, 36, 64)  # images at once
FEW_STEPS = (1, 2, 3, 4, 8)
SOLVER_STEPS = (1, 4, 8, 16, 32)
TIMES = tuple(tenths / 10 for tenths in range(4, 16))  # radians
GUIDANCE = (0.0, 10.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A network that is served.

  Attributes:
    name: the name by which clients ask for it.
    path: what `scm_jax.load` takes.
    sampler: the network, ready to draw.
  """

  name: str
  path: str
  sampler: Sampler

  @functools.cached_property
  def steps(self) -> tuple[int, ...]:
    """The numbers of steps that a client may choose."""
    rules = self.sampler.rules
    choices = FEW_STEPS if rules.few_steps else SOLVER_STEPS
    return tuple(sorted({*choices, self.sampler.steps}))

  @functools.cached_property
  def times(self) -> tuple[float, ...]:
    """The second times, radians, that a client may choose; () for none."""
    if "t_mid" not in self.sampler.rules.settings:
      return ()
    return tuple(sorted({*TIMES, self.sampler.t_mid}))

  @functools.cached_property
  def _at(self) -> dict[float, Sampler]:
    return {self.sampler.t_mid: self.sampler}

  def at(self, t_mid: float) -> Sampler:
    """Returns the sampler with a second time, which is made once."""
    if t_mid not in self._at:
      self._at[t_mid] = self.sampler.changed(t_mid=t_mid)
    return self._at[t_mid]

  @property
  def edits(self) -> bool:
    """Whether the network edits images: it takes few steps, on pixels."""
    shape = self.sampler.data_shape
    return self.sampler.rules.edits and shape == self.sampler.image_shape

  def describe(self) -> dict[str, Any]:
    """Returns what a client has to know of the model, as JSON's types."""
    sampler = self.sampler
    classes = sampler.network.config.num_classes
    return {
      "name": self.name,
      "kind": sampler.kind,
      "few_steps": sampler.rules.few_steps,
      "classes": classes,
      "no_label": bool(classes) and sampler.unconditional,
      "shape": list(sampler.image_shape),
      "parameters": sampler.parameters,
      "steps": {"default": sampler.steps, "choices": list(self.steps)},
      "t_mid": {"default": sampler.t_mid, "choices": list(self.times)},
      "guidance": {
        "default": sampler.guidance_scale(),
        "refusal": sampler.guidance_refusal(),
      },
      "edits": self.edits,
    }


def find(paths: Sequence[str]) -> dict[str, str]:
  """Returns the paths of the models to serve by the names to give them.

  Args:
    paths: workdirs, checkpoints or exports; none stands for the exports that
      come with the package.

  Raises:
    UserError: no path is given and no export came with the package.
  """
  if paths:
    return dict(zip(_names(paths), paths, strict=True))
  shipped = export_folder.pretrained()
  if not shipped:
    raise UserError(
      "no trained network came with the package (in "
      f"{export_folder.PRETRAINED}); name a workdir or an export with "
      "--workdir=DIR"
    )
  return {name: name for name in shipped}


def _names(paths: Iterable[str]) -> list[str]:
  """Returns the last parts of paths, as many as tell the paths apart."""
  parts = [pathlib.Path(os.path.abspath(path)).parts for path in paths]
  if len(set(parts)) < len(parts):
    raise UserError("--workdir names a folder twice; name each of them once")
  names = []
  for own in parts:
    others = [other for other in parts if other != own]
    count = 1
    while any(other[-count:] == own[-count:] for other in others):
      count += 1
    names.append("/".join(own[-count:]))
  return names
