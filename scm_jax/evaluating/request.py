"""What to evaluate, and how the work is done."""

import dataclasses
import hashlib
import pathlib

from scm_jax.errors import UserError
from scm_jax.metrics.accumulator import KEPT

DATA, UNIFORM = "data", "uniform"  # distributions of classes


@dataclasses.dataclass(frozen=True)
class Request:
  """What to evaluate; equal requests give equal reports.

  Where several guidances, averages or second times are given, the best is
  chosen by few samples of another seed, and then scored on `seeds`.

  Attributes:
    workdirs: trained runs, shown in this order.
    steps: of students.
    teacher_steps: of teachers' solvers; `n` Heun steps are `2 n - 1`
      evaluations.
    num: images for each run and seed; 0 is as many as the reference has, at
      most 50,000.
    seeds: of the samples.
    guidance: scales, for networks that take one.
    ema: widths of the weight average; 0 is each config's first.
    t_mid: second times of students' samplers; none is each config's.
    select_num: images that each choice is scored with.
    labels: classes of the samples, as in the reference (`data`) or each as
      often as any other (`uniform`).
    reference: a file (see `metrics.published`), or `name` or `name:split` of a
      dataset; "" is the first workdir's training data.
    features: feature spaces, of `extractors.NAMES`.
    weights: (name, file) of the published networks among them.
    autoencoder: of models of latents, the file that decodes samples; "" is
      none, a preview; None is each workdir's own.
    keep: of how many images features are compared one by one.
    allow_few: give Fréchet distances even with fewer images than features.
  """

  workdirs: tuple[str, ...]
  steps: tuple[int, ...] = (1, 2)
  teacher_steps: tuple[int, ...] = (32, 1)
  num: int = 0
  seeds: tuple[int, ...] = (0,)
  guidance: tuple[float, ...] = (1.0,)
  ema: tuple[float, ...] = (0.0,)
  t_mid: tuple[float, ...] = ()
  select_num: int = 5000
  labels: str = DATA
  reference: str = ""
  features: tuple[str, ...] = ("classifier", "pixels")
  weights: tuple[tuple[str, str], ...] = ()
  autoencoder: str | None = None
  keep: int = KEPT
  allow_few: bool = False


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
