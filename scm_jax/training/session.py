"""The steps of a run, and what is done on disk and screen after each."""

import contextlib
import logging
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from scm_jax.defaults import Run
from scm_jax.errors import UserError
from scm_jax.objectives import precision
from scm_jax.training import evaluations, program, run_folder, sharding
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.ema.snapshots import Snapshots
from scm_jax.training.monitoring import preview
from scm_jax.training.monitoring.health import Health
from scm_jax.training.monitoring.profiler import Profiler
from scm_jax.training.monitoring.progress import Progress
from scm_jax.training.monitoring.signals import StopSignal
from scm_jax.training.monitoring.watchdog import Watchdog
from scm_jax.training.monitoring.windows import Window
from scm_jax.training.processes import startup
from scm_jax.training.step import TrainState, seed_of


class Store(NamedTuple):
  """The files of a run.

  Attributes:
    path: the workdir.
    config: the config as it is written there.
    checkpoints: the checkpoints.
    snapshots: the snapshots of the EMAs.
  """

  path: epath.Path
  config: ConfigDict
  checkpoints: Checkpoints
  snapshots: Snapshots


class Session:
  """A run's state, its steps, and what is done after each of them.

  Do not change the order of operations: a step's metrics are fetched after the
  next step is dispatched, so that the device never waits for the host; and
  before a checkpoint, so that no diverged state is ever saved.
  """

  def __init__(
    self,
    config: Run,
    store: Store,
    compiled: program.Program,
    teacher: Any,
    state: TrainState,
    shown: preview.Preview,
  ):
    self.step = start = int(state.step)  # the last one that was dispatched
    self._config, self._store, self._compiled = config, store, compiled
    self._teacher, self._state, self._preview = teacher, state, shown
    self._writer, self._mesh = shown.writer, shown.mesh
    self._seed = seed_of(config)
    self._compiling = True  # until the first step has ended
    self._window = Window()  # the metrics of the newest steps
    self._ended: Window | None = None  # a window that is still to be written
    self._health = Health(config, store.checkpoints)
    self._progress = Progress(start, config.total_steps)
    self._dog = Watchdog(config.watchdog)
    self._profile = contextlib.nullcontext(lambda step: None)
    if config.profile and startup.is_main():  # once all is compiled
      self._profile = Profiler(store.path, first=start + 10)

  def run(
    self,
    stream: Iterator[dict[str, np.ndarray]],
    stop: StopSignal,
    owed: bool,
  ) -> bool:
    """Trains; returns whether the run is complete.

    Args:
      stream: the batches that follow.
      stop: asks to save and leave.
      owed: whether samples and scores failed when the run was here before.
    """
    with self._writer, self._profile as trace, self._dog:
      if owed:
        with self._aside():
          self._preview.show(self.step, self._state.ema)
      if startup.is_main():
        run_folder.owe(self._store.path, None)
      last = self.step >= self._config.total_steps
      leave = False
      while not (last or leave):
        batch, metrics = self._dispatch(next(stream, None))
        trace(self.step)
        self._write_metrics()  # those of earlier steps, while it runs
        # Asked once: a signal from here on is the next step's.
        last = self.step == self._config.total_steps
        leave = stop.asked(self.step)
        self._keep_metrics(metrics, last or leave)
        self._check_precision(batch)
        self._show()
        self._save(last or leave)
      self._store.checkpoints.wait()
      self._store.snapshots.wait()
    self._progress.close()
    return last

  def _dispatch(self, batch: dict[str, np.ndarray] | None) -> tuple[Any, Any]:
    """Dispatches a step; returns its batch and metrics, on the devices."""
    total = self._config.total_steps
    if batch is None:
      raise UserError(
        f"the batches end after step {self.step} of {total}; the iterator that "
        "batches(step) returns has to go on"
      )
    program.check_batch(self._config, batch)
    if self._compiling and (
      remark := program.remark_on_scale(self._config, batch)
    ):
      logging.warning(remark)
    batch = sharding.place_batch(batch, self._mesh)
    self._state, metrics = self._compiled.step(
      self._state, self._teacher, batch, self._seed
    )
    self.step += 1
    self._progress.advance()
    if self._compiling:
      jax.block_until_ready(metrics)
      self._progress.pause()
      self._compiling = False
    self._dog.beat(self.step)
    return batch, metrics

  def _keep_metrics(self, metrics: dict[str, Any], leaving: bool) -> None:
    """Adds a step's metrics to the window, and ends it where that is due."""
    self._window.add(self.step, metrics)
    # A run that goes on from a checkpoint has no metrics of earlier steps.
    every = self._config.checkpoint_every, self._config.log_every
    if leaving or any(preview.due(n, self.step) for n in every):
      self._window, self._ended = Window(), self._window

  def _write_metrics(self) -> None:
    """Writes the window that has ended; stops a run that has diverged."""
    window, self._ended = self._ended, None
    if window is None:
      return
    self._health.close(window)
    summary = window.summary()
    summary["evaluations"] = evaluations.total(self._config, window.step)
    rate = self._progress.report(window.step, summary["loss"])
    summary["steps_per_second"] = rate
    summary["images_per_second"] = rate * self._config.batch_size
    self._writer.write_scalars(window.step, summary)

  @contextlib.contextmanager
  def _aside(self) -> Generator[None]:
    """Runs a block between two steps, after a check that the state is sound.

    Its time counts neither in the speed nor against the watchdog's patience.
    """
    self._write_metrics()
    self._health.check(self._window)
    yield
    self._dog.beat(self.step)
    self._progress.pause()

  def _check_precision(self, batch: Any) -> None:
    """Compares the step's tangents with float32's, where that is due."""
    every = self._config.objective.check_every
    if not (self._compiled.check and preview.due(every, self.step)):
      return
    with self._aside():
      sums = self._compiled.check(self._state, self._teacher, batch, self._seed)
      found = precision.summary(jax.device_get(sums))
      self._writer.write_scalars(self.step, found)

  def _show(self) -> None:
    """Draws and scores the averaged weights, where that is due."""
    if self._preview.due(self.step):
      with self._aside(), _saved(self._store, self._state):
        self._preview.show(self.step, self._state.ema)

  def _save(self, leaving: bool) -> None:
    """Saves a checkpoint and a snapshot, where they are due."""
    path, _, checkpoints, snapshots = self._store
    save = leaving or preview.due(self._config.checkpoint_every, self.step)
    if not (save or snapshots.due(self.step)):
      return
    run_folder.check_present(path)
    with self._aside():
      # Snapshots of earlier steps are on disk before a checkpoint from which a
      # run would not make them.
      snapshots.wait()
      if save:
        self._writer.flush()  # a run goes on from here: nothing of it is lost
        checkpoints.save(self._state)
      if snapshots.due(self.step):
        snapshots.save(self.step, self._state.ema)


@contextlib.contextmanager
def _saved(store: Store, state: TrainState) -> Generator[None]:
  """Saves a sound state if the block fails, so that no step is lost with it.

  A run that goes on from there does first what the block did not. Of several
  processes only some may have failed, and those cannot save alone.
  """
  try:
    yield
  except Exception:
    if jax.process_count() == 1:
      store.snapshots.wait()
      store.checkpoints.save(state)
      store.checkpoints.wait()
      run_folder.owe(store.path, int(state.step))
    raise
