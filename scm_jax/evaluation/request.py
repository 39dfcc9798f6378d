"""The question that an evaluation answers, and the options of its work."""

import dataclasses
import hashlib
import pathlib
from typing import Any

from scm_jax import errors
from scm_jax.metrics.accumulator import KEPT
from scm_jax.sampler_kinds import Guidance


@dataclasses.dataclass(frozen=True)
class CandidateGrid:
  """The runs and samplers to evaluate; an empty tuple means each config's own.

  Where several guidance scales, EMA widths, times or gammas are given, the best
  combination is selected on samples of another seed. A tuple of scales has one
  for each step, and a tuple of times one for each step after the first; they
  count where there are so many steps.
  """

  workdirs: tuple[str, ...]  # trained runs, in the order of the report
  steps: tuple[int, ...] = (1, 2)  # of students' samplers
  teacher_steps: tuple[int, ...] = ()  # of teachers' solvers; empty adds 1
  guidance: tuple[Guidance, ...] = ()  # scales, for networks that take one
  ema: tuple[float, ...] = (0.0,)  # widths; 0 is each config's first
  t_mid: tuple[float, ...] = ()  # second times of students' samplers
  times: tuple[tuple[float, ...], ...] = ()  # in place of second times
  gamma: tuple[float, ...] = ()  # fresh parts of flow maps' noise

  @property
  def selects(self) -> bool:
    """Returns whether a run may have several candidates."""
    varied = (self.guidance, self.ema, self.t_mid, self.times, self.gamma)
    return any(len(values) > 1 for values in varied)


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
  """The options with which networks are loaded.

  The autoencoder is the file of the one that decodes samples of networks of
  latents; "" is none (a preview), None is each workdir's own. The guide is the
  folder of a weak network that guides diffusion models; "" is each one's own.
  """

  changes: tuple[tuple[str, Any], ...] = ()  # of a sampler's fields, by name
  dtype: str = ""  # type in which networks compute; "" is each run's own
  autoencoder: str | None = None
  guide: str = ""
  guide_ema: float = 0.0  # width of the guide's EMA weights; 0 is its first


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The rules by which samples are chosen and scored."""

  num: int = 0  # images for each run and seed; 0 is as many as real ones
  seeds: tuple[int, ...] = (0,)  # of the samples
  labels: str = "random"  # of `labels.MODES`; "" if nothing is drawn
  keep: int = KEPT  # images whose features are compared one by one
  allow_few: bool = False  # Fréchet distances of fewer images than features
  select_num: int = 0  # images to select candidates by; 0 is `num`
  select_by: str = "fd"  # key of the score to select candidates by


@dataclasses.dataclass(frozen=True)
class Request:
  """The question that an evaluation answers; equal ones give equal reports.

  The reference is a file (see `metrics.reference_files`), or `name` or
  `name:split` of a dataset; "" is the first workdir's training data, and None
  is what its `config.evaluate.reference` says.
  """

  grid: CandidateGrid
  networks: NetworkOptions = NetworkOptions()
  protocol: Protocol = Protocol()
  features: tuple[str, ...] = ("classifier", "pixels")  # names of extractors
  weights: tuple[tuple[str, str], ...] = ()  # their files, by extractor name
  reference: str | None = None
  images: str = ""  # a folder or file of images to score in place of runs
  then: str = ""  # workdir of a network that finishes what the run begins

  def fields(self) -> dict[str, Any]:
    """Returns the fields of all parts by name, as `report.json` keeps them.

    Those of which reports of earlier versions know nothing are left out where
    they are empty.
    """
    fields = dataclasses.asdict(self)
    for part in ("grid", "networks", "protocol"):
      fields |= fields.pop(part)
    for name in ("images", "then", "gamma", "times", "guide"):
      if not fields[name]:
        del fields[name]
    if "guide" not in fields:
      del fields["guide_ema"]
    return fields


@dataclasses.dataclass(frozen=True)
class PassOptions:
  """The options of a pass over images that computes their statistics."""

  batch_size: int  # images at once on all devices together
  keep: int = KEPT  # images whose features are kept
  save_every: int = 16  # batches between two saves of partial statistics


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
  """The options of the work, which change scores by rounding alone."""

  batch_size: int = 0  # as in `PassOptions`; 0 is each config's
  save_every: int = 16  # as in `PassOptions`
  save_samples: bool = False  # whether to keep the images, under `samples/`
  cache: str = ""  # folder of classifiers and statistics; "" is OUT/features


def digest(*parts: object) -> str:
  """Returns a hex digest of the parts' `repr`."""
  return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_digest(path: str) -> str:
  """Returns a hex digest of a file's content, or raises UserError."""
  with errors.reading(path), pathlib.Path(path).expanduser().open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
