"""The training loop: the only code that touches disk and clock."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from scm_jax import files, image_grid
from scm_jax.defaults import Run
from scm_jax.errors import UserError
from scm_jax.interop import autoencoder
from scm_jax.objectives import precision
from scm_jax.sampler import Sampler
from scm_jax.training import (
  evaluations,
  initialization,
  offload,
  program,
  resolve,
  sharding,
  workdir,
)
from scm_jax.training.checkpoints import best
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.ema import averaging
from scm_jax.training.ema.snapshots import Snapshots
from scm_jax.training.monitoring import signals, writers
from scm_jax.training.monitoring.health import Health
from scm_jax.training.monitoring.profiler import Profiler
from scm_jax.training.monitoring.progress import Progress
from scm_jax.training.monitoring.watchdog import Watchdog
from scm_jax.training.monitoring.windows import Window
from scm_jax.training.processes import startup
from scm_jax.training.step import TrainState, seed_of

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
  path = workdir.open_for(config, folder)
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
  checkpoints = Checkpoints(path, run.keep_checkpoints, run.keep_every)
  names = [averaging.name(width) for width in averaging.relative_widths(run)]
  dtype, every = run.snapshot_dtype, run.snapshot_every
  snapshots = Snapshots(path, every, names, dtype, run.snapshot_at)
  # From here on the config is what goes on disk; all else takes the run.
  store = Store(path, config, checkpoints, snapshots)
  try:
    with signals.StopSignal() as stop:
      return _train(run, store, batches, evaluate, stop)
  finally:
    try:
      checkpoints.close()
    finally:
      snapshots.close()


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


def _train(
  config: Run,
  store: Store,
  batches: Batches,
  evaluate: best.Evaluate | None,
  stop: signals.StopSignal,
) -> bool:
  """Trains with the run's files open; see `train`."""
  path, _, checkpoints, snapshots = store
  mesh = sharding.make_mesh(config)
  state = checkpoints.restore(program.abstract_state(config, mesh))
  if state is not None and snapshots.due(int(state.step)):
    snapshots.save(int(state.step), state.ema)  # unless it is there
  start = 0 if state is None else int(state.step)
  owed = state is not None and workdir.owes(path, start)
  if state is not None and start >= config.total_steps and not owed:
    logging.info("%s is complete, at step %d", path, start)
    return True
  stream = batches(start)
  where = functools.partial(sharding.placed, config, mesh)
  teacher = initialization.load_teacher(config, path, state is not None, where)
  decoder = None  # held on this host until a grid needs it
  if config.data.autoencoder:
    decoder = autoencoder.load(config.data.autoencoder)
  # All that a user may have got wrong has been looked at: the workdir is ours.
  main = startup.is_main()
  if main:
    workdir.write_config(path, store.config, goes_on=state is not None)
  writer = writers.create(path, start) if main else writers.MultiWriter([])
  others = (teacher.network, teacher.guidance_network) if teacher else ()
  compiled = program.make(config, mesh, *others)
  if state is None:
    state = _initial_state(config, mesh, compiled.state, teacher)
  else:
    logging.info("continuing from step %d", start)
  seed = seed_of(config)
  teacher_params = None  # sCT needs its teacher for a start only
  if teacher and compiled.teacher:
    there = sharding.formats(compiled.teacher)
    cast = functools.partial(program.cast_teacher, config)
    teacher_params = jax.jit(cast, out_shardings=there)(teacher.weights)
  del teacher  # and with it the weights as they were read

  progress = Progress(start, config.total_steps)
  profile = contextlib.nullcontext(lambda step: None)
  if config.profile and main:  # once all is compiled
    profile = Profiler(path, first=start + 10)
  window, finished = Window(), None
  step, last, leave = start, False, False
  health = Health(config, checkpoints)

  def settle() -> None:
    """Writes the metrics that are due; stops a run that has diverged."""
    nonlocal finished
    if finished is not None:
      health.close(finished)
      _write_metrics(config, finished, writer, progress)
      finished = None

  def look(step: int) -> None:
    """Draws and scores the averaged weights, where it is due."""
    model = _first_ema(config, mesh, state, decoder)
    if _draws(config, step):
      _write_samples(config, path, model, step, writer)
    if evaluate and _due(config.evaluate_every, step):
      _evaluate(store, model, step, evaluate, writer)

  # Do not change the order of operations: a step's metrics are fetched after
  # the next step is dispatched, so that the device never waits for the host;
  # and before a checkpoint, so that no diverged state is ever saved.
  with writer, profile as trace, Watchdog(config.watchdog) as dog:
    if owed:  # it failed when the run was here before
      look(start)
      dog.beat(start)
      progress.pause()
    if main:
      workdir.owe(path, None)
    last = start >= config.total_steps
    for step, batch in () if last else enumerate(stream, start + 1):
      # 1. Dispatch the update.
      program.check_batch(config, batch)
      batch = sharding.place_batch(batch, mesh)
      state, metrics = compiled.step(state, teacher_params, batch, seed)
      progress.advance()
      if step == start + 1:  # it was compiled
        jax.block_until_ready(metrics)
        progress.pause()
      dog.beat(step)
      trace(step)
      # 2. While it runs, write the window that ended before it.
      settle()
      # 3. Close the window that ends with it. Asked once whether to leave: a
      # signal from here on is the next step's.
      window.add(step, metrics)
      last, leave = step == config.total_steps, stop.asked(step)
      if step % config.log_every == 0 or last or leave:
        window, finished = Window(), window
      if compiled.check and _due(config.objective.check_every, step):
        settle()
        health.check(window)
        sums = compiled.check(state, teacher_params, batch, seed)
        found = precision.summary(jax.device_get(sums))
        writer.write_scalars(step, found)
        dog.beat(step)
        progress.pause()
      # 4. Samples and scores of the averaged weights.
      score = evaluate and _due(config.evaluate_every, step)
      if score or _draws(config, step):
        settle()
        health.check(window)
        with _saved(store, state):
          look(step)
        dog.beat(step)
        progress.pause()
      # 5. Save; on a signal, save now and leave. Snapshots of earlier steps
      # are on disk before a checkpoint from which a run would not make them.
      save = step % config.checkpoint_every == 0 or last or leave
      if save or snapshots.due(step):
        workdir.check_present(path)
        settle()
        health.check(window)
        snapshots.wait()
        if save:
          writer.flush()  # a run goes on from here: nothing of it is lost
          checkpoints.save(state)
        if snapshots.due(step):
          snapshots.save(step, state.ema)
        progress.pause()
      if last or leave:
        break
    if not (last or leave):
      raise UserError(
        f"the batches end after step {step} of {config.total_steps}; the "
        "iterator that batches(step) returns has to go on"
      )
    checkpoints.wait()
    snapshots.wait()
  progress.close()
  if last:
    logging.info("%s is complete, at step %d", path, step)
  else:
    logging.info("stopped by a signal; %s is saved at step %d", path, step)
  return last


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
      store.checkpoints.save(state)
      store.checkpoints.wait()
      workdir.owe(store.path, int(state.step))
    raise


