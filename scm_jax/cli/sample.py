"""`scm-jax sample`: draws images from a trained network."""

import argparse
import dataclasses
import io
import zipfile
from collections.abc import Iterator
from typing import Any

from scm_jax.cli import flags, platforms
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax sample --workdir=runs/digits/scd --steps=2 --num=100 --out=samples
scm-jax sample --workdir=runs/digits/scd --steps=1 --num=10 --labels=3"""

# Flags that limit where guidance acts, for diffusion models alone.
LIMITS = {"guidance_channels", "guidance_interval"}
FLAGS = {
  "--workdir=DIR": "workdir of a trained run, its checkpoint, or an export",
  "--steps=N": "steps of the sampler; the default is 2 for a consistency model "
  "and the config's for a diffusion model",
  "--num=N": "number of images; the default is 100",
  "--labels=L,L,...": "classes, repeated in turn; the number of classes means "
  "no label; the default is every class in turn",
  **flags.SAMPLER,
  **flags.DTYPE,
  "--guidance=SCALE": "guidance scale, or one for each step as 1.3:1.0, for a "
  "student that takes it as an input; the default is the config's, and 1 for a "
  "network that cannot be guided",
  "--t-mid=T": "second time of a consistency model's sampler, in radians, or 0 "
  "for steps of equal length; the default is the config's",
  "--times=TIMES": "times of all steps after the first, in radians, as 1.1:0.5 "
  "for three steps; the default follows from --t-mid",
  "--gamma=PART": "how much of a flow map's noise is fresh in each step, 0 to "
  "1; the default is the config's",
  "--seed=N": "image i is a function of the seed, i and its label; default 0",
  **flags.EMA,
  **flags.GUIDE,
  **flags.AUTOENCODER,
  "--batch-size=N": "images at once on all devices; default the config's",
  "--compiled=DIR": "folder that keeps compiled programs, which only you may "
  "write into; the next command need not compile them",
  "--out=DIR": "folder of samples.npz and grid.png; default WORKDIR/samples",
}
GRID = 400  # images in grid.png at most

add_arguments = flags.adder(
  FLAGS,
  ["workdir"],
  num=100,
  labels=(),
  dtype="",
  seed=0,
  ema=0.0,
  guide_ema=0.0,
)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes `samples.npz` (uint8 NHWC and labels) and `grid.png`."""
  flags.check(args, "steps", "num", "batch_size", least=1)
  flags.check_times(args.t_mid)
  flags.check_parts(args.gamma)
  flags.check_steps_times(args.times or ())
  changes = flags.sampler_changes(args, "t_mid", "times", "gamma", "batch_size")
  platforms.announce()

  from etils import epath

  import scm_jax
  from scm_jax.training import workdir

  sampler = scm_jax.load(
    args.workdir,
    args.ema,
    args.dtype,
    args.autoencoder,
    compiled=args.compiled or "",
  )
  if args.guide:
    weak = scm_jax.load(args.guide, args.guide_ema, args.dtype, "")
    sampler = sampler.guided_by(weak)
  sampler = dataclasses.replace(sampler, **changes)
  steps = args.steps or sampler.steps
  guidance = sampler.guidance_scales(args.guidance, steps)
  _check_used(args, sampler, guidance)
  labels = sampler.labels(args.labels or None, args.num)
  batches = sampler.batches(
    labels, steps=steps, seed=args.seed, guidance=guidance
  )
  folder = workdir.results_folder(args.workdir)
  out = epath.Path(args.out or folder / "samples")
  _write(out, sampler, labels, batches)
  nfe = sampler.evaluations(steps, guidance)
  print(f"{len(labels)} images, {nfe} network evaluations each: {out}")
  used = {"steps": steps} | sampler.settings(steps, guidance)
  print(", ".join(f"{name} {value}" for name, value in used.items()))


def _check_used(args: argparse.Namespace, sampler: Any, guidance: Any) -> None:
  """Raises ConfigError for flags that do not change its samples."""
  used = set(sampler.rules.settings)
  if "t_mid" in used:
    used.add("times")
  if not sampler.rules.guidance_is_input:
    used |= LIMITS
  for name in ("solver", "t_mid", "times", "gamma", *sorted(LIMITS)):
    if getattr(args, name) is not None and name not in used:
      raise ConfigError(
        f"{flags.word(name)} has no effect on a {sampler.kind} model; leave it "
        "out"
      )
  if args.times and args.steps == 1:
    raise ConfigError("--times has no effect on one step; leave it out")
  for name in ("guide", *sorted(LIMITS)):
    if getattr(args, name) and not sampler.extrapolates(guidance):
      raise ConfigError(
        f"{flags.word(name)} has no effect at the guidance scale {guidance}; "
        "give --guidance"
      )


def _write(out: Any, sampler: Any, labels: Any, batches: Iterator[Any]) -> None:
  """Writes the files; of the images, only compressed ones stay in memory."""
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
