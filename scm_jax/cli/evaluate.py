"""`scm-jax evaluate`: scores workdirs and writes a report."""

import argparse
import signal
from collections.abc import Callable
from typing import Any

from scm_jax.cli import console, settings
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax evaluate --workdir=runs/digits/scd --steps=1,2
scm-jax evaluate --out=runs/digits \\
    --workdir=runs/digits/teacher,runs/digits/scd,runs/digits/sct
scm-jax evaluate --workdir=runs/scd --features=inception --seeds=0,1,2 \\
    --weights=inception=pt_inception-2015-12-05-6726825d.pth \\
    --reference=img512.pkl --num=50000 --guidance=1,1.4,2 --ema=0.05,0.1"""

# Flag, metavar, default, help.
_FLAGS = (
  ("--steps", "N,...", "1,2", "of students; default 1,2"),
  (
    "--teacher-steps",
    "N,...",
    "",
    "of teachers' solvers; default the config's and 1; 32 steps of Heun are 63 "
    "evaluations",
  ),
  (
    "--num",
    "N",
    "0",
    "images for each run and seed; default as many as the reference has, at "
    "most 50000",
  ),
  (
    "--guidance",
    "S,...",
    "",
    "scales, for networks that take one; default each config's",
  ),
  (
    "--ema",
    "SIGMA_REL,...",
    "0",
    "weight averages, as for sample; default each config's first",
  ),
  (
    "--t-mid",
    "T,...",
    "",
    "second times of students' samplers; default each config's. Of several "
    "scales, averages or times the best is chosen by --select-num images of "
    "another seed, and reported on fresh ones",
  ),
  (
    "--select-num",
    "N",
    "0",
    "images to choose by; default 0, as many as for the score. With fewer, "
    "--select-by=fd favours candidates that vary less",
  ),
  (
    "--features",
    "NAME,...",
    "classifier,pixels",
    "feature spaces: classifier (trained on the data), pixels, inception, "
    "dinov2",
  ),
  (
    "--weights",
    "NAME=FILE,...",
    "",
    "weights of the published ones, as inception=FILE,dinov2=FILE",
  ),
  (
    "--keep",
    "N",
    "10000",
    "images whose features are compared one by one, for KID, precision, "
    "recall, density and coverage; default 10000",
  ),
  (
    "--batch-size",
    "N",
    "0",
    "images at once on all devices together; default each config's",
  ),
  (
    "--save-every",
    "N",
    "16",
    "batches after which sums are saved, to go on from; default 16",
  ),
  ("--cache", "DIR", "", "of classifiers and statistics; default OUT/features"),
  ("--out", "DIR", "", "where the report goes; default the first workdir"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--workdir",
    metavar="DIR,DIR,...",
    required=True,
    help="trained runs, shown in this order",
  )
  for flag, metavar, default, text in _FLAGS:
    parser.add_argument(flag, metavar=metavar, default=default, help=text)
  settings.add_arguments(parser)
  parser.add_argument(
    "--reference",
    metavar="NAME[:SPLIT]|FILE",
    help="a dataset, or statistics in EDM2's .pkl or pytorch-fid's or ADM's "
    ".npz, or images in an .npz or .npy; empty is the training data; default "
    "config.evaluate.reference of the first workdir",
  )
  parser.add_argument(
    "--select-by",
    choices=("fd", "kid"),
    default="fd",
    help="what chooses: the Fréchet distance, or the kernel distance, which "
    "few images do not bias; default fd",
  )
  parser.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="of models of latents, what decodes samples; default each workdir's "
    "own, empty for a preview",
  )
  parser.add_argument(
    "--seeds",
    "--seed",
    metavar="N,...",
    default="0",
    help="of the samples; of several, mean, sd and minimum are given",
  )
  parser.add_argument(
    "--labels",
    metavar="WAY",
    default="random",
    help="classes of the samples: random ones, as published distances have "
    "them; each as often as any other (balanced; formerly uniform); or as "
    "often as in the reference (data); default random",
  )
  parser.add_argument(
    "--allow-few",
    action="store_true",
    help="Fréchet distances even with fewer images than features",
  )
  parser.add_argument(
    "--save-samples",
    action="store_true",
    help="keep the images, as OUT/samples/*.npy",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Prints the table of scores and where the report is."""
  workdirs = tuple(filter(None, args.workdir.split(",")))
  if not workdirs:
    raise ConfigError("--workdir names no folder")
  asked = {
    "steps": _numbers("--steps", args.steps, least=1),
    "teacher_steps": _optional("--teacher-steps", args.teacher_steps, least=1),
    "num": _number("--num", args.num),
    "seeds": _numbers("--seeds", args.seeds),
    "guidance": _optional("--guidance", args.guidance, kind=float),
    "ema": _numbers("--ema", args.ema, kind=float),
    "t_mid": _times(args.t_mid),
    "select_num": _number("--select-num", args.select_num),
    "keep": _number("--keep", args.keep),
    "changes": tuple(settings.changes(args).items()),
    "weights": _weights(args.weights),
  }
  if asked["select_num"] == 1:
    raise ConfigError("--select-num is 1; it must be at least 2, or 0 for all")
  batch_size = _number("--batch-size", args.batch_size)
  save_every = _number("--save-every", args.save_every, least=1)
  console.start()

  from etils import epath

  from scm_jax.evaluation import evaluate, labels
  from scm_jax.evaluation.request import Request, Way
  from scm_jax.reporting import tables
  from scm_jax.training.processes import startup

  request = Request(
    workdirs=workdirs,
    labels=labels.named(args.labels),
    dtype=args.dtype,
    select_by=args.select_by,
    reference=args.reference,
    features=tuple(filter(None, args.features.split(","))),
    allow_few=args.allow_few,
    autoencoder=args.autoencoder,
    **asked,
  )
  way = Way(batch_size, save_every, args.save_samples, args.cache)
  out = epath.Path(args.out or workdirs[0])
  with startup.together("evaluate"):
    _die_when_told()
    result = evaluate.evaluate(request, out, way)
    if startup.is_main():
      print(tables.evaluation(result))
      print(f"report: {out / 'report.json'} and {out / 'report.png'}")
  return 0


