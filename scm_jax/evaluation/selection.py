"""Which networks and samplers are candidates, and which of them is the best."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from scm_jax.errors import ConfigError
from scm_jax.evaluation.candidate import Candidate, DrawnImages
from scm_jax.evaluation.request import CandidateGrid, NetworkOptions
from scm_jax.evaluation.scoring import Scorer
from scm_jax.interop import export_folder
from scm_jax.metrics import registry
from scm_jax.reporting import guidance
from scm_jax.sampler import Sampler
from scm_jax.sampler_kinds import Guidance, joined
from scm_jax.training import workdir

_LOG = logging.getLogger(__name__)


# load(path, width): a sampler, and its checkpoint's `config`, `step` and `ema`.
Load = Callable[[str, float], tuple[Sampler, dict[str, Any]]]


def make_loader(options: NetworkOptions) -> Load:
  """Returns a function that loads networks, and caches the last few."""

  @functools.lru_cache(maxsize=4)
  def load(path: str, width: float) -> tuple[Sampler, dict[str, Any]]:
    model, metadata = workdir.load(path, width, options.autoencoder)
    if options.guide and not model.rules.guidance_is_input:
      weak, seen = workdir.load(options.guide, options.guide_ema, "")
      model = model.guided_by(weak)
      names = ("step", "ema")
      seen = {"workdir": options.guide} | {name: seen[name] for name in names}
      metadata = metadata | {"guide": seen}
    model = dataclasses.replace(model, **dict(options.changes))
    return export_folder.in_dtype(model, options.dtype), metadata

  return load


def check_guidance(
  grid: CandidateGrid, load: Load, options: NetworkOptions
) -> None:
  """Raises ConfigError for guidance that none of the networks takes.

  That is a scale of `grid`, a guide, or a limit to where guidance acts.
  """
  guide, changes = options.guide, dict(options.changes)
  limits = [
    name for name in ("interval", "channels") if changes.get(f"guidance_{name}")
  ]
  scaled = grid.guidance not in ((), (1.0,))
  if not (scaled or guide or limits):
    return
  models = [load(path, grid.ema[0])[0] for path in grid.workdirs]
  if guide and not any(model.guidance_network for model in models):
    raise ConfigError(
      f"--guide={guide}: none of the runs is a diffusion model, which alone "
      "can be guided by another network; leave it out"
    )
  refusals = [model.guidance_refusal() for model in models]
  if scaled and all(refusals):
    raise ConfigError(
      f"--guidance cannot be used for {grid.workdirs[0]}: {refusals[0]}"
    )
  if limits and not any(
    model.extrapolates(scale)
    for model in models
    for scale in grid.guidance or (model.guidance_scale(),)
  ):
    raise ConfigError(
      f"--guidance-{limits[0]} has no effect: no diffusion model is guided; "
      "give --guidance too, or leave it out"
    )


def check_steps(grid: CandidateGrid) -> None:
  """Raises ConfigError for scales or times of a number of steps not taken."""
  scales = (x for x in grid.guidance if isinstance(x, tuple))
  given = [("guidance", x, len(x)) for x in scales]
  given += [("times", x, len(x) + 1) for x in grid.times]
  for name, values, steps in given:
    if steps not in grid.steps:
      raise ConfigError(
        f"--{name}={joined(values)} is for {steps} steps, but --steps is "
        f"{','.join(map(str, grid.steps))}; add {steps} to it"
      )


def groups(grid: CandidateGrid, load: Load) -> Iterator[list[DrawnImages]]:
  """Yields the candidates of each run and number of steps.

  They do not vary in what a network does not take (a guidance scale, a second
  time).
  """
  for path in grid.workdirs:
    first, _ = load(path, grid.ema[0])
    steps = grid.steps
    if not first.rules.few_steps:
      steps = grid.teacher_steps or dict.fromkeys((first.solver_steps, 1))
    for count in steps:
      varied, found = _varied(grid, first, count), []
      scales = _scales(grid, first, count)
      settings = itertools.product(*varied.values())
      for width, scale, own in itertools.product(grid.ema, scales, settings):
        model, metadata = load(path, width)
        changes: dict[str, Any] = dict(zip(varied, own, strict=True))
        model = dataclasses.replace(model, **changes)
        found.append(DrawnImages(model, count, scale, metadata, path))
      yield found


def _scales(
  grid: CandidateGrid, model: Sampler, steps: int
) -> tuple[Guidance, ...]:
  """Returns the guidance scales that a model draws with in so many steps."""

  def fits(scale: Guidance) -> bool:
    if not isinstance(scale, tuple):
      return True
    return model.rules.guidance_is_input and len(scale) == steps

  given = () if model.guidance_refusal() else grid.guidance
  return tuple(filter(fits, given)) or (model.guidance_scale(),)


def _varied(
  grid: CandidateGrid, model: Sampler, steps: int
) -> dict[str, tuple[Any, ...]]:
  """Returns the values of a model's settings that vary, by their names."""
  own = model.rules.settings if steps > 1 else ()
  values = {name: getattr(grid, name) for name in ("t_mid", "gamma")}
  varied = {name: x for name, x in values.items() if x and name in own}
  times = tuple(x for x in grid.times if len(x) == steps - 1)
  if times and "t_mid" in own:
    varied.pop("t_mid", None)
    varied["times"] = times
  return varied


