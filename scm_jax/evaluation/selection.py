"""Which networks and samplers are asked for, and which of them are best."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation.candidate import Subject
from scm_jax.evaluation.request import Request
from scm_jax.interop import export_folder
from scm_jax.sampler import Sampler
from scm_jax.training import workdir
from scm_jax.training.checkpoints import checksum

Score = Callable[[Subject], float]


class Loader:
  """Loads networks as a request wants them, and keeps the last few.

  Attributes:
    load: `load(path, width)`, as `workdir.load`.
  """

  def __init__(self, request: Request):
    def load(path: str, width: float) -> tuple[Sampler, dict]:
      model, about = workdir.load(path, width, request.autoencoder)
      model = dataclasses.replace(model, **dict(request.changes))
      return export_folder.in_dtype(model, request.dtype), about

    self.load = functools.lru_cache(maxsize=4)(load)


def check(request: Request, loader: Loader) -> None:
  """Raises ConfigError for scales that none of the networks takes."""
  if request.guidance in ((), (1.0,)):
    return
  refusals = [
    loader.load(path, request.ema[0])[0].guidance_refusal()
    for path in request.workdirs
  ]
  if all(refusals):
    raise ConfigError(
      f"--guidance cannot be used for {request.workdirs[0]}: {refusals[0]}"
    )


def state(request: Request, loader: Loader) -> list[Any]:
  """What the workdirs hold, so that other weights are another question."""
  found = []
  for path in request.workdirs:
    for width in request.ema:
      model, about = loader.load(path, width)
      mark = checksum.of((model.weights, model.decoder))
      found.append((about["step"], about["ema"], mark))
  return found


def groups(request: Request, loader: Loader) -> Iterator[list[Subject]]:
  """The subjects of each run and number of steps; of several, one is chosen.

  What a network does not take (a scale, a second time) it is not varied by.
  """
  for path in request.workdirs:
    first, _ = loader.load(path, request.ema[0])
    steps = request.steps
    if first.kind == "diffusion":
      own = dict.fromkeys((first.solver_steps, 1))
      steps = request.teacher_steps or own
    for count in steps:
      yield list(_candidates(request, loader, path, count))


def _candidates(
  request: Request, loader: Loader, path: str, steps: int
) -> Iterator[Subject]:
  first, _ = loader.load(path, request.ema[0])
  scales = (first.guidance_scale(),)
  if request.guidance and not first.guidance_refusal():
    scales = request.guidance
  times: Sequence[float | None] = (None,)
  if request.t_mid and "t_mid" in first.settings(steps, 1.0):
    times = request.t_mid
  for width, scale, t_mid in itertools.product(request.ema, scales, times):
    model, about = loader.load(path, width)
    if t_mid is not None:
      model = dataclasses.replace(model, t_mid=t_mid)
    yield Subject(model, steps, scale, about, path)


def choose(
  candidates: Sequence[Subject], score: Score, by: str
) -> tuple[Subject, list[dict[str, Any]]]:
  """The subject with the least score, and all of them for the report.

  Args:
    candidates: to choose from.
    score: of a candidate; it is not asked about a single one.
    by: the score's name.

  Raises:
    UserError: see `score`.
  """
  if not candidates:
    raise UserError("there is nothing to choose from")
  if len(candidates) == 1:
    return candidates[0], []
  scores = [score(candidate) for candidate in candidates]
  table = [
    {**candidate.settings(), by: value}
    for candidate, value in zip(candidates, scores, strict=True)
  ]
  return candidates[scores.index(min(scores))], table