def _die_when_told() -> None:
  """Ends on SIGTERM, which JAX keeps to itself where there are several.

  There is nothing to save: the sums are on disk.
  """
  import jax

  if jax.process_count() > 1:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _numbers(
  flag: str, text: str, kind: Callable[[str], Any] = int, least: float = 0
) -> tuple[Any, ...]:
  try:
    numbers = tuple(kind(word) for word in text.split(","))
  except ValueError:
    numbers = ()
  if (
    not numbers or not min(numbers) >= least or len(set(numbers)) < len(numbers)
  ):
    what = "whole numbers" if kind is int else "numbers"
    sign = "positive " if least else ""
    raise ConfigError(f"{flag}={text}: give {sign}{what}, as 1,2")
  return numbers


def _optional(flag: str, text: str, **options: Any) -> tuple[Any, ...]:
  """`_numbers`, or none: each config's."""
  return _numbers(flag, text, **options) if text else ()


def _number(flag: str, text: str, least: int = 0) -> int:
  try:
    number = int(text)
  except ValueError:
    number = least - 1
  if number < least:
    must = "positive" if least < 2 else f"at least {least}"
    raise ConfigError(f"{flag} is {text}; it must be {must}")
  return number


def _times(text: str) -> tuple[float, ...]:
  times = _optional("--t-mid", text, kind=float)
  settings.check_times("--t-mid", times)
  return times


def _weights(text: str) -> tuple[tuple[str, str], ...]:
  pairs = []
  for word in filter(None, text.split(",")):
    name, equals, path = word.partition("=")
    if not (name and equals and path):
      raise ConfigError(f"--weights={text}: give NAME=FILE, as inception=FILE")
    pairs.append((name, path))
  return tuple(pairs)
