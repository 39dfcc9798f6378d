"""The question that an evaluation answers, and the options of its work."""

import dataclasses
import hashlib
import pathlib
from typing import Any

from scm_jax.errors import UserError
from scm_jax.metrics.accumulator import KEPT


@dataclasses.dataclass(frozen=True)
class CandidateGrid:
  """The runs and samplers to evaluate.

  Where several guidance scales, EMA widths or second times are given, the best
  combination is selected on samples of another seed.

  Attributes:
    workdirs: trained runs, in the order of the report.
    steps: numbers of steps of students' samplers.
    teacher_steps: numbers of steps of teachers' solvers; `n` Heun steps are
      `2 n - 1` evaluations. Empty means each config's number, and 1.
    guidance: scales, for networks that take one; empty means each config's.
    ema: widths of the EMA; 0 is each config's first.
    t_mid: second times of students' samplers; empty means each config's.
  """

  workdirs: tuple[str, ...]
  steps: tuple[int, ...] = (1, 2)
  teacher_steps: tuple[int, ...] = ()
  guidance: tuple[float, ...] = ()
  ema: tuple[float, ...] = (0.0,)
  t_mid: tuple[float, ...] = ()

  @property
  def selects(self) -> bool:
    """Returns whether a run may have several candidates."""
    return any(len(x) > 1 for x in (self.guidance, self.ema, self.t_mid))


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
  """The options with which networks are loaded.

  Attributes:
    changes: other values of a sampler's fields, (name, value): `solver`,
      `sigma_max`.
    dtype: type in which networks compute; "" is each run's own.
    autoencoder: for networks of latents, the file of the autoencoder that
      decodes samples; "" is none (a preview), None is each workdir's own.
  """

  changes: tuple[tuple[str, Any], ...] = ()
  dtype: str = ""
  autoencoder: str | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The rules by which samples are chosen and scored.

  Attributes:
    num: images for each run and seed; 0 is as many as the reference has, at
      most 50,000.
    seeds: seeds of the samples.
    labels: how the samples' classes are chosen, a key of `labels.MODES`.
    keep: number of images whose features are compared one by one.
    allow_few: compute Fréchet distances even with fewer images than features.
    select_num: images that each candidate is scored with to select the best;
      0 is as many as are reported.
    select_by: key of the score to select by.
  """

  num: int = 0
  seeds: tuple[int, ...] = (0,)
  labels: str = "random"
  keep: int = KEPT
  allow_few: bool = False
  select_num: int = 0
  select_by: str = "fd"


@dataclasses.dataclass(frozen=True)
class Request:
  """The question that an evaluation answers; equal ones give equal reports.

  Attributes:
    grid: the runs and samplers.
    networks: the options with which networks are loaded.
    protocol: the rules by which samples are chosen and scored.
    features: names of extractors, keys of `extractors.EXTRACTORS`.
    weights: (name, file) of the published networks among them.
    reference: what samples are compared with: a file (see
      `metrics.reference_files`), or `name` or `name:split` of a dataset; "" is
      the first workdir's training data, and None is what its
      `config.evaluate.reference` says.
  """

  grid: CandidateGrid
  networks: NetworkOptions = NetworkOptions()
  protocol: Protocol = Protocol()
  features: tuple[str, ...] = ("classifier", "pixels")
  weights: tuple[tuple[str, str], ...] = ()
  reference: str | None = None

  def fields(self) -> dict[str, Any]:
    """Returns the fields of all parts by name, as `report.json` keeps them."""
    fields = dataclasses.asdict(self)
    parts = [fields.pop(name) for name in ("grid", "networks", "protocol")]
    return fields | {key: x for part in parts for key, x in part.items()}


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
  """The options of the work, which change scores by rounding alone.

  Attributes:
    batch_size: images at once on all devices together; 0 is each config's.
    save_every: number of batches between two saves of partial statistics.
    save_samples: whether to keep the images, under `samples/`.
    cache: folder of trained classifiers and reference statistics; "" is
      `features` beside the report.
  """

  batch_size: int = 0
  save_every: int = 16
  save_samples: bool = False
  cache: str = ""


@dataclasses.dataclass(frozen=True)
class PassOptions:
  """The options of a pass over images that computes their statistics.

  Attributes:
    batch_size: images at once on all devices together.
    keep: number of images whose features are kept.
    save_every: number of batches between two saves of partial statistics.
  """

  batch_size: int
  keep: int = KEPT
  save_every: int = 16


def digest(*parts: object) -> str:
  """Returns a hex digest of the parts' `repr`."""
  return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_digest(path: str) -> str:
  """Returns a hex digest of a file's content.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    with pathlib.Path(path).expanduser().open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
