"""The two threads that own the devices: one draws, the other one compiles.

The first request of each compiled program is drawn by the thread that compiles,
so that requests of programs that exist never wait for a compilation.
"""

import collections
import logging
import threading
import time
from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from typing import NamedTuple

import jax
import numpy as np

from scm_jax import errors
from scm_jax.errors import UserError
from scm_jax.serving.requests import Request
from scm_jax.serving.schedule import Queue

PROGRAMS = 400  # compiled programs that are kept in memory at most


class Drawing(NamedTuple):
  """What was drawn.

  Attributes:
    request: what was asked for.
    images: uint8 `[num, H, W, C]`.
    seconds: how long the devices took.
  """

  request: Request
  images: np.ndarray
  seconds: float


class _Job(NamedTuple):
  request: Request
  # Gets a drawing; an error; or None if a newer request took its place.
  result: "Future[Drawing | None]"


class Engine:
  """Draws what clients ask for, the newest of each view, clients in turn.

  Attributes:
    total: the number of programs that are compiled without being asked for.
  """

  def __init__(self, warm: Iterable[Request] = ()):
    """Starts the threads; the programs of `warm` are compiled in idle times."""
    self._queue: Queue[_Job] = Queue()
    self._warm = collections.deque(warm)
    self.total = len(self._warm)
    self._programs: set[Hashable] = set()
    self._changed = threading.Condition()
    self._closed = False
    self._threads = [
      threading.Thread(target=self._work, args=(compiled,), daemon=True)
      for compiled in (True, False)
    ]
    for thread in self._threads:
      thread.start()

  def submit(
    self, client: Hashable, view: Hashable, request: Request
  ) -> "Future[Drawing | None]":
    """Returns the future of a drawing.

    It becomes None when a newer request of the same client's view takes its
    place, and raises `UserError` if the drawing fails.

    Raises:
      UserError: too many requests wait.
    """
    job = _Job(request, Future())
    with self._changed:
      if self._closed:
        raise UserError("the server is closing down")
      replaced = self._queue.put(client, view, job)
      self._changed.notify_all()
    if replaced:
      _drop(replaced)
    return job.result

  def is_ready(self, request: Request) -> bool:
    """Returns whether the request's program is compiled."""
    return request.program in self._programs

  @property
  def waiting_programs(self) -> int:
    """The number of programs that are still to be compiled unasked."""
    return len(self._warm)

  def withdraw(self, client: Hashable, view: Hashable) -> None:
    """Forgets what waits for a client's view."""
    with self._changed:
      job = self._queue.withdraw(client, view)
    if job:
      _drop(job)

  def leave(self, client: Hashable) -> None:
    """Forgets what a client waits for."""
    with self._changed:
      jobs = self._queue.remove(client)
    for job in jobs:
      _drop(job)

  def close(self) -> None:
    """Ends the threads, after the drawing that each of them is at."""
    with self._changed:
      self._closed = True
      jobs = self._queue.clear()
      self._changed.notify_all()
    for job in jobs:
      _drop(job)
    for thread in self._threads:
      thread.join(timeout=1)
      if thread.is_alive():
        logging.info(
          "waiting for a drawing or a compilation; Ctrl-C ends at once"
        )
        thread.join()

  def _work(self, compiled: bool) -> None:
    """Draws requests whose programs exist, or those whose do not."""
    while job := self._next(compiled):
      if not job.result.set_running_or_notify_cancel():
        continue  # nobody waits for it any more
      drawn, error = None, None
      try:
        begin = time.perf_counter()
        images = job.request.draw()
        drawn = Drawing(job.request, images, time.perf_counter() - begin)
      except UserError as refusal:
        error = refusal
      except Exception as failure:  # the server lives on
        logging.exception("a request failed")
        why = f"{type(failure).__name__}: {errors.one_line(failure)}"
        error = UserError(f"the images could not be drawn ({why})")
      if drawn and not compiled:
        self._keep(job.request.program)
      if error:
        job.result.set_exception(error)
      else:
        job.result.set_result(drawn)

  def _next(self, compiled: bool) -> _Job | None:
    """Waits for the next job; None when the engine is closed."""
    fits = lambda job: self.is_ready(job.request) == compiled
    with self._changed:
      while not self._closed:
        if job := self._queue.take(fits):
          return job
        while not compiled and self._warm:
          request = self._warm.popleft()
          if not self.is_ready(request):
            return _Job(request, Future())
        self._changed.wait()
    return None

  def _keep(self, program: Hashable) -> None:
    with self._changed:
      if len(self._programs) >= PROGRAMS:
        # They cannot be forgotten one by one; those in use compile again.
        jax.clear_caches()
        self._programs.clear()
      self._programs.add(program)
      self._changed.notify_all()


def _drop(job: _Job) -> None:
  if job.result.set_running_or_notify_cancel():
    job.result.set_result(None)
