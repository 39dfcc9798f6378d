"""What to evaluate, and how the work is done."""

import dataclasses
import hashlib
import pathlib
from typing import Any

from scm_jax.errors import UserError
from scm_jax.metrics.accumulator import KEPT


@dataclasses.dataclass(frozen=True)
class Request:
  """What to evaluate; equal requests give equal reports.

  Where several guidances, averages or second times are given, the best is
  chosen by samples of another seed, and then scored on `seeds`.

  Attributes:
    workdirs: trained runs, shown in this order.
    steps: of students.
    teacher_steps: of teachers' solvers; `n` Heun steps are `2 n - 1`
      evaluations. None is each config's, and 1.
    num: images for each run and seed; 0 is as many as the reference has, at
      most 50,000.
    seeds: of the samples.
    guidance: scales, for networks that take one; none is each config's.
    ema: widths of the weight average; 0 is each config's first.
    t_mid: second times of students' samplers; none is each config's.
    changes: other fields of each `Model`, (name, value): `solver`, `sigma_max`.
    dtype: of the networks' computation; "" is each run's own.
    select_num: images that each choice is scored with; 0 is as many as are
      reported.
    select_by: "fd", or "kid", which few samples do not bias.
    labels: how the samples' classes are chosen, a name in `labels.WAYS`.
    reference: a file (see `metrics.published`), or `name` or `name:split` of a
      dataset; "" is the first workdir's training data; None is what its
      `config.evaluate.reference` says.
    features: feature spaces, of `extractors.NAMES`.
    weights: (name, file) of the published networks among them.
    autoencoder: of models of latents, the file that decodes samples; "" is
      none, a preview; None is each workdir's own.
    keep: of how many images features are compared one by one.
    allow_few: give Fréchet distances even with fewer images than features.
  """

  workdirs: tuple[str, ...]
  steps: tuple[int, ...] = (1, 2)
  teacher_steps: tuple[int, ...] = ()
  num: int = 0
  seeds: tuple[int, ...] = (0,)
  guidance: tuple[float, ...] = ()
  ema: tuple[float, ...] = (0.0,)
  t_mid: tuple[float, ...] = ()
  changes: tuple[tuple[str, Any], ...] = ()
  dtype: str = ""
  select_num: int = 0
  select_by: str = "fd"
  labels: str = "random"
  reference: str | None = None
  features: tuple[str, ...] = ("classifier", "pixels")
  weights: tuple[tuple[str, str], ...] = ()
  autoencoder: str | None = None
  keep: int = KEPT
  allow_few: bool = False

  @property
  def chooses(self) -> bool:
    """Whether one of several samplers or averages may have to be chosen."""
    return any(len(x) > 1 for x in (self.guidance, self.ema, self.t_mid))


@dataclasses.dataclass(frozen=True)
class Way:
  """How the work is done, which changes no score but by rounding.

  Attributes:
    batch_size: images at once on all devices together; 0 is each config's.
    save_every: batches after which sums are saved.
    save_samples: keep the images, too, under `samples/`.
    cache: folder of trained classifiers and reference statistics; "" is
      `features` beside the report.
  """

  batch_size: int = 0
  save_every: int = 16
  save_samples: bool = False
  cache: str = ""


def digest(*parts: object) -> str:
  """Hex digest of what the parts look like."""
  return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_digest(path: str) -> str:
  """Hex digest of a file's content.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with pathlib.Path(path).expanduser().open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
