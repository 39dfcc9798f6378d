"""`scm-jax prepare`: a dataset of images or latents from images as they are."""

import argparse
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from scm_jax.cli import configs, console
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from ml_collections import ConfigDict

  from scm_jax.preparing.job import Job
  from scm_jax.preparing.latents import Encoder

EXAMPLE = """\
scm-jax prepare --config=configs/imagenet64.py --source=ILSVRC2012/train \\
    --out=datasets
scm-jax prepare --config=configs/imagenet512.py --source=ILSVRC2012/train \\
    --autoencoder=diffusion_pytorch_model.safetensors --out=datasets
scm-jax prepare --source=photos.zip --size=64 --name=photos --out=datasets"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  configs.add_config_argument(parser)
  parser.add_argument(
    "--source",
    metavar="PATH|tfds:NAME",
    help="class folders of images, or a zip of them, or a folder or zip with "
    "EDM2's dataset.json, or a TFDS dataset; default the TFDS dataset that the "
    "config's data is named after",
  )
  parser.add_argument(
    "--out",
    metavar="DIR",
    required=True,
    help="folder of datasets, for --config.data.data_dir",
  )
  parser.add_argument(
    "--name", help="of the dataset; default the config's, or imagesSIZE"
  )
  parser.add_argument(
    "--size",
    type=int,
    metavar="N",
    help="side of the images in pixels; default the config's",
  )
  parser.add_argument(
    "--split", default="train", help="of a TFDS dataset; default train"
  )
  parser.add_argument(
    "--tfds-dir", metavar="DIR", default="", help="where TFDS datasets lie"
  )
  _add_arguments_of_latents(parser)
  _add_arguments_of_images(parser)
  _add_arguments_of_work(parser)


def _add_arguments_of_latents(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("latents")
  group.add_argument(
    "--latents",
    action="store_true",
    help="store an autoencoder's means and deviations; default as the config",
  )
  group.add_argument(
    "--autoencoder",
    metavar="FILE",
    help="its safetensors file, in diffusers' layout",
  )
  group.add_argument(
    "--image-range",
    metavar="LOW,HIGH",
    help="black and white as the autoencoder sees them: -1,1 (the paper's) or "
    "0,1 (EDM2's); default the config's, or -1,1",
  )
  group.add_argument(
    "--batch-size",
    type=int,
    default=8,
    metavar="N",
    help="images that a device encodes at once; default 8",
  )


def _add_arguments_of_images(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("images")
  group.add_argument(
    "--convention",
    choices=("viewer", "adm"),
    default="viewer",
    help="viewer (default): follow EXIF's orientation, transparency on white; "
    "adm: neither, as the code of ADM and EDM2",
  )
  group.add_argument(
    "--mirror", action="store_true", help="store mirror images too"
  )
  group.add_argument(
    "--on-error",
    choices=("stop", "skip"),
    default="stop",
    help="at an unreadable image: stop (default), or list it and go on",
  )


def _add_arguments_of_work(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("work")
  group.add_argument(
    "--workers",
    type=int,
    metavar="N",
    help="processes that read images; default one for each core",
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
    help="files; default one for 256 images or more, at most 256",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Makes the dataset, or what is missing of it, or verifies it."""
  config = configs.parse_config(config_argv) if config_argv else None
  console.start()
  job, encoder = _plan(args, config)

  from scm_jax.preparing import dataset

  outcome = dataset.make(job, encoder)
  made = outcome.manifest
  if made is None:
    print(f"part {args.shard} of {job.folder} is done; others are missing")
    return 0
  counts = made["counts"]
  print(
    f"{job.folder} is {'complete and verified' if outcome.verified else 'made'}"
    f": {counts['records']:,} {job.kind} of {len(made['classes'])} classes, "
    f"{counts['bytes'] / 1e6:,.4g} MB, {counts['unreadable']} unreadable left "
    "out"
  )
  if "latents" in made:
    _print_moments(made["latents"], config)
  print(
    f"use it: --config.data.data_dir={args.out} --config.data.name={job.name}"
  )
  return 0


def _print_moments(
  latents: dict[str, Any], config: "ConfigDict | None"
) -> None:
  """What was measured, beside what the config normalises by."""
  for name in ("mean", "std"):
    line = f"latents' {name}: {_numbers(latents[name])}"
    if config is not None:
      line += f"; config.data.{name}: {_numbers(config.data[name])}"
    print(line)


def _numbers(values: Any) -> str:
  return ", ".join(f"{value:.3g}" for value in values)


def _plan(
  args: argparse.Namespace, config: "ConfigDict | None"
) -> "tuple[Job, Encoder | None]":
  """The job, and the encoder if there is something to encode."""
  from scm_jax.preparing import job, sources

  data = config.data if config is not None else None
  latents = args.latents or bool(data and data.kind == "latents")
  path = args.autoencoder or (data.get("autoencoder", "") if data else "")
  image_range = _image_range(args, data)
  encoder = None
  if latents and path:
    encoder = _encoder(path, image_range, args.batch_size)
  elif args.autoencoder:
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
  source = args.source or (sources.by_name(data.name) if data else "")
  if not source:
    raise ConfigError("give --source=PATH or --source=tfds:NAME")
  return (
    job.Job(
      source=sources.Spec(source, args.split, args.tfds_dir),
      out=pathlib.Path(_local(args.out)),
      name=name,
      size=size,
      channels=data.channels if data and not latents else 3,
      kind="latents" if latents else "images",
      image_range=image_range,
      convention=args.convention,
      mirror=args.mirror,
      num_classes=data.num_classes if data else 0,
      shards=_at_least("--shards", args.shards, 0),
      part=_part(args.shard),
      workers=_workers(args.workers),
      on_error=args.on_error,
    ),
    encoder,
  )


def _size(given: int | None, default: int | None, factor: int) -> int:
  """Side of the images in pixels."""
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
  path: str, image_range: tuple[float, float], batch_size: int
) -> "Encoder":
  from scm_jax.preparing import latents

  batch = _at_least("--batch-size", batch_size, 1)
  return latents.Encoder(path, image_range, batch)


def _image_range(args: argparse.Namespace, data: Any) -> tuple[float, float]:
  if args.image_range is None:
    low, high = data.image_range if data else (-1.0, 1.0)
    return float(low), float(high)
  try:
    low, high = map(float, args.image_range.split(","))
  except ValueError:
    low = high = 0.0
  if not low < high:
    raise ConfigError(f"--image-range={args.image_range}: give -1,1 or 0,1")
  return low, high


def _local(out: str) -> str:
  if "://" in out:
    raise ConfigError(
      f"--out={out}: datasets are made on disks; make it on one, or where the "
      "bucket is mounted, and copy the folder"
    )
  return out


def _part(text: str) -> tuple[int, int]:
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or int(match[1]) >= int(match[2]):
    raise ConfigError(f"--shard={text}: give I/N with I of 0..N-1, as 0/4")
  return int(match[1]), int(match[2])


def _workers(count: int | None) -> int:
  if count is None:
    affinity = getattr(os, "sched_getaffinity", None)  # not on a Mac
    return len(affinity(0)) if affinity else os.cpu_count() or 1
  return _at_least("--workers", count, 1)


def _at_least(flag: str, value: int, least: int) -> int:
  if value < least:
    raise ConfigError(f"{flag}={value}: give {least} or more")
  return value
