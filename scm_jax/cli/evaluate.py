"""`scm-jax evaluate`: scores workdirs and writes a report."""

import argparse
import signal
from collections.abc import Callable
from typing import Any

from scm_jax.cli import console, platforms, settings
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
  (
    "--steps",
    "N,...",
    "1,2",
    "numbers of steps of students' samplers; default 1,2",
  ),
  (
    "--teacher-steps",
    "N,...",
    "",
    "numbers of steps of teachers' solvers; default the config's and 1. N "
    "steps of Heun are 2N-1 network evaluations",
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
    "guidance scales, for networks that take one; default each config's",
  ),
  (
    "--ema",
    "SIGMA_REL,...",
    "0",
    "widths of the EMA, as for sample; default each config's first",
  ),
  (
    "--t-mid",
    "T,...",
    "",
    "second times of students' samplers; default each config's. Of several "
    "scales, EMA widths or times the best combination is selected on "
    "--select-num images of another seed, and reported on fresh ones",
  ),
  (
    "--select-num",
    "N",
    "0",
    "images to select by; default 0, as many as are reported. With fewer, "
    "--select-by=fd favours candidates that vary less",
  ),
  (
    "--select-by",
    "SCORE",
    "fd",
    "score to select by, such as fd, the Fréchet distance (the default), or "
    "kid, the kernel distance, which few images do not bias",
  ),
  (
    "--features",
    "NAME,...",
    "classifier,pixels",
    "feature extractors, such as classifier (trained on the data), pixels, "
    "inception or dinov2; docs/evaluation.md lists all",
  ),
  (
    "--weights",
    "NAME=FILE,...",
    "",
    "weights of published feature networks, as inception=FILE,dinov2=FILE",
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
    "batches between two saves of partial statistics, from which a killed "
    "evaluation resumes; default 16",
  ),
  (
    "--cache",
    "DIR",
    "",
    "folder of trained classifiers and reference statistics; default "
    "OUT/features",
  ),
  ("--out", "DIR", "", "folder of the report; default the first workdir"),
  (
    "--labels",
    "MODE",
    "random",
    "classes of the samples: random, as for published distances; balanced, "
    "each as often as any other (formerly uniform); or data, each as often as "
    "in the reference; default random",
  ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `evaluate`."""
  parser.add_argument(
    "--workdir",
    metavar="DIR,DIR,...",
    required=True,
    help="workdirs of trained runs, in the order of the report",
  )
  for flag, metavar, default, text in _FLAGS:
    parser.add_argument(flag, metavar=metavar, default=default, help=text)
  settings.add_arguments(parser)
  parser.add_argument(
    "--reference",
    metavar="NAME[:SPLIT]|FILE",
    help="a dataset; or statistics in EDM2's .pkl or pytorch-fid's or ADM's "
    ".npz; or images in an .npz or .npy; empty is the training data; default "
    "config.evaluate.reference of the first workdir",
  )
  parser.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="for networks of latents, the autoencoder that decodes samples; "
    "default each workdir's own, empty for a preview",
  )
  parser.add_argument(
    "--seeds",
    "--seed",
    metavar="N,...",
    default="0",
    help="seeds of the samples; for several, mean, standard deviation and "
    "minimum are reported",
  )
  parser.add_argument(
    "--allow-few",
    action="store_true",
    help="compute Fréchet distances even with fewer images than features",
  )
  parser.add_argument(
    "--save-samples",
    action="store_true",
    help="keep the images, as OUT/samples/*.npy",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Evaluates; prints the table of scores and where the report is."""
  workdirs = tuple(filter(None, args.workdir.split(",")))
  if not workdirs:
    raise ConfigError("--workdir names no folder")
  grid = {
    "workdirs": workdirs,
    "steps": _numbers("--steps", args.steps, least=1),
    "teacher_steps": _optional("--teacher-steps", args.teacher_steps, least=1),
    "guidance": _optional("--guidance", args.guidance, kind=float),
    "ema": _numbers("--ema", args.ema, kind=float),
    "t_mid": _times(args.t_mid),
  }
  protocol = {
    "num": _number("--num", args.num),
    "seeds": _numbers("--seeds", args.seeds),
    "keep": _number("--keep", args.keep),
    "allow_few": args.allow_few,
    "select_num": _number("--select-num", args.select_num),
    "select_by": args.select_by,
  }
  if protocol["select_num"] == 1:
    raise ConfigError("--select-num is 1; it must be at least 2, or 0 for all")
  features = tuple(filter(None, args.features.split(",")))
  weights = _weights(args.weights)
  changes = tuple(settings.changes(args).items())
  runtime = {
    "batch_size": _number("--batch-size", args.batch_size),
    "save_every": _number("--save-every", args.save_every, least=1),
    "save_samples": args.save_samples,
    "cache": args.cache,
  }
  console.start()

  from etils import epath

  from scm_jax.evaluation import evaluate, labels, request
  from scm_jax.reporting import tables
  from scm_jax.training.processes import startup

  question = request.Request(
    request.CandidateGrid(**grid),
    request.NetworkOptions(changes, args.dtype, args.autoencoder),
    request.Protocol(labels=labels.resolve_mode(args.labels), **protocol),
    features,
    weights,
    args.reference,
  )
  out = epath.Path(args.out or workdirs[0])
  with startup.together("evaluate"):
    platforms.announce()
    _end_on_sigterm()
    result = evaluate.evaluate(question, out, request.RuntimeOptions(**runtime))
    if startup.is_main():
      print(tables.evaluation(result))
      print(f"report: {out / 'report.json'} and {out / 'report.png'}")
  return 0


def _end_on_sigterm() -> None:
  """Makes SIGTERM end the process, although JAX catches it where several run.

  Nothing needs to be saved: the partial statistics are on disk.
  """
  import jax

  if jax.process_count() > 1:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _numbers(
  flag: str, text: str, kind: Callable[[str], Any] = int, least: float = 0
) -> tuple[Any, ...]:
  """Returns the numbers of a flag such as `--steps=1,2`.

  Raises:
    ConfigError: they are no numbers, too small, or not distinct.
  """
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
  """Returns the numbers of a flag, or none for an empty one."""
  return _numbers(flag, text, **options) if text else ()


def _number(flag: str, text: str, least: int = 0) -> int:
  """Returns the whole number of a flag; raises ConfigError below `least`."""
  try:
    number = int(text)
  except ValueError:
    number = least - 1
  if number < least:
    must = "positive" if least < 2 else f"at least {least}"
    raise ConfigError(f"{flag} is {text}; it must be {must}")
  return number


def _times(text: str) -> tuple[float, ...]:
  """Returns the times of `--t-mid`, which lie between noise and data."""
  times = _optional("--t-mid", text, kind=float)
  settings.check_times("--t-mid", times)
  return times


def _weights(text: str) -> tuple[tuple[str, str], ...]:
  """Returns the (name, file) pairs of `--weights`."""
  pairs = []
  for word in filter(None, text.split(",")):
    name, equals, path = word.partition("=")
    if not (name and equals and path):
      raise ConfigError(f"--weights={text}: give NAME=FILE, as inception=FILE")
    pairs.append((name, path))
  return tuple(pairs)
