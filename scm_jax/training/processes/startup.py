"""Several processes as one run: they begin, stop and fail together."""

import atexit
import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax.errors import JaxRuntimeError

from scm_jax.errors import ConfigError, UserError
from scm_jax.training.processes import cluster
from scm_jax.training.processes.peers import Lines

# Seconds that a process has to say itself why it fails when another is gone.
GRACE = 5


@contextlib.contextmanager
def together(task: str = "train") -> Iterator[None]:
  """Within it, this process and the others of its run, if any, are one.

  To be entered before anything that uses a device. `SCM_INIT_TIMEOUT` and
  `SCM_HEARTBEAT_TIMEOUT` are the seconds (300, 100) that it waits for processes
  to come up, and until one that is silent counts as lost. When one is lost or
  fails, all others end, and every one says why.

  Args:
    task: of `scm-jax`, whose words they are.

  Raises:
    ConfigError: the environment contradicts itself.
    UserError: processes did not come up; it names them.
  """
  here = cluster.detect()
  if here is None:
    yield
    return
  patience = _seconds("SCM_INIT_TIMEOUT", 300)
  heartbeat = _seconds("SCM_HEARTBEAT_TIMEOUT", 100)
  lines = Lines(here, patience, heartbeat)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    here.coordinator,
    here.count,
    here.index,
    None if here.device is None else [here.device],
    cluster_detection_method="deactivate",
    initialization_timeout=patience,
    heartbeat_timeout_seconds=heartbeat,
    shutdown_timeout_seconds=60,
  )
  if here.index:  # process 0 speaks for all, until something is wrong
    logging.getLogger().setLevel(logging.WARNING)
  logging.info("process 0 of %d, at %s", here.count, here.coordinator)
  lines.watch(functools.partial(_follow, task))
  try:
    yield
  except BaseException as error:
    # JAX would wait for the others at exit, and end with a stack trace because
    # they do not come.
    interrupted = isinstance(error, KeyboardInterrupt)
    code = getattr(error, "exit_code", 130 if interrupted else 1)
    atexit.register(_leave, code)
    raise _explained(error) from error
  lines.leave()


def _seconds(name: str, default: int) -> int:
  text = os.environ.get(name, str(default))
  if not text.isdigit() or not int(text):
    raise ConfigError(f"{name}={text} is not a number of seconds")
  return int(text)


def is_main() -> bool:
  """Whether this process writes the files and the log."""
  return jax.process_index() == 0


_lost = threading.Event()
_last_words = ""


def _follow(task: str, index: int) -> None:
  """Ends this process because another is gone, unless it does so itself.

  It may be waiting for the other on a device, and would wait for long.
  """
  global _last_words
  _last_words = (
    f"{_name()}: lost process {index}; look at the end of its log, and run the "
    "same command again on all to go on from what is saved"
  )
  _lost.set()
  time.sleep(GRACE)
  print(f"scm-jax {task}: {_last_words}", file=sys.stderr)
  _leave(1)


def _explained(error: BaseException) -> BaseException:
  """The error with this process's name, and that of the one that is gone."""
  runtime = [e for e in _causes(error) if isinstance(e, JaxRuntimeError)]
  # A collective fails a moment before it is known who has left.
  lost = _lost.wait(GRACE if runtime else 1)
  if isinstance(error, UserError):
    kind, words = type(error), str(error)
  elif runtime:
    kind, words = UserError, (str(runtime[0]).splitlines() or [""])[0][:200]
  else:
    return error
  if lost:
    return kind(f"{_last_words} (here: {words})")
  return kind(f"{_name()}: {words}")


def _causes(error: BaseException | None) -> list[BaseException]:
  """The error, and all that it came of or came in the handling of."""
  if error is None:
    return []
  return [error, *_causes(error.__cause__), *_causes(error.__context__)]


def _name() -> str:
  return f"process {jax.process_index()} of {jax.process_count()}"


def _leave(exit_code: int) -> None:
  logging.shutdown()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(exit_code)
