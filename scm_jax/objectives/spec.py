"""What the rest of the house knows of an objective: options, loss, costs."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from scm_jax import schema, trigflow
from scm_jax.errors import ConfigError
from scm_jax.networks import NetworkConfig
from scm_jax.objectives.point import Point
from scm_jax.objectives.velocity import Velocity


@dataclasses.dataclass(frozen=True)
class Options(schema.Checked):
  """Options that every objective has; objectives add their own.

  Attributes:
    sigma_d: the data's standard deviation.
    P_mean: mean of `ln sigma`, from which times are drawn (Table 5).
    P_std: standard deviation of `ln sigma`.
    adaptive_weighting: whether `w_phi(t)` is learnt (Equation 8); otherwise it
      is 0.
    weighting_unit: how often `w_phi` counts in a sample's loss: `sample`, once
      (Equation 8), which RAdam needs; or `pixel`, once for each of its `D`
      numbers, EDM2's sum, which Adam does not see (`weighting.UNITS`).
    label_dropout: probability of training a sample without its label.
    num_classes: the label that stands for "no label"; 0 without labels.
    guidance: how the velocity that is followed is guided (Section 5.2): `none`;
      `fixed`, by `guidance_scale`; or `sampled`, by a scale that the student
      takes as an input.
    guidance_scale: the scale of `fixed`; 1 is no guidance.
    guidance_range: lowest and highest scale of `sampled`.
    guidance_law: how the scale of `sampled` is drawn: `uniform`, or
      `log_uniform`, evenly in its logarithm.
    guidance_interval: lowest and highest noise level `sigma` at which there is
      guidance; () is everywhere (`velocity.is_guided`).
    state_steps: where a teacher is asked, the steps in which its ODE is solved
      from noise to each sample's time, which gives the noisy sample
      (`teacher_path`); 0 noises data.
    reset_weighting: whether a network that starts from another's weights
      starts with a new `w_phi`.
    check_every: steps between checks of the tangent against float32's, for
      objectives that take one, which write `tangent_error/...` and
      `tangent_bias/...`; 0 is never.
    check_samples: samples of the batch that such a check takes.
  """

  sigma_d: float = schema.fixed(0.5)
  P_mean: float = -0.8
  P_std: float = 1.6
  adaptive_weighting: bool = True
  weighting_unit: Literal["sample", "pixel"] = "sample"
  label_dropout: float = 0.0
  num_classes: int = schema.fixed(0)
  guidance: Literal["none", "fixed", "sampled"] = "none"
  guidance_scale: float = 1.0
  guidance_range: tuple[float, float] = (1.0, 2.0)
  guidance_law: Literal["uniform", "log_uniform"] = "uniform"
  guidance_interval: tuple[float, ...] = ()
  state_steps: int = 0
  reset_weighting: bool = True
  check_every: int = 0
  check_samples: int = 64

  def __post_init__(self) -> None:
    """Raises ConfigError for a value that an option does not have."""
    super().__post_init__()
    if self.state_steps < 0:
      raise ConfigError(
        f"state_steps is {self.state_steps}; give a number of steps, or 0 to "
        "noise data"
      )
    numbers = [isinstance(x, int | float) for x in self.guidance_range]
    if numbers != [True, True]:
      raise ConfigError(
        f"guidance_range is {self.guidance_range}; give two numbers, (1.0, 2.0)"
      )
    if self.guidance_law == "log_uniform" and min(self.guidance_range) <= 0:
      raise ConfigError(
        f"guidance_range is {self.guidance_range}; with guidance_law "
        "'log_uniform' its ends must be above 0"
      )
    schema.check_interval(self.guidance_interval, "guidance_interval")
    if self.guidance_interval and self.guidance == "none":
      raise ConfigError(
        f"guidance_interval is {self.guidance_interval}, but there is no "
        "guidance; set guidance to fixed or sampled, or the interval to ()"
      )

  @property
  def teacher_evaluations(self) -> int:
    """Evaluations of the teacher and its guide for a sample of a batch."""
    return (self.state_steps + 1) * (1 if self.guidance == "none" else 2)

  @property
  def schedules(self) -> dict[str, int]:
    """The step from which each schedule in steps is done, by its option."""
    return {}

  @property
  def two_times(self) -> bool:
    """Whether the network is told a second time, at which its jump ends."""
    return False

  @property
  def guides_itself(self) -> bool:
    """Whether the network itself guides the velocities that it learns."""
    return False

  @property
  def tangent_pass(self) -> tuple[str, str] | None:
    """Type and precision of the tangent's own pass; None if it has none."""
    return None


def _no_weight(params: Any, t: Array, s: Array | None = None) -> Array:
  """Returns the log-weight 0 for every sample."""
  del params, s
  return jnp.zeros_like(t)


