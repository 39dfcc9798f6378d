"""The sCM objective (Algorithm 1) and its like with two times.

Training (sCT) and distillation (sCD) differ only in the velocity `dx_t/dt`
along which the derivative is taken: the sample's own, or a teacher's. Flow maps
(`objectives.flow_map`), which jump to any time `s` and not to data alone, have
the same loss with other options.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import (
  derivatives,
  diagnostics,
  jumps,
  spec,
  teacher_path,
  weighting,
)
from scm_jax.objectives.derivatives import Tangent
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import Spec, Student
from scm_jax.objectives.tangent import Jump
from scm_jax.objectives.velocity import Velocity

Derivative = Literal["jvp", "finite_difference", "discrete", "relative", "easy"]
Ends = Literal["zero", "segment", "below", "pair", "gap"]
Norm = Literal[
  "l2", "rms", "pseudo_huber", "clip", "relaxed", "none", "expected"
]
Prior = Literal["none", "inverse_sigma", "inverse_sine", "sine", "easy"]
Scale = Literal["cos", "ayf", "meanflow", "average"]
Warmup = Literal["linear", "variance_exact", "rectified_flow"]


@dataclasses.dataclass(frozen=True)
class Options(spec.Options):
  """Options of sCM; the defaults are the paper's.

  Attributes:
    warmup_steps: `H`, steps over which the tangent's second term is warmed up.
    warmup: `linear`, the paper's; `variance_exact`, that of rCM's code of 2025;
      or `rectified_flow`, AYF's (`tangent.WARMUPS`).
    warmup_limit: the warm-up's last value; 1 is the whole tangent.
    derivative: how the network is differentiated: `jvp` (exactly),
      `finite_difference`, `discrete` (dsCD, Appendix E), `relative` (a step of
      a part of the way to `s`, as in alpha-Flow), or `easy` (ECT's step).
    finite_difference_step: the step of `finite_difference`.
    discrete_steps: `N` of `discrete`, points of EDM's rho = 7 grid.
    anneal_steps: first and last step of the sigmoid by which the part of
      `relative` falls from 1 (which learns the velocity) to `SMALLEST_PART`.
    easy_base, easy_stage: `q` of ECT, whose step is the part `n / q^(k + 1)` of
      the noise level in the stage `k`; and how many steps a stage has, where 0
      is one stage for the whole run.
    along: the velocity along which the network is differentiated: `velocity`,
      the teacher's or the sample's own; or `network`, the network's own at
      `s = t`, which has less noise than the sample's (iMF).
    ends: how the time `s` at which a jump ends is drawn (`ENDS`): `zero`, at
      data, as in sCM; `segment`, the lower end of the segment that `t` is in;
      `below`, evenly below `t`; `pair`, as a second time from `t`'s proposal;
      or `gap`, AYF's.
    segments: the number of equal segments of `[0, pi/2]`, for `segment`.
    gap_mean, gap_std: of the logit of `t - s` in a rectified flow's time, for
      `gap`, which does not draw by `P_mean` and `P_std`.
    equal_share: the part of the samples with `s = t`, which learn the velocity.
    tangent_scale: the tangent's scale (`tangent.SCALES`).
    kappa: `sigma_d` over the standard deviation of the noise of the rectified
      flow in which a scale, a warm-up or a proposal is published: 1 where its
      data vary as its noise does, as latents do; 0.5 for images in [-1, 1].
    tangent_norm: how the tangent is normalised (`tangent.NORMALIZATIONS`);
      `expected` divides it by the size that the adaptive weight expects at its
      time, which unlike the tangent's own is no function of the noise.
    tangent_c: the constant of the normalisation.
    tangent_dtype: the type in which the network and the teacher compute where
      the tangent is taken; "" is the network's, in one pass with the value.
      Otherwise the tangent has a pass of its own.
    tangent_precision: the precision of the products in that pass, as in
      `NetworkConfig`.
    error_power: `p` of MeanFlow's weight, the error divided by
      `(error + error_floor)^p` without its gradient; 0 is none.
    error_floor: what is added to the error there.
    plain_velocity: whether samples with `s = t` are left out of that weight.
    prior_weight: a further factor: `none`, the paper's; `inverse_sigma`, the
      `1 / (sigma_d tan t)` that some implementations have; `inverse_sine`, the
      `1 / sin t` of ECT on ImageNet; `sine`, FACM's; or `easy`, ECT's
      `cos t / n`.
    reduction: `mean`, the paper's division by `D`; or `sum`.
  """

  warmup_steps: int = 10_000
  warmup: Warmup = "linear"
  warmup_limit: float = 1.0
  derivative: Derivative = "jvp"
  finite_difference_step: float = 1e-3
  discrete_steps: int = 1024
  anneal_steps: tuple[int, int] = (0, 400_000)
  easy_base: float = 2.0
  easy_stage: int = 25_000
  along: Literal["velocity", "network"] = "velocity"
  ends: Ends = "zero"
  segments: int = 1
  gap_mean: float = -0.6
  gap_std: float = 1.6
  equal_share: float = 0.0
  tangent_scale: Scale = "cos"
  kappa: float = 1.0
  tangent_norm: Norm = "l2"
  tangent_c: float = 0.1
  tangent_dtype: Literal["", "float32", "bfloat16", "float16", "float64"] = ""
  tangent_precision: Literal["highest", "high", "default"] = "highest"
  error_power: float = 0.0
  error_floor: float = 1e-3
  plain_velocity: bool = False
  prior_weight: Prior = "none"
  reduction: Literal["mean", "sum"] = "mean"

  def __post_init__(self) -> None:
    """Raises ConfigError for values that do not go together."""
    super().__post_init__()
    if self.two_times and self.derivative in ("discrete", "easy"):
      raise ConfigError(
        f"derivative is {self.derivative!r}, whose steps end at 0; with ends="
        f"{self.ends!r} and equal_share={self.equal_share} choose 'relative'"
      )
    if self.derivative == "easy" and self.tangent_norm in ("clip", "relaxed"):
      raise ConfigError(
        f"tangent_norm is {self.tangent_norm!r}, which bounds derivatives, and "
        "derivative 'easy' is a difference; choose l2, rms or pseudo_huber"
      )
    if self.tangent_norm == "expected" and not self.adaptive_weighting:
      raise ConfigError(
        "tangent_norm is 'expected', which is the size that the adaptive "
        "weight expects; set adaptive_weighting to true"
      )
    if self.along == "network" and not self.learns_velocity:
      raise ConfigError(
        "along is 'network', which asks for the velocity at s = t; with ends="
        f"{self.ends!r} and equal_share={self.equal_share} the network never "
        "learns it, so choose 'velocity'"
      )
    if self.easy_base <= 1:
      raise ConfigError(
        f"easy_base is {self.easy_base}; steps shrink only if it is above 1"
      )

  @property
  def schedules(self) -> dict[str, int]:
    """The step from which each schedule in steps is done, by its option."""
    done = {"warmup_steps": self.warmup_steps}
    if self.derivative == "relative":
      done["anneal_steps"] = self.anneal_steps[1]
    if self.derivative == "easy":
      done["easy_stage"] = self.easy_stage * derivatives.easy_stages(self)
    return done

  @property
  def two_times(self) -> bool:
    """Whether jumps end at other times than 0, which the network is told."""
    return self.ends != "zero" or self.equal_share > 0

  @property
  def learns_velocity(self) -> bool:
    """Whether some jumps have no length, or almost none."""
    return self.equal_share > 0 or self.ends not in ("zero", "segment")

  @property
  def tangent_pass(self) -> tuple[str, str] | None:
    """Type and precision of the tangent's own pass; None if it has none."""
    if not self.tangent_dtype:
      return None
    return self.tangent_dtype, self.tangent_precision

  @property
  def forwards(self) -> int:
    """Passes over the network's weights before the backward pass."""
    passes = {"jvp": 1, "finite_difference": 3}
    own = self.along == "network" or self.guides_itself
    return passes.get(self.derivative, 2) + own + self.guides_itself

  def prior(self, error: Array, jump: Jump) -> Array:
    """Returns errors `[B]` times the prior weights of their jumps."""
    return PRIORS[self.prior_weight](error, jump)


def loss(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Array, dict[str, Any]]:
  """Computes the loss of one batch (Equation 8) and its metrics.

  Args:
    student: the network that is trained.
    params: its parameters.
    point: the batch.
    velocity: the teacher for sCD; None for sCT.
    options: the choices.
    step: updates done, for the tangent's warm-up.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`), and `valid`
    `[B]`. A sample whose data, value or tangent is not finite is left out of
    the loss and of the metrics, and counted. Its data and its tangent cannot
    spoil the gradient. But if its value overflows inside of `F`, the entries
    of the gradient that depend on it become NaN: zero times infinity.
  """
  point, (output, g, rate), valid = _evaluated(
    student, params, point, velocity, options, step
  )
  g_norm = diagnostics.norms(g)
  g = derivatives.normalized(diagnostics.select(valid, g), point, options)
  output = diagnostics.select(valid, output)
  there = jumps.of(point, options)
  ends = () if there.s is None else (there.s,)
  log_weight = weighting.log_weight(student, params, options, there.t, *ends)
  error = _error(output, g, there, log_weight, options)
  scale = weighting.UNITS[options.weighting_unit](point.x0.shape[1:])
  total, per_sample = weighting.weigh(error, log_weight, valid, scale)
  by_jump = (
    {}
    if there.s is None
    else diagnostics.by_jump(there.t, there.s, valid, loss=per_sample)
  )
  return total, jax.lax.stop_gradient(
    {
      "loss": total,
      "tangent_norm": diagnostics.mean(valid, g_norm),
      "output_rms": diagnostics.rms(valid, output),
      "nonfinite_samples": jnp.sum(~valid),
      "valid": valid,
      "by_time": diagnostics.by_time(
        point.t, valid, loss=per_sample, tangent_norm=g_norm, dF_dt=rate
      ),
      "by_jump": by_jump,
    }
  )


def _evaluated(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Point, Tangent, Array]:
  """Returns the network's value and its raw tangent, with `loss`'s arguments.

  Returns:
    The batch where they were taken, with zeros for data that are not finite;
    what `derivatives.tangents` returns; and which samples are finite, `[B]`.
  """
  point = jumps.prepared(point, options)
  point, velocity = teacher_path.follow(point, velocity, options)
  valid = diagnostics.finite(point.x0)
  point = point._replace(x0=diagnostics.select(valid, point.x0))
  if student.tangent_F is None:
    found = derivatives.tangents(
      student.F, params, point, velocity, options, step
    )
    return point, found, valid & diagnostics.finite(found.output, found.g)
  fixed = jax.lax.stop_gradient(params)
  found = derivatives.tangents(
    student.tangent_F, fixed, point, velocity, options, step
  )
  # What overflowed here is not shown to the pass that is differentiated.
  valid &= diagnostics.finite(found.g)
  point = point._replace(
    x0=diagnostics.select(valid, point.x0),
    z=diagnostics.select(valid, point.z),
  )
  x_t = trigflow.interpolate(point.x0, point.z, point.t)
  u = x_t / options.sigma_d
  output = spec.evaluate(student.F, params, u, point.t, point)
  valid &= diagnostics.finite(output)
  return point, found._replace(output=output), valid


def raw_tangent(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> Array:
  """Returns the tangent before its normalisation, with `loss`'s arguments."""
  point = jumps.prepared(point, options)
  point, velocity = teacher_path.follow(point, velocity, options)
  F = student.tangent_F or student.F
  return derivatives.tangents(F, params, point, velocity, options, step).g


def _error(
  output: Array, g: Array, there: Jump, log_weight: Array, options: Options
) -> Array:
  """Returns each sample's error, `[B]`, with all weights but the adaptive."""
  size = None  # of tangents, as the adaptive weight expects it
  if options.tangent_norm == "expected":
    size = jnp.exp(-jax.lax.stop_gradient(log_weight) / 2)
    g /= trigflow.expand(size, g)
  target = jax.lax.stop_gradient(output + g)
  squares = jnp.square(output - target)
  error = REDUCTIONS[options.reduction](
    squares, axis=tuple(range(1, squares.ndim))
  )
  if size is not None:
    error *= jnp.square(size)  # of the raw tangent, which the weight learns
  if options.error_power:
    error = _self_weighted(error, there, options)
  return options.prior(error, there)


def _self_weighted(error: Array, there: Jump, options: Options) -> Array:
  """Returns MeanFlow's loss, of the error of the average velocity.

  That is `c_t` times the error of `F`, in units of the noise's deviation (arXiv
  2505.13447).
  """
  own = error * there.radii[0] ** 2
  weight = (own + options.error_floor) ** options.error_power
  if options.plain_velocity:
    weight = jnp.where(there.span > 0, weight, 1.0)
  return own / jax.lax.stop_gradient(weight)


REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum}
PRIORS = {
  "none": lambda error, jump: error,
  "inverse_sigma": lambda error, jump: (
    error / trigflow.time_to_sigma(jump.t, jump.sigma_d)
  ),
  "inverse_sine": lambda error, jump: error / jnp.sin(jump.t),
  "sine": lambda error, jump: error * _sine(jump),
  "easy": lambda error, jump: (
    error * jnp.cos(jump.t) / derivatives.easy_part(jump)
  ),
}


def _sine(jump: Jump) -> Array:
  """Returns FACM's weight of jumps, `sin(pi/2 tau)`; 1 where `s = t`."""
  tau = jump.kappa * jnp.sin(jump.t) / jump.radii[0]
  return jnp.where(jump.span > 0, jnp.sin(jnp.pi / 2 * tau), 1.0)


SCT = Spec(
  label="sCT",
  color="#D55E00",
  marker="D",
  description="a consistency model trained from data (sCT)",
  kind="consistency",
  options=Options,
  loss=loss,
  draw=jumps.draw,
  forwards=lambda options: options.forwards,
  tangent=raw_tangent,
)


@dataclasses.dataclass(frozen=True)
class EasyOptions(Options):
  """ECT (arXiv 2406.14548) as an L2-normalised tangent; CIFAR-10's settings."""

  P_mean: float = -1.1
  P_std: float = 2.0
  warmup_steps: int = 0
  derivative: Derivative = "easy"
  tangent_c: float = 1e-6
  adaptive_weighting: bool = False
  prior_weight: Prior = "easy"
  reduction: Literal["mean", "sum"] = "sum"


ECT = dataclasses.replace(
  SCT,
  label="ECT",
  color="#AA4499",
  marker="p",
  description="a consistency model by easy consistency tuning (ECT)",
  options=EasyOptions,
)
SCD = dataclasses.replace(
  SCT,
  label="sCD",
  color="#0072B2",
  marker="o",
  description="a consistency model distilled from a diffusion teacher (sCD)",
  asks_teacher=spec.always,
  takes_guidance=lambda options: options.guidance == "sampled",
)
