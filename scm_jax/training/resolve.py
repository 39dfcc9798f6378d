"""Checks of a config, and the objects that its fields describe."""

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp

from scm_jax import networks, sampler_kinds, samplers, schema
from scm_jax.defaults import GROUPS, Run, get_defaults, get_fields
from scm_jax.errors import ConfigError
from scm_jax.networks import magnitude
from scm_jax.objectives import OBJECTIVES
from scm_jax.objectives.spec import Options
from scm_jax.sampler import Sampler
from scm_jax.training import offload
from scm_jax.training.ema import averaging

if TYPE_CHECKING:
  from ml_collections import ConfigDict

_T = TypeVar("_T")
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Numbers of a config that are checked.
POSITIVE = (
  *("batch_size", "total_steps", "log_every", "checkpoint_every"),
  *("keep_checkpoints", "sample.batch_size", "data.size", "data.channels"),
)
NOT_NEGATIVE = (
  *("microbatches", "images_per_pass", "keep_every", "sample.num"),
  *("sample_every", "evaluate_every", "snapshot_every"),
  *("optimizer.decay_steps", "optimizer.rampup_images", "data.num_classes"),
)
RANGES = {
  **{f"sample.{name}": bounds for name, bounds in sampler_kinds.RANGES.items()},
  "seed": (0, 2**32 - 1),  # random keys hold no more
  "optimizer.learning_rate": (0.0, 1e3),
  "optimizer.b1": (0.0, 0.999999),
  "optimizer.b2": (0.0, 0.999999),
  "optimizer.eps": (0.0, 1.0),
  "optimizer.cooldown": (0.0, 1.0),
  "objective.P_mean": (-100.0, 100.0),
  "objective.P_std": (1e-3, 100.0),
  "objective.label_dropout": (0.0, 1.0),
  "objective.guidance_scale": (0.0, 1e3),
}


def resolve(config: "ConfigDict") -> Run:
  """Returns a config as a frozen, typed value.

  Raises:
    ConfigError: a field has no such value.
  """
  schema.pick(OBJECTIVES, config.run, "config.run")
  spec = OBJECTIVES[config.run]
  families = networks.FAMILIES
  schema.pick(families, config.network.family, "config.network.family")
  _check_entries(config.run, config.network.family)
  groups = {
    name: _group(config[name], f"{name}.", kind)
    for name, kind in GROUPS.items()
  }
  objective = _group(
    config.objective,
    "objective.",
    spec.options,
    sigma_d=config.sigma_d,
    num_classes=config.data.num_classes,
  )
  network = _group(
    config.network.to_dict() | {"dtype": _dtype(config)},
    "network.",
    families[config.network.family].config,
    resolution=config.data.size,
    in_channels=config.data.channels,
    num_classes=config.data.num_classes,
    guidance=spec.takes_guidance(objective),
    target=objective.two_times,
    sigma_d=config.sigma_d,
  )
  return _group(config, "", Run, network=network, objective=objective, **groups)


def _check_entries(run: str, family: str) -> None:
  """Raises ConfigError for entries of the registries that cannot work."""
  spec, kind = OBJECTIVES[run], networks.FAMILIES[family].config
  schema.pick(sampler_kinds.KINDS, spec.kind, f"the kind of objective {run!r}")
  for owner, given, base in (
    (f"the objective {run!r}", spec.options, Options),
    (f"the network {family!r}", kind, networks.NetworkConfig),
  ):
    if not (isinstance(given, type) and issubclass(given, base)):
      raise ConfigError(
        f"{owner} has options of {given}; give a dataclass that inherits from "
        f"{base.__module__}.{base.__name__}"
      )
  same = [n for n, f in networks.FAMILIES.items() if f.config is kind]
  if len(same) > 1:
    raise ConfigError(
      f"the networks {' and '.join(map(repr, same))} have the same config "
      f"class {kind.__name__}, by which they are told apart; give each its "
      "own, such as a subclass"
    )


def check(config: "ConfigDict") -> Run:
  """Returns a config that can be trained, resolved.

  Raises:
    ConfigError: the values make no run; the message is one line.
  """
  run = resolve(config)
  for key in POSITIVE:
    if (value := operator.attrgetter(key)(run)) < 1:
      raise ConfigError(f"config.{key} is {value}; it must be positive")
  for key in NOT_NEGATIVE:
    if (value := operator.attrgetter(key)(run)) < 0:
      raise ConfigError(f"config.{key} is {value}; it must not be negative")
  for key, (low, high) in RANGES.items():
    if not low <= (value := operator.attrgetter(key)(run)) <= high:
      raise ConfigError(
        f"config.{key} is {value}; it must be from {low} to {high}"
      )
  interval = run.sample.guidance_interval
  schema.check_interval(interval, "config.sample.guidance_interval")
  schema.check_channels(
    run.sample.guidance_channels,
    run.network.in_channels,
    "config.sample.guidance_channels",
  )
  for step in run.snapshot_at:
    if step < 1:
      raise ConfigError(
        f"config.snapshot_at names step {step}; steps count from 1"
      )
  for part in run.offload:
    if part not in offload.GROUPS:
      raise ConfigError(
        f"config.offload names {part!r}; choose of {', '.join(offload.GROUPS)}"
      )
  if run.data.augment and not run.network.augment:
    family = config.network.family
    mend = f"{family} cannot be told; set config.data.augment=0"
    if "augment" in schema.options(networks.FAMILIES[family].config):
      mend = "set config.network.augment too"
    raise ConfigError(
      f"config.data.augment is {run.data.augment}, but the network is not told "
      f"what was done, and would draw it; {mend}"
    )
  _check_scale(run)
  averaging.check(run)
  _check_times(run)
  _check_objective(run)
  _check_unused(config)
  return run


