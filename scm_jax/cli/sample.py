"""`scm-jax sample`: draws images from a trained network."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scm_jax.cli import console, platforms, settings
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  import numpy as np

  from scm_jax.sampler import Sampler

EXAMPLE = """\
scm-jax sample --workdir=runs/digits/scd --steps=2 --num=100 --out=samples
scm-jax sample --workdir=runs/digits/scd --steps=1 --num=10 --labels=3"""

GRID = 400  # images in grid.png at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the task's flags."""
  parser.add_argument(
    "--workdir",
    metavar="DIR",
    required=True,
    help="the workdir of a trained run, one of its checkpoints, or an export",
  )
  parser.add_argument(
    "--steps",
    type=int,
    metavar="N",
    help="steps of the sampler; the default is 2 for a consistency model and "
    "the config's for a diffusion model",
  )
  parser.add_argument(
    "--num",
    type=int,
    default=100,
    metavar="N",
    help="number of images; the default is 100",
  )
  parser.add_argument(
    "--labels",
    metavar="L,L,...",
    help="classes, repeated in turn; the number of classes means no label; the "
    "default is every class in turn",
  )
  settings.add_arguments(parser)
  parser.add_argument(
    "--guidance",
    type=float,
    metavar="S",
    help="guidance scale; the default is the config's, and 1 for a network "
    "that cannot be guided",
  )
  parser.add_argument(
    "--t-mid",
    type=float,
    metavar="T",
    help="second time of a consistency model's sampler, in radians; the "
    "default is the config's",
  )
  parser.add_argument(
    "--seed",
    type=int,
    default=0,
    metavar="N",
    help="image i is a function of the seed, i and its label; the default is 0",
  )
  settings.add_ema(parser)
  settings.add_autoencoder(parser)
  parser.add_argument(
    "--batch-size",
    type=int,
    metavar="N",
    help="images drawn at once, on all devices together; the default is the "
    "config's",
  )
  parser.add_argument(
    "--out",
    metavar="DIR",
    help="the folder for samples.npz and grid.png; the default is "
    "WORKDIR/samples",
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
  if args.batch_size is not None:
    changes["batch_size"] = args.batch_size
  console.start()
  platforms.announce()

  import dataclasses

  from etils import epath

  import scm_jax
  from scm_jax.training import workdir

  sampler = scm_jax.load(
    args.workdir,
    ema=args.ema,
    dtype=args.dtype,
    autoencoder=args.autoencoder,
  )
  sampler = dataclasses.replace(sampler, **changes)
  steps = args.steps or sampler.steps
  guidance = sampler.guidance_scale(args.guidance)
  labels = sampler.labels(parse_labels(args.labels), args.num)
  batches = sampler.batches(
    labels, steps=steps, seed=args.seed, guidance=guidance
  )
  folder, _ = workdir.at_checkpoint(args.workdir)
  out = epath.Path(args.out or folder / "samples")
  _write(out, sampler, labels, batches)
  nfe = sampler.evaluations(steps, guidance)
  print(f"{len(labels)} images, {nfe} network evaluations each: {out}")
  used = {"steps": steps} | sampler.settings(steps, guidance)
  print(", ".join(f"{name} {value}" for name, value in used.items()))
  return 0


def parse_labels(text: str | None) -> list[int] | None:
  """Returns the classes of `--labels`, or None where it is not given.

  Raises:
    ConfigError: the flag has something other than whole numbers.
  """
  try:
    return [int(word) for word in text.split(",")] if text else None
  except ValueError:
    raise ConfigError(f"--labels={text}: give whole numbers") from None


def _write(
  out: Any,
  sampler: "Sampler",
  labels: "np.ndarray",
  batches: "Iterator[np.ndarray]",
) -> None:
  """Writes the files; of the images, only compressed ones stay in memory."""
  import io
  import zipfile

  import numpy as np

  from scm_jax import files, image_grid

  shape = (len(labels), *sampler.image_shape)
  header = {"descr": "|u1", "fortran_order": False, "shape": shape}
  shown = np.empty((0, *sampler.image_shape), np.uint8)
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("samples.npy", "w", force_zip64=True) as stream:
      np.lib.format.write_array_header_1_0(stream, header)
      for images in batches:
        stream.write(images.tobytes())
        shown = np.concatenate([shown, images])[:GRID]
    if not sampler.network.config.num_classes:
      labels = labels[:0]
    with archive.open("labels.npy", "w") as stream:
      np.lib.format.write_array(stream, labels)
  files.write_bytes(out / "samples.npz", buffer.getvalue())
  grid = image_grid.image_grid(shown, min(10, len(shown)))
  image_grid.save_png(out / "grid.png", grid)
