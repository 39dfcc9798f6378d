"""Makes a dataset of images or latents from images as they are found."""

import argparse
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from scm_jax import files
from scm_jax.cli import configs, console, platforms
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from ml_collections import ConfigDict

  from scm_jax.preparing.latents import Encoder
  from scm_jax.preparing.options import Options

EXAMPLE = """\
scm-jax prepare --config=configs/imagenet64.py --source=ILSVRC2012/train \\
    --out=datasets
scm-jax prepare --config=configs/imagenet512.py --source=ILSVRC2012/train \\
    --autoencoder=diffusion_pytorch_model.safetensors --out=datasets
scm-jax prepare --source=photos.zip --size=64 --name=photos --out=datasets"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the task's flags."""
  configs.add_config_argument(parser)
  parser.add_argument(
    "--source",
    metavar="PATH|tfds:NAME",
    help="class folders of images, or a zip of them, or a folder or zip with "
    "EDM2's dataset.json, or a TFDS dataset; by default the TFDS dataset that "
    "the config names",
  )
  parser.add_argument(
    "--out",
    metavar="DIR",
    required=True,
    help="the folder of datasets, for --config.data.data_dir",
  )
  parser.add_argument(
    "--name", help="the dataset's name; default the config's, or imagesSIZE"
  )
  parser.add_argument(
    "--size",
    type=int,
    metavar="N",
    help="the side of the images in pixels; default the config's",
  )
  parser.add_argument(
    "--split", default="train", help="the TFDS dataset's split; default train"
  )
  parser.add_argument(
    "--tfds-dir", metavar="DIR", default="", help="the folder of TFDS datasets"
  )
  _add_latent_arguments(parser)
  _add_image_arguments(parser)
  _add_work_arguments(parser)


def _add_latent_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("latents")
  group.add_argument(
    "--latents",
    action="store_true",
    help="store an autoencoder's means and deviations; default the config's",
  )
  group.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="the autoencoder's safetensors file, in diffusers' layout",
  )
  group.add_argument(
    "--image-range",
    metavar="LOW,HIGH",
    help="the values that the autoencoder takes for black and white: -1,1 (the "
    "paper's) or 0,1 (EDM2's); default the config's, or -1,1",
  )
  group.add_argument(
    "--batch-size",
    type=int,
    default=8,
    metavar="N",
    help="the number of images that a device encodes at once; default 8",
  )


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("images")
  group.add_argument(
    "--convention",
    choices=("viewer", "adm"),
    default="viewer",
    help="viewer (default): follow EXIF's orientation, transparency on white; "
    "adm: neither, as in the code of ADM and EDM2",
  )
  group.add_argument(
    "--mirror", action="store_true", help="also store the mirror image of each"
  )
  group.add_argument(
    "--on-error",
    choices=("stop", "skip"),
    default="stop",
    help="at an unreadable image, stop (default), or list it and go on",
  )


def _add_work_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("work")
  group.add_argument(
    "--workers",
    type=int,
    metavar="N",
    help="the number of processes that read images; default one for each core",
  )
  group.add_argument(
    "--shard",
    default="0/1",
    metavar="I/N",
    help="this process is number I = 0..N-1 of N that share the work",
  )
  group.add_argument(
    "--shards",
    type=int,
    default=0,
    metavar="N",
    help="the number of files; default one for 256 images or more, at most 256",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Makes the dataset or what is missing of it, or verifies it."""
  config = configs.parse_config(config_argv) if config_argv else None
  console.start()
  options = _options(args, config.data if config else None)
  if options.encoder:
    platforms.announce()

  from scm_jax.preparing import dataset

  outcome = dataset.make(options)
  made = outcome.manifest
  if made is None:
    print(f"part {args.shard} of {options.folder} is done; others are missing")
    return 0
  counts = made["counts"]
  state = "complete and verified" if outcome.verified else "made"
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
  return 0


def _numbers(values: Any) -> str:
  return ", ".join(f"{value:.3g}" for value in values)


def _options(args: argparse.Namespace, data: "ConfigDict | None") -> "Options":
  """Returns the options, from the flags and then from the config's data."""
  from scm_jax.preparing import options

  latents = args.latents or bool(data and data.kind == "latents")
  image_range = _image_range(args.image_range, data)
  encoder = _encoder(args, data, image_range) if latents else None
  if args.autoencoder and not latents:
    raise ConfigError("--autoencoder is for --latents")
  # Without an autoencoder, latents are EDM2's.
  factor = encoder.factor if encoder else 8 if latents else 1
  size = _size(args.size, factor * data.size if data else None, factor)
  name = args.name or (data.name if data else "")
  name = name or f"{'latents' if latents else 'images'}{size}"
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise ConfigError(
      f"{name!r} cannot name a dataset; give --name=NAME of a-z, 0-9 and _"
    )
  source = args.source or (options.default_source(data.name) if data else "")
  if not source:
    raise ConfigError("give --source=PATH or --source=tfds:NAME")
  if files.is_remote(args.out):
    raise ConfigError(
      f"--out={args.out}: a dataset is made on a disk; make it on one, or "
      "where the bucket is mounted, and copy the folder"
    )
  return options.Options(
    source=options.SourceSpec(source, args.split, args.tfds_dir),
    out=pathlib.Path(args.out),
    name=name,
    size=size,
    channels=data.channels if data and not latents else 3,
    kind="latents" if latents else "images",
    encoder=encoder,
    image_range=image_range,
    convention=args.convention,
    mirror=args.mirror,
    num_classes=data.num_classes if data else 0,
    shards=_at_least("--shards", args.shards, 0),
    part=_part(args.shard),
    workers=_workers(args.workers),
    on_error=args.on_error,
  )


def _size(given: int | None, default: int | None, factor: int) -> int:
  """Returns the side of the images in pixels."""
  size = default if given is None else _at_least("--size", given, 1)
  if size is None:
    raise ConfigError("give --size=64, or a --config")
  if size % factor:
    raise ConfigError(
      f"images of {size}x{size} pixels have no latents of whole size; make "
      f"--size a multiple of {factor}"
    )
  return size


def _encoder(
  args: argparse.Namespace,
  data: "ConfigDict | None",
  image_range: tuple[float, float],
) -> "Encoder | None":
  """Loads the autoencoder, if the flags or the config name one."""
  batch_size = _at_least("--batch-size", args.batch_size, 1)
  path = args.autoencoder or (data.get("autoencoder", "") if data else "")
  if not path:
    return None
  from scm_jax.preparing import latents

  return latents.Encoder(path, image_range, batch_size)


def _image_range(
  text: str | None, data: "ConfigDict | None"
) -> tuple[float, float]:
  if text is None:
    low, high = data.image_range if data else (-1.0, 1.0)
    return float(low), float(high)
  try:
    low, high = map(float, text.split(","))
  except ValueError:
    low = high = 0.0
  if not low < high:
    raise ConfigError(f"--image-range={text}: give -1,1 or 0,1")
  return low, high


def _part(text: str) -> tuple[int, int]:
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or int(match[1]) >= int(match[2]):
    raise ConfigError(f"--shard={text}: give I/N with I of 0..N-1, as 0/4")
  return int(match[1]), int(match[2])


def _workers(count: int | None) -> int:
  if count is not None:
    return _at_least("--workers", count, 1)
  affinity = getattr(os, "sched_getaffinity", None)  # not on a Mac
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def _at_least(flag: str, value: int, least: int) -> int:
  if value < least:
    raise ConfigError(f"{flag}={value}: give {least} or more")
  return value
