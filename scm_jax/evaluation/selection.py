"""Which networks and samplers are candidates, and which of them is the best."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from scm_jax.errors import ConfigError
from scm_jax.evaluation.candidate import Candidate
from scm_jax.evaluation.request import CandidateGrid, NetworkOptions
from scm_jax.evaluation.scoring import Scorer
from scm_jax.interop import export_folder
from scm_jax.metrics import registry
from scm_jax.sampler import Sampler
from scm_jax.training import workdir
from scm_jax.training.checkpoints import checksum

_LOG = logging.getLogger(__name__)


class Loader:
  """Loads networks with some options, and caches the last few.

  Attributes:
    load: `load(path, width)` returns a sampler, and its checkpoint's `config`,
      `step` and `ema`, as `workdir.load` does.
  """

  def __init__(self, options: NetworkOptions):
    """Loads nothing yet."""

    def load(path: str, width: float) -> tuple[Sampler, dict]:
      model, metadata = workdir.load(path, width, options.autoencoder)
      model = dataclasses.replace(model, **dict(options.changes))
      return export_folder.in_dtype(model, options.dtype), metadata

    self.load = functools.lru_cache(maxsize=4)(load)


def check_guidance(grid: CandidateGrid, loader: Loader) -> None:
  """Raises ConfigError for guidance scales that none of the networks takes."""
  if grid.guidance in ((), (1.0,)):
    return
  refusals = [
    loader.load(path, grid.ema[0])[0].guidance_refusal()
    for path in grid.workdirs
  ]
  if all(refusals):
    raise ConfigError(
      f"--guidance cannot be used for {grid.workdirs[0]}: {refusals[0]}"
    )


def weights_state(grid: CandidateGrid, loader: Loader) -> list[Any]:
  """Returns step, EMA and checksum of all weights that are evaluated.

  Other weights make another question, which a cached report does not answer.
  """
  found = []
  for path in grid.workdirs:
    for width in grid.ema:
      model, metadata = loader.load(path, width)
      mark = checksum.of((model.weights, model.decoder))
      found.append((metadata["step"], metadata["ema"], mark))
  return found


def groups(grid: CandidateGrid, loader: Loader) -> Iterator[list[Candidate]]:
  """Yields the candidates of each run and number of steps.

  They do not vary in what a network does not take (a guidance scale, a second
  time).
  """
  for path in grid.workdirs:
    first, _ = loader.load(path, grid.ema[0])
    steps = grid.steps
    if first.kind == "diffusion":
      own = dict.fromkeys((first.solver_steps, 1))
      steps = grid.teacher_steps or own
    for count in steps:
      yield list(_candidates(grid, loader, path, count))


def _candidates(
  grid: CandidateGrid, loader: Loader, path: str, steps: int
) -> Iterator[Candidate]:
  """Yields the candidates of one run with one number of steps."""
  first, _ = loader.load(path, grid.ema[0])
  scales = (first.guidance_scale(),)
  if grid.guidance and not first.guidance_refusal():
    scales = grid.guidance
  times: Sequence[float | None] = (None,)
  if grid.t_mid and "t_mid" in first.settings(steps, 1.0):
    times = grid.t_mid
  for width, scale, t_mid in itertools.product(grid.ema, scales, times):
    model, metadata = loader.load(path, width)
    if t_mid is not None:
      model = dataclasses.replace(model, t_mid=t_mid)
    yield Candidate(model, steps, scale, metadata, path)


class Choice(NamedTuple):
  """The candidate that was selected.

  Attributes:
    best: the candidate.
    facts: what a report says of the selection; empty for a single candidate.
    warnings: sentences on what may be wrong with it.
  """

  best: Candidate
  facts: dict[str, Any]
  warnings: tuple[str, ...]


def check_score(grid: CandidateGrid, scorer: Scorer) -> None:
  """Raises ConfigError if the reference lacks what the selection needs."""
  by = scorer.protocol.select_by
  metric = registry.metric_of(by)
  given = scorer.reference.statistics[scorer.main_extractor]
  lacks = metric.compares and metric.statistic.name not in given
  if grid.selects and lacks:
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

  def score(candidate: Candidate) -> float:
    _LOG.info("scoring %d images to select: %s", few, candidate.settings())
    found, _ = scorer.score(candidate, few, seed, allow_few=True)
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
  facts = {"num": few, "seed": seed, "by": f"{by} {main}", "candidates": table}
  return Choice(best, {"selection": facts} if table else {}, tuple(warnings))


def choose(
  candidates: Sequence[Candidate], score: Callable[[Candidate], float], by: str
) -> tuple[Candidate, list[dict[str, Any]]]:
  """Returns the candidate with the best score, and a table for the report.

  Args:
    candidates: the candidates, at least one.
    score: returns a candidate's score; a single candidate is not scored.
    by: the key of the score, which also tells the better direction.

  Returns:
    The best candidate, and the settings and scores of all; an empty table for
    a single candidate.
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
