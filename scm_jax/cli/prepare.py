"""`scm-jax prepare`: makes a dataset of images or latents from image files."""

import argparse
import os
import pathlib
import re
from typing import Any

from scm_jax import files
from scm_jax.cli import configs, flags, platforms
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax prepare --config=configs/imagenet64.py --source=ILSVRC2012/train \\
    --out=datasets
scm-jax prepare --config=configs/imagenet512.py --source=ILSVRC2012/train \\
    --autoencoder=diffusion_pytorch_model.safetensors --out=datasets
scm-jax prepare --source=photos.zip --size=64 --name=photos --out=datasets"""

FLAGS = {
  "config": configs.FLAGS,
  "--source=PATH|tfds:NAME": "class folders of images, or a zip of them, or a "
  "folder or zip with EDM2's dataset.json, or a TFDS dataset; by default the "
  "TFDS dataset that the config names",
  "--out=DIR": "the folder of datasets, for --config.data.data_dir",
  "--name=NAME": "the dataset's name; default the config's, or imagesSIZE",
  "--size=N": "the side of the images in pixels; default the config's",
  "--split=SPLIT": "the TFDS dataset's split; default train",
  "--tfds-dir=DIR": "the folder of TFDS datasets",
  "latents": {
    "--latents": "store an autoencoder's means and deviations; default the "
    "config's",
    "--autoencoder=FILE": "the autoencoder's safetensors file of diffusers",
    "--image-range=LOW,HIGH": "the values that the autoencoder takes for black "
    "and white: -1,1 (the paper's) or 0,1 (EDM2's); default the config's, or "
    "-1,1",
    "--batch-size=N": "images that a device encodes at once; default 8",
  },
  "images": {
    "--convention={viewer,adm}": "viewer (default): follow EXIF's orientation, "
    "transparency on white; adm: neither, as in the code of ADM and EDM2",
    "--mirror": "also store the mirror image of each",
    "--on-error={stop,skip}": "at an unreadable image, stop (default), or list "
    "it and go on",
  },
  "work": {
    "--workers=N": "processes that read images; default one for each core",
    "--shard=I/N": "this process is number I = 0..N-1 of N that share the work",
    "--shards=N": "the number of files; default one for 256 images or more, at "
    "most 256",
  },
}
add_arguments = flags.adder(FLAGS, ["out"], batch_size=8, shard="0/1")


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Makes the dataset or what is missing of it, or verifies it."""
  from scm_jax import defaults

  config = configs.parse_config(config_argv) if config_argv else None
  data = config.data if config else defaults.Data()
  options = _options(args, data)
  if options.encoder:
    platforms.announce()

  from scm_jax.preparing import dataset

  made, verified = dataset.make(options)
  if made is None:
    print(f"part {args.shard} of {options.folder} is done; others are missing")
    return
  counts = made["counts"]
  state = "complete and verified" if verified else "made"
  print(
    f"{options.folder} is {state}: {counts['records']:,} {options.kind} of "
    f"{len(made['classes'])} classes, {counts['bytes'] / 1e6:,.4g} MB, "
    f"{counts['unreadable']} unreadable left out"
  )
  for name, measured in made.get("latents", {}).items():
    line = f"latents' {name}: {_numbers(measured)}"
    if config:  # what training normalises by
      line += f"; config.data.{name}: {_numbers(config.data[name])}"
    print(line)
  print(
    f"use it: --config.data.data_dir={args.out} "
    f"--config.data.name={options.name}"
  )


def _numbers(values: Any) -> str:
  return ", ".join(f"{value:.3g}" for value in values)


def _options(args: argparse.Namespace, data: Any) -> Any:
  """Returns the `Options`, from the flags and then from the config's data."""
  from scm_jax.preparing.options import Options, default_source
  from scm_jax.preparing.transform import Transform

  flags.check(args, "size", "batch_size", "workers", least=1)
  flags.check(args, "shards", least=0)
  latents = args.latents or data.kind == "latents"
  if args.autoencoder and not latents:
    raise ConfigError("--autoencoder is for --latents")
  image_range = _image_range(args.image_range or data.image_range)
  encoder = None
  path = args.autoencoder or getattr(data, "autoencoder", "")
  if latents and path:
    from scm_jax.preparing.latents import Encoder  # imports jax

    encoder = Encoder(path, image_range, args.batch_size)
    if data.kind == "latents" and encoder.channels != 2 * data.channels:
      raise ConfigError(
        f"the autoencoder {path} gives latents of {encoder.channels // 2} "
        f"channels, and this config takes {data.channels}; give the "
        "autoencoder of these latents, or set config.data.channels"
      )
  channels, factor, depth = data.channels, 1, data.channels
  if latents:  # without an autoencoder, they are EDM2's
    channels = 3
    factor, depth = (encoder.factor, encoder.channels) if encoder else (8, 8)
  size = args.size or factor * data.size
  if not size:
    raise ConfigError("give --size=64, or a --config")
  if size % factor:
    raise ConfigError(
      f"images of {size}x{size} pixels have no latents of whole size; make "
      f"--size a multiple of {factor}"
    )
  if data.size and size != factor * data.size:
    raise ConfigError(
      f"--size={size} differs from the config, whose images have a side of "
      f"{factor * data.size} pixels; leave it out, or set "
      f"--config.data.size={size // factor}"
    )
  form = "pixels" if encoder else "latents" if latents else "png"
  source = args.source or (default_source(data.name) if data.name else "")
  if not source:
    raise ConfigError("give --source=PATH or --source=tfds:NAME")
  name = args.name or data.name or f"{'latents' if latents else 'images'}{size}"
  _check_target(args.out, name)
  cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
  return flags.build(
    Options,
    args,
    source=source,
    transform=flags.build(
      Transform, args, form=form, size=size, channels=channels
    ),
    shape=(size // factor, size // factor, depth),
    out=pathlib.Path(args.out),
    name=name,
    encoder=encoder,
    image_range=image_range,
    num_classes=data.num_classes,
    part=_part(args.shard),
    workers=args.workers or len(cores(0)),
  )


def _check_target(out: str, name: str) -> None:
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise ConfigError(f"{name!r} cannot name a dataset; use a-z, 0-9 and _")
  if files.is_remote(out):
    raise ConfigError(
      f"--out={out}: a dataset is made on a disk; make it on one, or where the "
      "bucket is mounted, and copy the folder"
    )


def _image_range(values: tuple[float, ...]) -> tuple[float, float]:
  if len(values) != 2 or not values[0] < values[1]:
    shown = ",".join(f"{value:g}" for value in values)
    raise ConfigError(f"--image-range={shown}: give -1,1 or 0,1")
  return float(values[0]), float(values[1])


def _part(text: str) -> tuple[int, int]:
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or int(match[1]) >= int(match[2]):
    raise ConfigError(f"--shard={text}: give I/N with I of 0..N-1, as 0/4")
  return int(match[1]), int(match[2])
