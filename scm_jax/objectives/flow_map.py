"""Flow maps: objectives whose networks jump from any time to any other.

All have the loss of `consistency` and differ in their options: where jumps end,
the scale and norm of the tangent, and the weight. Their defaults are the
published ones for ImageNet's latents (`kappa` 1).

They are drawn in steps of equal length. Multistep sCD has learnt jumps to the
ends of equal segments alone. For the others, two such steps meet half-way of a
rectified flow of latents, as MeanFlow's do.
"""

import dataclasses
from typing import Literal

from scm_jax.errors import ConfigError
from scm_jax.objectives import consistency
from scm_jax.objectives.spec import Spec


@dataclasses.dataclass(frozen=True)
class Options(consistency.Options):
  """Options of flow maps.

  Attributes:
    target: whose velocity is followed: `data`, the sample's own; or `teacher`.
      If there is guidance, the network itself guides the sample's own.
    omega: the part that the sample's own velocity has in the guided one
      (`velocity.guide_sample`).
  """

  target: Literal["data", "teacher"] = "teacher"
  omega: float = 1.0

  def __post_init__(self) -> None:
    """Raises ConfigError for values that do not go together."""
    super().__post_init__()
    if not self.guides_itself:
      return
    if not self.learns_velocity:
      raise ConfigError(
        f"guidance is {self.guidance!r}, and without a teacher the network "
        "guides by its own velocity, which it learns where s = t; with ends="
        f"{self.ends!r} and equal_share=0 it never does, so set guidance to "
        "'none'"
      )
    fixed = self.guidance == "fixed"
    lowest = self.guidance_scale if fixed else min(self.guidance_range)
    if not 0 < self.omega <= lowest:
      raise ConfigError(
        f"omega is {self.omega}; give a number above 0 that is not above the "
        f"lowest guidance scale, {lowest}"
      )

  @property
  def guides_itself(self) -> bool:
    """Whether the network itself guides the velocities that it learns."""
    return self.target == "data" and self.guidance != "none"


@dataclasses.dataclass(frozen=True)
class Multistep(Options):
  """Multistep sCD: sCM in each of several segments of the time."""

  ends: consistency.Ends = "segment"
  segments: int = 2


@dataclasses.dataclass(frozen=True)
class AlignYourFlow(Options):
  """AYF's EMD loss (arXiv 2506.14603).

  The law of the times is a third-party reading; the authors publish no code.
  """

  ends: consistency.Ends = "gap"
  tangent_scale: consistency.Scale = "ayf"
  warmup: consistency.Warmup = "rectified_flow"
  warmup_limit: float = 0.99
  adaptive_weighting: bool = False


@dataclasses.dataclass(frozen=True)
class MeanFlow(Options):
  """MeanFlow (arXiv 2505.13447).

  Both times are logit-normal(-0.4, 1) in the rectified flow of latents of unit
  deviation, which is `P_mean = -0.4 + ln(sigma_d / kappa)`.
  """

  P_mean: float = -1.09
  P_std: float = 1.0
  target: Literal["data", "teacher"] = "data"
  ends: consistency.Ends = "pair"
  equal_share: float = 0.75
  tangent_scale: consistency.Scale = "meanflow"
  tangent_norm: consistency.Norm = "none"
  warmup_steps: int = 0
  adaptive_weighting: bool = False
  error_power: float = 1.0
  error_floor: float = 0.01
  reduction: Literal["mean", "sum"] = "sum"


@dataclasses.dataclass(frozen=True)
class ImprovedMeanFlow(MeanFlow):
  """iMF (arXiv 2512.02012): the derivative is along the network's velocity.

  The published network has a second head for that velocity; here it is the
  network's at `s = t`, without the label where that was dropped. It also takes
  the interval of noise levels in which it guides; ours has one for all.
  """

  along: Literal["velocity", "network"] = "network"
  equal_share: float = 0.5
  guidance_law: Literal["uniform", "log_uniform"] = "log_uniform"


@dataclasses.dataclass(frozen=True)
class AlphaFlow(MeanFlow):
  """alpha-Flow (arXiv 2510.20771), which takes no derivative.

  The error that its weight is a function of is a mean over pixels. The
  published code divides it by `alpha^2` more in the weight alone, takes the
  part `alpha` of a rectified flow's time, here of the angle, and draws one time
  where `s = t`, here the later of two.
  """

  derivative: consistency.Derivative = "relative"
  equal_share: float = 0.5
  tangent_scale: consistency.Scale = "average"
  error_floor: float = 1e-3
  reduction: Literal["mean", "sum"] = "mean"


@dataclasses.dataclass(frozen=True)
class AnchoredConsistency(Options):
  """FACM (arXiv 2507.03738): sCM, anchored by the velocity at `s = t`.

  The published anchor is a second loss on every sample, with a cosine distance
  besides; here half of the samples have it, without. Published times are
  `tau = 2/pi arctan(sigma)` of a rectified flow of latents of unit deviation,
  with `ln sigma ~ N(-0.8, 1.6^2)`; `P_mean` and `P_std` are the mean and the
  deviation of `ln(sigma_d tan t)` that follow, at `kappa = 1`.
  """

  P_mean: float = -1.62
  P_std: float = 1.85
  equal_share: float = 0.5
  tangent_scale: consistency.Scale = "meanflow"
  tangent_norm: consistency.Norm = "relaxed"
  warmup_steps: int = 0
  adaptive_weighting: bool = False
  error_power: float = 0.5
  plain_velocity: bool = True
  prior_weight: consistency.Prior = "sine"


def _spec(label: str, color: str, marker: str, options: type[Options]) -> Spec:
  """Returns the spec of one kind of flow map, drawn in equally long steps."""
  return dataclasses.replace(
    consistency.SCT,
    label=label,
    color=color,
    marker=marker,
    description=f"a flow map ({label})",
    kind="map",
    options=options,
    asks_teacher=lambda options: options.target == "teacher",
    takes_guidance=lambda options: options.guidance == "sampled",
    sample={"t_mid": 0.0},
  )


MULTISTEP = _spec("MS-sCD", "#56B4E9", "^", Multistep)
AYF = _spec("AYF", "#009E73", "v", AlignYourFlow)
MEANFLOW = _spec("MeanFlow", "#CC79A7", "P", MeanFlow)
IMF = _spec("iMF", "#E69F00", "X", ImprovedMeanFlow)
FACM = dataclasses.replace(
  _spec("FACM", "#999933", "d", AnchoredConsistency),
  # Its jumps end at 0, and fresh noise leads back to the next step's time.
  sample={"gamma": 1.0},
)
ALPHA_FLOW = _spec("α-Flow", "#882255", "h", AlphaFlow)