def _initial_state(
  config: Run, mesh: Mesh, placed: TrainState, teacher: Sampler | None
) -> TrainState:
  """Draws the state of a new run, in the shards of `placed`."""
  rule = functools.partial(sharding.placed, config, mesh)
  start = initialization.load_start(config, teacher, rule)
  state = program.first_state(config, placed, start)
  overview = parameter_overview.get_parameter_overview(
    state.params["denoiser"],
    include_stats="sharding" if mesh.size > 1 else False,
  )
  logging.info("parameters:\n%s", overview)
  return state


def _write_metrics(config, window, writer, progress) -> None:
  """Writes the means of a window of steps, their speed, and the budget."""
  summary = window.summary()
  summary["evaluations"] = evaluations.total(config, window.step)
  rate = progress.report(window.step, summary["loss"])
  summary["steps_per_second"] = rate
  summary["images_per_second"] = rate * config.batch_size
  writer.write_scalars(window.step, summary)


def _due(every: int, step: int) -> bool:
  """Returns whether something is done at a step, if it is done at all."""
  return bool(every) and step % every == 0


def _draws(config: Run, step: int) -> bool:
  """Returns whether a grid of samples is drawn after a step."""
  due = step == config.total_steps or _due(config.sample_every, step)
  return bool(config.sample.num) and due


def _first_ema(config: Run, mesh, state, decoder) -> Sampler:
  """Returns the sampler of the first EMA, whole on every device."""
  average = offload.fetch(state.ema[averaging.name(config.ema[0])])
  if mesh.size > 1:  # every device draws all of it: few images, no exchange
    average = sharding.replicate(average, mesh)
  model = resolve.model(config, average)
  return autoencoder.attach(model, *decoder) if decoder else model


def _evaluate(store: Store, model, step, evaluate, writer) -> None:
  """Scores the first EMA, and keeps it if it is the best so far.

  Every process draws a part on its own devices, and gets the same scores.
  """
  here = jax.tree.map(lambda leaf: leaf.addressable_data(0), model.params)
  model = dataclasses.replace(model, params=here)
  scores = evaluate(model)
  if startup.is_main():
    writer.write_scalars(step, scores)
    if best.keep_if_best(store.path, store.config, model, step, scores):
      logging.info("the best so far, kept in %s", store.path / best.FOLDER)


def _write_samples(config: Run, path, model, step, writer) -> None:
  """Writes a grid of samples from the first EMA, as PNG and in TensorBoard."""
  columns = min(config.data.num_classes or 8, 10)
  images = model.sample(num=config.sample.num)
  if not startup.is_main():
    return
  picture = image_grid.image_grid(images, columns)
  image_grid.save_png(path / "samples" / f"step_{step:08d}.png", picture)
  writer.write_images(step, {"samples": picture[None]})