def remarks(run: Run) -> tuple[str, ...]:
  """Returns sentences on what makes a run other than it seems."""
  late = [
    f"config.objective.{name} has the objective change until step {end}, but "
    f"the run ends at step {run.total_steps} and never trains its last form: "
    "shorten the one or lengthen the other"
    for name, end in run.objective.schedules.items()
    if end > run.total_steps > 0
  ]
  return (*late, *_borrowed(run), *_unstable(run))


def _borrowed(run: Run) -> list[str]:
  """Returns a sentence if a run has the options of another objective.

  That is so where `config.run` was set after the config was made.
  """
  own = schema.options(run.spec.options)
  first = get_fields()["objective"]
  differ = [name for name in own if own[name] != first[name]]
  given = {name: getattr(run.objective, name) for name in differ}
  if len(differ) < 2 or any(given[name] == own[name] for name in differ):
    return []
  name = differ[-1]
  return [
    f"config.run is {run.run!r}, but config.objective has none of its own "
    f"defaults: {name} is {given[name]!r}, not {own[name]!r}; make the config "
    f"with get_defaults({run.run!r}), which has them"
  ]


def _unstable(run: Run) -> list[str]:
  """Returns a sentence if a network lacks what keeps sCM's tangent bounded."""
  if run.spec.kind != "consistency" or not run.spec.tangent:
    return []
  wanted = run.network.scm_needs.items()
  lacking = [f"{k}={v}" for k, v in wanted if getattr(run.network, k) != v]
  if not lacking:
    return []
  return [
    f"config.network has not {' and '.join(lacking)}; without, students of "
    "small transformers diverged (docs/configs.md, What sCM needs of a "
    "transformer)"
  ]


def _group(values: Any, prefix: str, kind: type[_T], **more: Any) -> _T:
  """Returns a group of the config as a frozen dataclass of that kind.

  The prefix, for messages, is the group's name and a dot; `more` are the fields
  that are no options of the group.

  Raises:
    ConfigError: the values make no such group.
  """
  try:
    given = {name: values[name] for name in schema.options(kind)}
    return kind(**given, **more)
  except ConfigError as error:
    raise ConfigError(f"config.{prefix}{error}") from None


def _dtype(config: "ConfigDict") -> Any:
  """Returns the type that the network computes in."""
  if config.network.dtype not in DTYPES:
    raise ConfigError(
      f"config.network.dtype is {config.network.dtype!r}; choose one of "
      f"{', '.join(DTYPES)}"
    )
  return jnp.dtype(config.network.dtype)


def _check_scale(run: Run) -> None:
  """Raises ConfigError for a mean or deviation that no images have."""
  if run.data.kind != "images":
    return
  for name in ("mean", "std"):
    value = getattr(run.data, name)
    numbers = value if isinstance(value, tuple) else (value,)
    if any(abs(x) > 1 for x in numbers):
      raise ConfigError(
        f"config.data.{name} is {value}; give that of images in [-1, 1], which "
        "are pixels / 127.5 - 1"
      )


def _check_times(run: Run) -> None:
  """Raises ConfigError unless the times of a few-step sampler decrease."""
  sample = run.sample
  # Equal steps come the nearer to noise the more there are; exports draw 4.
  steps = 2 if sample.t_mid else 4
  first, second, *_ = samplers.consistency_times(
    steps, run.sigma_d, sample.t_mid, sample.sigma_max
  )
  rules = sampler_kinds.KINDS[run.spec.kind]
  if rules.few_steps and second >= first:
    raise ConfigError(
      f"config.sample.sigma_max is {sample.sigma_max:g}, so that samples begin "
      f"at {first:g} radians; with config.sample.t_mid={sample.t_mid:g} the "
      f"second of {steps} steps would begin at {second:g}, which is not later"
    )


