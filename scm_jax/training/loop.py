"""Trains a run: opens its files, begins it or goes on, and runs its steps."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from scm_jax import files
from scm_jax.defaults import Run
from scm_jax.interop import autoencoder
from scm_jax.sampler import Sampler
from scm_jax.training import (
  initialization,
  program,
  resolve,
  run_folder,
  session,
  sharding,
)
from scm_jax.training.checkpoints import best
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.ema import averaging
from scm_jax.training.ema.snapshots import Snapshots
from scm_jax.training.monitoring import preview, signals, writers
from scm_jax.training.processes import agreement, startup
from scm_jax.training.step import TrainState

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]


def train(
  config: ConfigDict,
  folder: str,
  batches: Batches,
  evaluate: best.Evaluate | None = None,
) -> bool:
  """Trains a run, from the newest checkpoint of its workdir if it has one.

  Args:
    config: the run's config.
    folder: the workdir.
    batches: `batches(step)` iterates over this process's parts of the batches
      that follow that step, dicts of `image` and `label`. It is called only if
      there is something left to do.
    evaluate: scores the first EMA every `config.evaluate_every` steps.

  Returns:
    True when the run is complete; False when a signal stopped it, after saving.

  Raises:
    ConfigError: the config makes no run, or the workdir belongs to another.
    UserError: the run diverged, its batches end or do not fit, its files cannot
      be read or written, or another process trains in the workdir.
  """
  run = resolve.check(config)
  for remark in resolve.remarks(run):
    logging.warning(remark)
  path = run_folder.open_for(config, folder)
  with contextlib.ExitStack() as stack:
    if startup.is_main():
      stack.enter_context(files.locked(path, "another training"))
    return _train_in(path, config, run, batches, evaluate)


def _train_in(
  path: epath.Path,
  config: ConfigDict,
  run: Run,
  batches: Batches,
  evaluate: best.Evaluate | None,
) -> bool:
  """Trains in a workdir that is this run's alone."""
  agreement.check(path, config)
  checkpoints = Checkpoints(path, run.keep_checkpoints, run.keep_every)
  names = [averaging.name(width) for width in averaging.relative_widths(run)]
  dtype, every = run.snapshot_dtype, run.snapshot_every
  snapshots = Snapshots(path, every, names, dtype, run.snapshot_at)
  # From here on the config is what goes on disk; all else takes the run.
  store = session.Store(path, config, checkpoints, snapshots)
  try:
    with signals.StopSignal() as stop:
      return _train(run, store, batches, evaluate, stop)
  finally:
    try:
      checkpoints.close()
    finally:
      snapshots.close()


def _train(
  config: Run,
  store: session.Store,
  batches: Batches,
  evaluate: best.Evaluate | None,
  stop: signals.StopSignal,
) -> bool:
  """Trains with the run's files open; see `train`."""
  path, _, checkpoints, snapshots = store
  mesh = sharding.make_mesh(config)
  state = checkpoints.restore(program.abstract_state(config, mesh))
  start = 0 if state is None else int(state.step)
  if state is not None and snapshots.due(start):
    snapshots.save(start, state.ema)  # unless it is there
  owed = state is not None and run_folder.owes(path, start)
  if state is not None and start >= config.total_steps and not owed:
    logging.info("%s is complete, at step %d", path, start)
    return True
  stream = iter(batches(start))
  steps = _prepare(config, store, mesh, state, evaluate)
  del state  # the steps take it over
  complete = steps.run(stream, stop, owed)
  if complete:
    logging.info("%s is complete, at step %d", path, steps.step)
  else:
    text = "stopped by a signal; %s is saved at step %d"
    logging.info(text, path, steps.step)
  return complete


def _prepare(
  config: Run,
  store: session.Store,
  mesh: Mesh,
  state: TrainState | None,
  evaluate: best.Evaluate | None,
) -> session.Session:
  """Reads, makes and compiles all that a run's steps need.

  `state` is that of its checkpoint; None begins a new run.
  """
  path, start = store.path, 0 if state is None else int(state.step)
  where = functools.partial(sharding.placed, config, mesh)
  teacher = initialization.load_teacher(config, path, state is not None, where)
  decoder = None  # held on this host until a grid needs it
  if config.data.autoencoder:
    decoder = autoencoder.load(config.data.autoencoder)
  first = None
  if state is None:
    first = initialization.load_start(config, teacher, where)
  # All that a user may have got wrong has been looked at: the workdir is ours.
  main = startup.is_main()
  if main:
    begun = None if state is None else start
    run_folder.write_config(path, store.config, begun)
  writer = writers.create(path, start) if main else writers.MultiWriter([])
  others = (teacher.network, teacher.guidance_network) if teacher else ()
  compiled = program.make(config, mesh, *others)
  if state is None:
    state = _initial_state(config, mesh, compiled.state, first)
  else:
    logging.info("continuing from step %d", start)
  del first  # its memory
  weights = _teacher_weights(config, compiled, teacher)
  shown = preview.Preview(
    config, store.config, path, mesh, writer, evaluate, decoder
  )
  return session.Session(config, store, compiled, weights, state, shown)


def _initial_state(
  config: Run, mesh: Mesh, placed: TrainState, first: Any
) -> TrainState:
  """Draws the state of a new run, in the shards of `placed`.

  `first` are the parameters that it begins with, as `load_start` returns them.
  """
  state = program.first_state(config, placed, first)
  overview = parameter_overview.get_parameter_overview(
    state.params["denoiser"],
    include_stats="sharding" if mesh.size > 1 else False,
  )
  logging.info("parameters:\n%s", overview)
  return state


def _teacher_weights(
  config: Run, compiled: program.Program, teacher: Sampler | None
) -> Any:
  """Returns a teacher's parameters as steps read them; None if they do not."""
  if not (teacher and compiled.teacher):
    return None  # sCT needs its teacher for a start only
  there = sharding.formats(compiled.teacher)
  cast = functools.partial(program.cast_teacher, config)
  return jax.jit(cast, out_shardings=there)(teacher.weights)