class Choice(NamedTuple):
  """The candidate that was selected, and what a report says of that."""

  best: Candidate
  facts: dict[str, Any]
  warnings: tuple[str, ...]


def check_score(grid: CandidateGrid, scorer: Scorer) -> None:
  """Raises ConfigError if the reference lacks what the selection needs."""
  by = scorer.protocol.select_by
  metric = registry.by_key()[by]
  needed = metric.reference_statistic.name
  given = scorer.reference.statistics[scorer.main_extractor]
  if grid.selects and metric.compares and needed not in given:
    raise ConfigError(
      f"--select-by={by} compares single images, and the "
      f"reference {scorer.reference.metadata['dataset']} has their mean and "
      "covariance alone; give --select-by=fd --select-num=0"
    )


def select(candidates: Sequence[Candidate], scorer: Scorer) -> Choice:
  """Selects the best candidate, by samples of a seed that no report uses."""
  protocol, main = scorer.protocol, scorer.main_extractor
  few = min(protocol.select_num or scorer.num, scorer.num)
  seed, by = max(protocol.seeds) + 1, protocol.select_by

  curve: list[dict[str, float]] = []  # of all candidates, for the report

  def score(candidate: Candidate) -> float:
    _LOG.info("scoring %d images to select: %s", few, candidate.settings())
    found, _ = scorer.score(candidate, few, seed, allow_few=True)
    if by not in found:
      given = [k for k, v in found.items() if isinstance(v, dict) and main in v]
      raise ConfigError(
        f"--select-by={by}: the features of {main} do not give this score; "
        f"give one of {', '.join(given)}"
      )
    if main not in found[by]:
      raise ConfigError(
        f"--select-by={by} needs more than {few} images; give --select-num=0, "
        "a larger --num or --keep, or --select-by=kid"
      )
    shown = (name for name in guidance.SCORES if main in found[name])
    curve.append({name: found[name][main] for name in shown})
    return found[by][main]

  warnings = []
  if len(candidates) > 1 and by == "fd" and few < scorer.num:
    warnings.append(
      f"chosen by the Fréchet distance of {few} images, fewer than the "
      f"{scorer.num} of the score: few images favour candidates whose samples "
      "vary less, such as those with more guidance; give --select-num=0 or "
      "--select-by=kid"
    )
    _LOG.warning(warnings[0])
  best, table = choose(candidates, score, by)
  table = [scores | row for scores, row in zip(curve, table, strict=True)]
  facts = {"num": few, "seed": seed, "by": f"{by} {main}", "candidates": table}
  return Choice(best, {"selection": facts} if table else {}, tuple(warnings))


def choose(
  candidates: Sequence[Candidate], score: Callable[[Candidate], float], by: str
) -> tuple[Candidate, list[dict[str, Any]]]:
  """Returns the best candidate, and the settings and scores of all.

  The score's key `by` tells the better direction. A single candidate is not
  scored, and its table is empty.
  """
  if len(candidates) == 1:
    return candidates[0], []
  scores = [score(candidate) for candidate in candidates]
  table = [
    {**candidate.settings(), by: value}
    for candidate, value in zip(candidates, scores, strict=True)
  ]
  best = max if registry.columns()[by].higher_is_better else min
  return candidates[scores.index(best(scores))], table