def _check_objective(run: Run) -> None:
  """Raises ConfigError for values that the objective cannot work with."""
  options = run.objective
  if run.guide and not (run.asks_teacher and options.guidance != "none"):
    raise ConfigError(
      f"config.guide is {run.guide!r}, but no teacher is guided: choose a run "
      "that evaluates a teacher in every step, and set "
      "config.objective.guidance to fixed or sampled, or leave it empty"
    )
  if run.optimizer.name == "radam" and options.weighting_unit == "pixel":
    raise ConfigError(
      "config.objective.weighting_unit is 'pixel'; RAdam, whose first updates "
      "grow with the loss, needs 'sample'"
    )
  # Noised data may make way for states of a diffusion teacher's path, unless
  # the objective trains on such states of its own.
  own = run.spec.path_states(options) > 1
  takes = run.asks_teacher and run.spec.teacher_kind == "diffusion" and not own
  if options.state_steps and not takes:
    raise ConfigError(
      f"config.objective.state_steps is {options.state_steps}, but this run of "
      f"{run.run!r} asks no diffusion teacher in states that are its choice; "
      "set it to 0"
    )
  if options.check_every and run.spec.tangent is None:
    raise ConfigError(
      f"config.objective.check_every is {options.check_every}, but the "
      f"objective {run.run!r} has no tangent to check; set it to 0"
    )
  if options.guides_itself and not (
    options.num_classes and options.label_dropout
  ):
    raise ConfigError(
      f"config.objective.guidance is {options.guidance!r}, which needs a "
      "network that is trained without labels too; set "
      "config.objective.label_dropout to 0.1, say, or guidance to none where "
      "data have no labels"
    )
  if not run.asks_teacher:
    if options.guidance != "none" and not options.guides_itself:
      raise ConfigError(
        f"config.objective.guidance is {options.guidance!r}, but this run of "
        f"{run.run!r} evaluates no teacher that could be guided; set it to "
        "none, in another --workdir if the run has begun"
      )
    return
  if not run.teacher:
    raise ConfigError(
      f"config.run={run.run} evaluates a teacher in every step, but "
      "config.teacher is empty; give a teacher's workdir with "
      "--config.teacher=DIR"
    )
  if options.guidance == "sampled" and not run.network.guidance:
    raise ConfigError(
      "config.objective.guidance is 'sampled', but the network of a run of "
      f"{run.run!r} takes no guidance scale; choose none or fixed"
    )


def _check_unused(config: "ConfigDict") -> None:
  """Raises ConfigError for fields that the network or the objective lacks.

  The config has the fields of all families and of all objectives. One that the
  run's own do not have must be as it is by default.
  """
  families = {name: f.config for name, f in networks.FAMILIES.items()}
  objectives = {name: spec.options for name, spec in OBJECTIVES.items()}
  for group, kinds, chosen in (
    ("network", families, config.network.family),
    ("objective", objectives, config.run),
  ):
    defaults = get_defaults(config.run)[group]
    own = {"family", *schema.options(kinds[chosen])}
    changed = [
      name
      for name in defaults
      if name not in own and config[group][name] != defaults[name]
    ]
    if changed:
      name, *more = changed
      owners = [k for k, kind in kinds.items() if name in schema.options(kind)]
      others = f"; nor has it {', '.join(more)}" if more else ""
      raise ConfigError(
        f"config.{group}.{name} is {config[group][name]!r}, but {chosen} has "
        f"no such field (it belongs to {', '.join(owners)}){others}; leave "
        "these as they are by default"
      )


def model(run: Run, average: Any) -> Sampler:
  """Returns the sampler of a run's EMA, whose arrays stay in their shards."""
  return sampler(run, constrained(run, average))


def sampler(run: Run, params: Any) -> Sampler:
  """Returns the sampler of parameters that need no constraint any more."""
  return Sampler(
    network=networks.build(run.network),
    params=params,
    codec=run.codec,
    kind=run.spec.kind,
    t_mid=run.sample.t_mid,
    gamma=run.sample.gamma,
    sigma_max=run.sample.sigma_max,
    solver=run.sample.solver,
    solver_steps=run.sample.solver_steps,
    guidance=run.sample.guidance,
    guidance_interval=run.sample.guidance_interval,
    guidance_channels=run.sample.guidance_channels,
    unconditional=bool(run.objective.label_dropout),
    batch_size=run.sample.batch_size,
  )


def constrained(run: Run, average: Any) -> Any:
  """Returns an average on the constraint of its network's weights.

  An average of points on EDM2's sphere lies inside it. The arrays stay in their
  shards. Where a filter is cut, or lies beside fewer others than on one device,
  its sum of squares is taken in another order, and the result may differ in the
  last bits. Any tree of the network's parameters will do.
  """
  # EDM2's own networks are used as EDM2 normalises them.
  eps = magnitude.EPS if run.network.form == "edm2" else 0.0
  leaves, structure = jax.tree.flatten(average)
  where = tuple(getattr(leaf, "sharding", None) for leaf in leaves)
  return _constrain(networks.family_name(run.network), eps, structure, where)(
    average
  )


@functools.lru_cache(maxsize=64)
def _constrain(
  family: str, eps: float, structure: Any, where: tuple
) -> Callable:
  """Returns a function that is jitted once for each tree of shardings."""
  apply = networks.FAMILIES[family].constraint.apply
  return jax.jit(
    functools.partial(apply, eps=eps), out_shardings=structure.unflatten(where)
  )