class Student(NamedTuple):
  """The network that is trained, as functions of its parameters.

  Attributes:
    F: `F(params, x, t, cond)`, `[B, ...]` and radians `[B]` to `[B, ...]`. It
      may also take the keywords `rngs` (random streams, for dropout) and
      `train`; what it does not take, it is not given.
    w: `w(params, t)`, the adaptive log-weight `[B]`; 0 unless given. Where
      jumps end at times `s` other than 0 it is `w(params, t, s)`.
    tangent_F: the same network in another precision, for the tangent alone,
      which then has a pass of its own; None takes the tangent in the pass that
      gives the value.
    extra: the other networks that the objective trains, by name (see
      `ExtraNetwork`). Their parameters are `params[name]`.
  """

  F: Callable[..., Array]
  w: Callable[..., Array] = _no_weight
  tangent_F: Callable[..., Array] | None = None
  extra: "dict[str, Student]" = {}


def evaluate(
  F: Callable[..., Array], params: Any, u: Array, t: Array, point: Point
) -> Array:
  """Evaluates a network `F` (see `Student`) in training.

  It is given noisy samples over `sigma_d`, `u` `[B, ...]`, their times `[B]` in
  radians, and the batch's condition and random streams.
  """
  keywords = {"rngs": point.rngs, "train": True}
  taken = _keywords(F)
  keywords = {k: v for k, v in keywords.items() if taken is None or k in taken}
  return F(params, u, t, point.cond, **keywords)


def _keywords(F: Callable) -> frozenset[str] | None:
  """Returns the names of a function's parameters; None if it takes any."""
  parameters = inspect.signature(F).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return None
  return frozenset(parameters)


def draw_times(key: Array, count: int, options: Options) -> dict[str, Array]:
  """Draws a time for each sample from the proposal (Algorithm 1)."""
  proposal = options.P_mean, options.P_std, options.sigma_d
  return {"t": trigflow.propose_times(key, count, *proposal)}


def never(options: Any) -> bool:
  """Returns False, whatever the options."""
  del options
  return False


def always(options: Any) -> bool:
  """Returns True, whatever the options."""
  del options
  return True


# loss(student, params, point, velocity, options, step) -> (scalar, metrics)
Loss = Callable[
  [Student, Any, Point, Velocity | None, Any, Array | float],
  tuple[Array, dict[str, Any]],
]


@dataclasses.dataclass(frozen=True)
class ExtraNetwork:
  """A second network that an objective trains, such as a critic.

  It is trained by the same loss: the objective adds the network's own loss to
  the student's and stops the gradients that must not pass between them. It has
  an optimiser of its own, is saved and restored with the student, and is left
  out of EMAs and exports.

  Attributes:
    network: gives its network from the student's.
    from_teacher: whether it starts with the weights of the run's teacher;
      otherwise they are drawn.
    optimizer: the fields of `config.optimizer` in which its optimiser differs
      from the student's, from the objective's options.
  """

  network: Callable[[NetworkConfig], NetworkConfig] = lambda config: config
  from_teacher: bool = True
  optimizer: Callable[[Any], dict[str, Any]] = lambda options: {}


@dataclasses.dataclass(frozen=True)
class Spec:
  """An objective, as an entry of the registry `scm_jax.objectives.OBJECTIVES`.

  Attributes:
    label: its name in tables and charts.
    color: its colour in charts, as matplotlib reads it.
    marker: its marker in charts, likewise.
    description: what a network trained by it is, for the model card.
    kind: how its networks are sampled, a name in `sampler_kinds.KINDS`, such as
      `diffusion`, `consistency` or `map`.
    options: the dataclass of its options, `Options` or one that adds to it.
    loss: the loss of a batch and its metrics; `step` is the number of updates
      done. The metrics hold `valid` `[B]`, which samples are finite.
    draw: draws what the objective chooses for each sample, such as the times:
      `draw(key, count, options) -> {name: [count, ...]}`. What is no field of
      `Point` is in its `drawn`.
    asks_teacher: whether every step evaluates a teacher's velocity.
    teacher_kind: how the networks are sampled that may be its teacher, as
      `kind`.
    path_states: the states of a trajectory that each sample of the batch stands
      for; the teacher is asked at one after another, and the network is trained
      at all of them.
    takes_guidance: whether the network takes the guidance scale as an input.
    forwards: passes over the network's weights before the backward pass.
    tangent: the tangent before its normalisation, with the arguments of
      `loss`, for checks of its precision; None for a loss without one.
    extra: the other networks that it trains, by name.
    sample: what is different in `config.sample` by default, as its networks
      have to be drawn.
  """

  label: str
  color: str
  marker: str
  description: str
  kind: str
  options: type[Options]
  loss: Loss
  draw: Callable[[Array, int, Any], dict[str, Array]] = draw_times
  asks_teacher: Callable[[Any], bool] = never
  teacher_kind: str = "diffusion"
  path_states: Callable[[Any], int] = lambda options: 1
  takes_guidance: Callable[[Any], bool] = never
  forwards: Callable[[Any], int] = lambda options: 1
  tangent: Callable[..., Array] | None = None
  extra: dict[str, ExtraNetwork] = dataclasses.field(default_factory=dict)
  sample: dict[str, Any] = dataclasses.field(default_factory=dict)
