"""A second run: compares a dataset with its manifest, and mends it."""

import logging
import pathlib
import shutil
from concurrent import futures
from typing import TYPE_CHECKING, Any

from scm_jax.errors import UserError
from scm_jax.preparing import assembly, manifest, metadata, shards
from scm_jax.preparing.job import Job, list_source, make_plan, preprocessing
from scm_jax.preparing.progress import Progress

if TYPE_CHECKING:
  from scm_jax.preparing.latents import Encoder

_log = logging.getLogger(__name__)


def verify(job: Job, encoder: "Encoder | None", made: dict[str, Any]) -> bool:
  """Compares a finished dataset with its manifest, and mends this part of it.

  Returns:
    Whether nothing had to be mended.

  Raises:
    UserError: it was made with other settings, or a shard cannot be made again
      as it was.
  """
  folder = job.folder
  wanted = {"split": job.split, "preprocessing": preprocessing(job, encoder)}
  begun = {key: made[key] for key in wanted}
  if difference := manifest.differences(begun, wanted):
    raise UserError(
      f"{folder} was made with {difference}; choose another --out or --name"
    )
  entries = made["shards"]
  mine = job.mine(len(entries))
  _log.info("verifying %d of %d shards in %s", len(mine), len(entries), folder)
  progress = Progress(len(mine), "shards")
  with futures.ThreadPoolExecutor(job.workers) as pool:
    damaged = []
    same = pool.map(lambda k: _as_made(folder, entries[k]), mine)
    for k, whole in zip(mine, same, strict=True):
      progress.advance()
      if not whole:
        damaged.append(k)
  if damaged:
    _mend(job, encoder, made, damaged)
  if not metadata.is_there(folder):
    metadata.write(folder, made)
  return not damaged


def _as_made(folder: pathlib.Path, entry: dict[str, Any]) -> bool:
  try:
    size, checksum = shards.digest(folder / entry["file"])
  except FileNotFoundError:
    return False
  return (size, checksum) == (entry["bytes"], entry["sha256"])


def _mend(
  job: Job,
  encoder: "Encoder | None",
  made: dict[str, Any],
  damaged: list[int],
) -> None:
  """Makes damaged shards again, which must come out as they were."""
  entries = made["shards"]
  for k in damaged:
    _log.warning("%s is missing or damaged: again", entries[k]["file"])
  listing = list_source(job, encoder)
  now = make_plan(job, encoder, listing)
  for key in ("source", "software"):
    if difference := manifest.differences(made[key], now[key]):
      raise UserError(
        f"{job.folder}: {entries[damaged[0]]['file']} is damaged and cannot be "
        f"made again as it was, with {key} {difference}; delete the folder to "
        "prepare it anew"
      )
  scratch = job.folder / manifest.PROGRESS
  scratch.mkdir(exist_ok=True)
  names = [entry["file"] for entry in entries]
  for k, shard in zip(
    damaged,
    assembly.make_shards(job, encoder, listing, names, damaged),
    strict=True,
  ):
    if shard.sha256 != entries[k]["sha256"]:
      raise UserError(
        f"{job.folder / shard.file} came out other than before: the images "
        "have changed; delete the folder to prepare it anew"
      )
  shutil.rmtree(scratch, ignore_errors=True)
