"""Makes a dataset: shard by shard, by any number of processes.

A shard is a fixed part of the images. It is written whole or not at all, and
its bytes depend on nothing but the images and the settings. A run that is
killed therefore goes on with the first shard that is missing, and a second run
of the same command only verifies.
"""

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from scm_jax.errors import UserError
from scm_jax.preparing import assembly, manifest, metadata, verification
from scm_jax.preparing.job import Job, file_names, list_source, make_plan

if TYPE_CHECKING:
  from scm_jax.preparing.latents import Encoder

_log = logging.getLogger(__name__)


class Outcome(NamedTuple):
  """How it ended.

  Attributes:
    manifest: of the dataset; None while other processes' shards are missing.
    verified: whether all was there before, and is as it was made.
  """

  manifest: dict[str, Any] | None
  verified: bool = False


def make(job: Job, encoder: "Encoder | None" = None) -> Outcome:
  """Makes this process's shards that are missing, and the manifest if it can.

  Args:
    job: what to make.
    encoder: for latents of images.

  Raises:
    ConfigError: the source is not what the job says.
    UserError: the source or the folder cannot be read or written; an image is
      unreadable and `on_error` is `stop`; the folder holds something else.
  """
  made = manifest.read(job.folder / manifest.MANIFEST)
  if made is not None:
    return Outcome(made, verification.verify(job, encoder, made))
  listing = list_source(job, encoder)
  plan = make_plan(job, encoder, listing)
  manifest.agree(job.folder, plan)
  names = file_names(job, plan["shards"])
  mine = job.mine(len(names))
  todo = [k for k in mine if not manifest.load_shard(job.folder, names[k])]
  if len(todo) < len(mine):
    _log.info("%d of %d shards are there", len(mine) - len(todo), len(mine))
  for shard in assembly.make_shards(job, encoder, listing, names, todo):
    manifest.save_shard(job.folder, shard)
  return Outcome(_finish(job, plan, list(listing.classes), names))


def _finish(
  job: Job, plan: dict[str, Any], classes: list[str], names: list[str]
) -> dict[str, Any] | None:
  """Writes the manifest, unless other processes' shards are still missing."""
  found = [manifest.load_shard(job.folder, name) for name in names]
  done = [shard for shard in found if shard]
  if len(done) < len(names):  # or another process has just finished
    return manifest.read(job.folder / manifest.MANIFEST)
  if not any(shard.records for shard in done):
    raise UserError(
      f"none of {plan['source']['items']} images can be read; the first: "
      + ": ".join(min(pair for shard in done for pair in shard.unreadable))
    )
  made = manifest.summarize(plan, classes, done)
  manifest.save(job.folder, made)
  metadata.write(job.folder, made)
  return made
