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
from scm_jax.training import workdir

_LOG = logging.getLogger(__name__)


# load(path, width): a sampler, and its checkpoint's `config`, `step` and `ema`.
Load = Callable[[str, float], tuple[Sampler, dict[str, Any]]]


def make_loader(options: NetworkOptions) -> Load:
  """Returns a function that loads networks, and caches the last few."""

  @functools.lru_cache(maxsize=4)
  def load(path: str, width: float) -> tuple[Sampler, dict[str, Any]]:
    model, metadata = workdir.load(path, width, options.autoencoder)
    model = dataclasses.replace(model, **dict(options.changes))
    return export_folder.in_dtype(model, options.dtype), metadata

  return load


def check_guidance(grid: CandidateGrid, load: Load) -> None:
  """Raises ConfigError for guidance scales that none of the networks takes."""
  if grid.guidance in ((), (1.0,)):
    return
  models = [load(path, grid.ema[0])[0] for path in grid.workdirs]
  refusals = [model.guidance_refusal() for model in models]
  if all(refusals):
    raise ConfigError(
      f"--guidance cannot be used for {grid.workdirs[0]}: {refusals[0]}"
    )


def groups(grid: CandidateGrid, load: Load) -> Iterator[list[DrawnImages]]:
  """Yields the candidates of each run and number of steps.

  They do not vary in what a network does not take (a guidance scale, a second
  time).
  """
  for path in grid.workdirs:
    first, _ = load(path, grid.ema[0])
    scales = (first.guidance_scale(),)
    if grid.guidance and not first.guidance_refusal():
      scales = grid.guidance
    steps = grid.steps
    if first.kind == "diffusion":
      steps = grid.teacher_steps or dict.fromkeys((first.solver_steps, 1))
    for count in steps:
      own = first.settings(count, 1.0)
      varied = {
        name: values
        for name in ("t_mid", "gamma")
        if name in own and (values := getattr(grid, name))
      }
      found = []
      of_run = itertools.product(grid.ema, scales, *varied.values())
      for width, scale, *settings in of_run:
        model, metadata = load(path, width)
        changes: dict[str, Any] = dict(zip(varied, settings, strict=True))
        model = dataclasses.replace(model, **changes)
        found.append(DrawnImages(model, count, scale, metadata, path))
      yield found


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
