"""Several processes as one run: they start, stop and fail together."""

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Generator

import jax
from jax.errors import JaxRuntimeError

from scm_jax.errors import ConfigError, UserError
from scm_jax.training.processes import cluster
from scm_jax.training.processes.peers import PeerConnections

# Seconds in which a process may report its own error once another one is lost.
GRACE = 5


_task = "train"  # begins what a process of several says when it ends


@contextlib.contextmanager
def together(task: str = "train") -> Generator[None]:
  """Joins this process to the others of its run, if there are any.

  It must be entered before anything uses a device. When a process is lost or
  fails, all others end, and each of them says why, beginning with the task.

  The environment variable `SCM_INIT_TIMEOUT` is the seconds to wait for all
  processes to come up (300), `SCM_HEARTBEAT_TIMEOUT` the seconds after which a
  silent process counts as lost (100).

  Raises:
    ConfigError: the environment variables are incomplete or contradictory.
    UserError: some processes did not come up; the message names them.
  """
  timeout = _seconds("SCM_INIT_TIMEOUT", 300)
  heartbeat = _seconds("SCM_HEARTBEAT_TIMEOUT", 100)
  global _task
  _task = task
  here = cluster.detect(timeout)
  if here is None:
    yield
    return
  peers = PeerConnections(here, timeout, heartbeat)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    here.coordinator,
    here.count,
    here.index,
    local_device_ids=None if here.device is None else [here.device],
    cluster_detection_method="deactivate",  # `cluster.detect` has done it
    initialization_timeout=timeout,
    heartbeat_timeout_seconds=heartbeat,
    shutdown_timeout_seconds=60,
  )
  if here.index:  # process 0 logs for all, warnings and errors aside
    logging.getLogger().setLevel(logging.WARNING)
  logging.info("process 0 of %d, at %s", here.count, here.coordinator)
  peers.watch(_exit_after_loss)
  try:
    yield
  except BaseException as error:
    # At exit, JAX would wait for the other processes, and abort with a stack
    # trace because they do not come.
    interrupted = isinstance(error, KeyboardInterrupt)
    code = getattr(error, "exit_code", 130 if interrupted else 1)
    atexit.register(_exit, code)
    raise _with_process(error) from error
  peers.leave()


def is_main() -> bool:
  """Returns whether this process writes the files and the log of the run."""
  return jax.process_index() == 0


def _seconds(name: str, default: int) -> int:
  text = os.environ.get(name, str(default))
  if text.isdigit() and int(text):
    return int(text)
  raise ConfigError(
    f"the environment variable {name}={text} must be a whole number of "
    "seconds, at least 1"
  )


_lost = threading.Event()  # set once a process is lost,
_loss_message = ""  # which this message names


def end(error: UserError) -> None:
  """Ends this process of several at once, from any thread, with an error.

  The main thread may be waiting for the others, which end because it is lost.
  """
  print(f"scm-jax {_task}: {_with_process(error)}", file=sys.stderr)
  _exit(1)


def _exit_after_loss(index: int) -> None:
  """Ends this process because process `index` is lost.

  The main thread may be waiting for that process in a collective operation. If
  it fails by itself within `GRACE` seconds, it reports the loss.
  """
  global _loss_message
  _loss_message = (
    f"{_name()}: lost process {index}; look at the end of its log, and run the "
    "same command again on all to go on from what is saved"
  )
  _lost.set()
  if index:  # without process 0, JAX ends this one at once
    time.sleep(GRACE)
  print(f"scm-jax {_task}: {_loss_message}", file=sys.stderr)
  _exit(1)


def _with_process(error: BaseException) -> BaseException:
  """Returns the error with the names of this and of a lost process."""
  runtime = [e for e in _causes(error) if isinstance(e, JaxRuntimeError)]
  # A collective operation fails a moment before the lost process is known.
  lost = _lost.wait(GRACE if runtime else 1)
  if isinstance(error, UserError):
    kind, text = type(error), str(error)
  elif runtime:
    kind, text = UserError, (str(runtime[0]).splitlines() or [""])[0][:200]
  else:
    return error
  if lost:
    return kind(f"{_loss_message} (here: {text})")
  return kind(f"{_name()}: {text}")


def _causes(error: BaseException | None) -> list[BaseException]:
  """Returns the error and all errors that led to it or were handled then."""
  if error is None:
    return []
  return [error, *_causes(error.__cause__), *_causes(error.__context__)]


def _name() -> str:
  return f"process {jax.process_index()} of {jax.process_count()}"


def _exit(code: int) -> None:
  """Ends the process at once, without JAX's and Python's own shutdown."""
  logging.shutdown()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(code)
