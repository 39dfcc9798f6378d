"""Checks that the processes of a run were started alike."""

import secrets
import time

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from scm_jax import configuration, files
from scm_jax.errors import ConfigError, UserError

PATIENCE = 20  # seconds until a new file is seen by all hosts
OF_A_HOST = ("data.data_dir", "data.autoencoder")  # fields that may differ


def check(path: epath.Path, config: ConfigDict) -> None:
  """Checks that all processes have the workdir and the config of process 0.

  Raises:
    UserError: a process does not see the workdir.
    ConfigError: a process has another config.
  """
  if jax.process_count() == 1:
    return
  # The file of process 0 shows both; its name is new, so that no host has it.
  drawn = np.uint32(secrets.randbits(32))
  token = int(multihost_utils.broadcast_one_to_all(drawn))
  file = path / f".config-of-process-0-{token}"
  if jax.process_index() == 0:
    files.write_text(file, configuration.to_json(config))
  multihost_utils.sync_global_devices("workdir")
  seen, differences = _seen(file), []
  if seen:
    first = configuration.from_json(file.read_text())
    differences = [
      line
      for line in configuration.diff(first, config)
      if line.partition(":")[0] not in OF_A_HOST
    ]
  states = np.asarray([not seen, bool(differences)])
  unseen, others = multihost_utils.process_allgather(states).reshape(-1, 2).T
  if jax.process_index() == 0:
    file.unlink()
  if unseen.any():
    raise UserError(
      f"process {unseen.argmax()} does not see the folder {path} of process 0; "
      "choose a --workdir that all hosts share"
    )
  if others.any():
    shown = f" ({'; '.join(differences[:4])})" if differences else ""
    raise ConfigError(
      f"process {others.argmax()} has another config than process 0{shown}; "
      "start all with the same command and the same files"
    )


def _seen(file: epath.Path) -> bool:
  """Returns whether a new file appears on this host within some seconds."""
  end = time.monotonic() + PATIENCE
  while not (found := file.exists()) and time.monotonic() < end:
    time.sleep(0.5)
  return found
