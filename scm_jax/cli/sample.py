"""`scm-jax sample`: draws images from a trained workdir."""

import argparse
from typing import TYPE_CHECKING

from scm_jax.cli import console, settings
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  import numpy as np

EXAMPLE = """\
scm-jax sample --workdir=runs/digits/scd --steps=2 --num=100 --out=samples
scm-jax sample --workdir=runs/digits/scd --steps=1 --num=10 --labels=3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--workdir", metavar="DIR", required=True, help="a trained run"
  )
  parser.add_argument(
    "--steps",
    type=int,
    metavar="N",
    help="sampler steps; default 2 for students, the config's for teachers",
  )
  parser.add_argument(
    "--num", type=int, default=100, metavar="N", help="images; default 100"
  )
  parser.add_argument(
    "--labels",
    metavar="L,L,...",
    help="classes, repeated in turn; default every class in turn",
  )
  settings.add_arguments(parser)
  parser.add_argument(
    "--guidance",
    type=float,
    metavar="S",
    help="scale; default the config's, and 1 for networks that take none",
  )
  parser.add_argument(
    "--t-mid",
    type=float,
    metavar="T",
    help="second time of a student's sampler; default the config's",
  )
  parser.add_argument(
    "--seed",
    type=int,
    default=0,
    metavar="N",
    help="sample i is a function of seed, i and its label; default 0",
  )
  parser.add_argument(
    "--ema",
    type=float,
    default=0.0,
    metavar="SIGMA_REL",
    help="weight average: a relative width, reconstructed from snapshots if "
    "the run does not keep it, or a half-life in images; default the first",
  )
  parser.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="of a model of latents, what decodes its samples; default the "
    "workdir's own, empty for a preview",
  )
  parser.add_argument(
    "--batch-size", type=int, metavar="N", help="images drawn at once"
  )
  parser.add_argument(
    "--out",
    metavar="DIR",
    help="where samples.npz and grid.png go; default WORKDIR/samples",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Writes `samples.npz` (uint8 NHWC and labels) and `grid.png`."""
  for flag in ("steps", "num", "batch_size"):
    value = getattr(args, flag)
    if value is not None and value < 1:
      name = flag.replace("_", "-")
      raise ConfigError(f"--{name} is {value}; it must be positive")
  changes = settings.changes(args)
  if args.t_mid is not None:
    settings.check_times("--t-mid", (args.t_mid,))
    changes["t_mid"] = args.t_mid
  console.start()

  import dataclasses
  import io

  import numpy as np
  from etils import epath

  from scm_jax import files, image_grid
  from scm_jax.interop import export_folder
  from scm_jax.training import workdir

  model, about = workdir.load(args.workdir, args.ema, args.autoencoder)
  model = dataclasses.replace(model, **changes)
  model = export_folder.in_dtype(model, args.dtype)
  config = about["config"]
  steps, guidance = args.steps or model.steps, model.scale(args.guidance)
  labels = parse_labels(args.labels, args.num, config.data.num_classes)
  images = model.sample(
    labels,
    num=args.num,
    steps=steps,
    seed=args.seed,
    guidance=guidance,
    batch_size=args.batch_size or config.sample.batch_size,
  )
  folder, _ = workdir.at_checkpoint(args.workdir)
  out = epath.Path(args.out or folder / "samples")
  buffer = io.BytesIO()
  if labels is None:
    labels = np.zeros(0, np.int32)
  np.savez_compressed(buffer, samples=images, labels=labels)
  files.write_bytes(out / "samples.npz", buffer.getvalue())
  columns = min(10, args.num)
  image_grid.save_png(
    out / "grid.png", image_grid.image_grid(images[:400], columns)
  )
  nfe = model.evaluations(steps, guidance)
  print(f"{len(images)} images, {nfe} network evaluations each: {out}")
  used = {"steps": steps} | model.settings(steps, guidance)
  print(", ".join(f"{name} {value}" for name, value in used.items()))
  return 0


def parse_labels(
  text: str | None, num: int, num_classes: int
) -> "np.ndarray | None":
  """`--labels` to `num` classes; None for a network without labels.

  Raises:
    ConfigError: not whole numbers of the network's classes.
  """
  import numpy as np

  if not num_classes:
    if text:
      raise ConfigError("--labels: this network takes no labels")
    return None
  try:
    classes = [int(word) for word in text.split(",")] if text else None
  except ValueError:
    raise ConfigError(f"--labels={text}: give whole numbers") from None
  classes = classes or list(range(num_classes))
  for label in classes:
    if not 0 <= label < num_classes:
      raise ConfigError(
        f"--labels: {label} is not a class of 0 to {num_classes - 1}"
      )
  return np.resize(np.asarray(classes, np.int32), num)
