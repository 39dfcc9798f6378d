"""The training loop: the only code that touches disk and clock."""

import logging
from collections.abc import Callable, Iterator

import jax
import numpy as np
from clu import metric_writers, parameter_overview, periodic_actions
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from scm_jax import networks, pictures
from scm_jax.errors import UserError
from scm_jax.model import Model
from scm_jax.training import (
  build,
  distributed,
  ema,
  program,
  sharding,
  signals,
  workdir,
  writers,
)
from scm_jax.training.checkpoint import Checkpoints
from scm_jax.training.metrics import Window
from scm_jax.training.snapshots import Snapshots
from scm_jax.training.step import TrainState, init_state
from scm_jax.training.watchdog import Watchdog

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]


def train(config: ConfigDict, folder: str, batches: Batches) -> bool:
  """Trains, from the newest checkpoint of the workdir if it has one.

  Args:
    config: of the run.
    folder: the workdir.
    batches: `batches(step)` iterates over this process's parts of the batches
      from that step on; it is called only if there is something left to do.

  Returns:
    True when the run is complete; False when a signal stopped it, after saving.

  Raises:
    ConfigError: the config makes no run, or the workdir belongs to another.
    UserError: the run diverged, or its files cannot be read or written.
  """
  build.check(config)
  path = workdir.open_for(config, folder)
  checkpoints = Checkpoints(path, config.keep_checkpoints, config.keep_every)
  names = [ema.name(width) for width in ema.widths(config)]
  snapshots = Snapshots(
    path, config.snapshot_every, names, config.snapshot_dtype
  )
  try:
    with signals.StopSignal() as stop:
      return _train(config, path, batches, checkpoints, snapshots, stop)
  finally:
    try:
      checkpoints.close()
    finally:
      snapshots.close()


def _train(config, path, batches, checkpoints, snapshots, stop) -> bool:
  mesh = sharding.make_mesh(config)
  state = checkpoints.restore(program.abstract_state(config, mesh))
  if state is not None and snapshots.due(int(state.step)):
    snapshots.save(int(state.step), state.ema)  # unless it is there
  if state is not None and state.step >= config.total_steps:
    logging.info("%s is complete, at step %d", path, state.step)
    return True
  start = 0 if state is None else int(state.step)
  stream = batches(start)
  teacher = workdir.load_teacher(config, path, begun=state is not None)
  # All that a user may have got wrong has been looked at: the workdir is ours.
  main = distributed.is_main()
  if main:
    workdir.write_config(path, config)
  others = (teacher.network, teacher.weak) if teacher else (None, None)
  compiled = program.make(config, mesh, *others)
  if state is None:
    state = _initial_state(config, mesh, compiled.state, teacher)
  else:
    logging.info("continuing from step %d", start)
  teacher_params = None  # sCT needs its teacher for a start only
  if teacher and compiled.teacher:
    weights = program.cast_teacher(config, teacher.weights)
    teacher_params = sharding.distribute(weights, compiled.teacher)

  writer = writers.create(path, start) if main else writers.nowhere()
  progress = writers.Progress(start, config.total_steps)
  hooks = profile_hooks(path, start) if config.profile and main else []
  window, finished = Window(), None

  def settle() -> None:
    """Writes the metrics that are due; stops a run that has diverged."""
    nonlocal finished
    if finished is not None:
      _write_metrics(config, finished, writer, progress, checkpoints)
      finished = None

  # Do not change the order of operations: a step's metrics are fetched after
  # the next step is dispatched, so that the device never waits for the host;
  # and before a checkpoint, so that no diverged state is ever saved.
  with metric_writers.ensure_flushes(writer), Watchdog(config.watchdog) as dog:
    for step, batch in enumerate(stream, start + 1):
      # 1. Dispatch the update.
      batch = sharding.place_batch(batch, mesh)
      state, metrics = compiled.step(state, teacher_params, batch)
      progress.advance()
      dog.beat(step)
      for hook in hooks:
        hook(step)
      # 2. While it runs, write the window that ended before it.
      settle()
      # 3. Close the window that ends with it. Asked once whether to leave: a
      # signal from here on is the next step's.
      window.add(step, metrics)
      last, leave = step == config.total_steps, stop.asked(step)
      if step % config.log_every == 0 or last or leave:
        window, finished = Window(), window
      # 4. Samples of the averaged weights.
      sample = config.sample_every and step % config.sample_every == 0
      if sample or last:
        settle()
        _write_samples(config, mesh, state, step, path, writer)
        progress.pause()
      # 5. Save; on a signal, save now and leave. Snapshots of earlier steps
      # are on disk before a checkpoint from which a run would not make them.
      save = step % config.checkpoint_every == 0 or last or leave
      if save or snapshots.due(step):
        settle()
        _check_window(config, window, checkpoints)
        snapshots.wait()
        if save:
          checkpoints.save(state)
        if snapshots.due(step):
          snapshots.save(step, state.ema)
        progress.pause()
      if last or leave:
        break
    checkpoints.wait()
    snapshots.wait()
  progress.close()
  if last:
    logging.info("%s is complete, at step %d", path, step)
  else:
    logging.info("stopped by a signal; %s is saved at step %d", path, step)
  return last


def _initial_state(
  config: ConfigDict, mesh: Mesh, placed: TrainState, teacher: Model | None
) -> TrainState:
  """The state of a new run, drawn in its shards; `placed` says where."""
  network = networks.build(build.network_config(config))
  start = workdir.load_start(config, teacher)
  if start is not None:
    start = sharding.distribute(start, sharding.placed(config, mesh, start))

  def init(start):
    return init_state(config, network, start)

  where = jax.tree.map(lambda leaf: leaf.sharding, placed)
  state = jax.jit(init, out_shardings=where)(start)
  overview = parameter_overview.get_parameter_overview(
    state.params["denoiser"],
    include_stats="sharding" if mesh.size > 1 else False,
  )
  logging.info("parameters:\n%s", overview)
  return state


def profile_hooks(
  path: epath.Path, start: int
) -> list[periodic_actions.PeriodicAction]:
  """A trace of a few steps once all is compiled, and one every hour."""
  return [
    periodic_actions.Profile(
      logdir=path, num_profile_steps=5, first_profile=start + 10
    )
  ]


def _write_metrics(config, window, writer, progress, checkpoints) -> None:
  _check_window(config, window, checkpoints)
  summary = window.summary()
  rate = progress.report(window.step, summary["loss"])
  summary["steps_per_second"] = rate
  summary["images_per_second"] = rate * config.batch_size
  writer.write_scalars(window.step, summary)


def _check_window(config, window, checkpoints) -> None:
  """Stops a run whose values are no longer those of a model that learns."""
  if not window.count:
    return
  summary = window.summary()
  bad = summary["nonfinite_samples"] / window.count
  rms = summary["output_rms"]
  if np.isfinite(summary["loss"]) and rms <= config.divergence_limit:
    if bad <= config.batch_size / 2:
      return
  checkpoints.wait()
  raise UserError(
    f"diverged by step {window.step}: loss {summary['loss']:.4g}, output RMS "
    f"{rms:.4g}, {bad:.4g} of {config.batch_size} samples not finite; "
    f"{checkpoints.good()}; look at what grows by time in metrics.jsonl, lower "
    "config.optimizer.learning_rate in another --workdir"
  )


def _write_samples(config, mesh, state, step, path, writer) -> None:
  """A grid of samples from the first average, as PNG and in TensorBoard."""
  average = state.ema[ema.name(config.ema[0])]
  if mesh.size > 1:  # every device draws all of it: few images, no exchange
    average = sharding.replicate(average, mesh)
  model = build.model(config, average)
  columns = config.data.num_classes or 8
  columns = min(columns, 10)
  num = config.sample.num
  labels = np.arange(num) % max(config.data.num_classes, 1)
  images = model.sample(
    labels if config.data.num_classes else None,
    num=num,
    steps=2 if model.consistency else config.sample.solver_steps,
    guidance=config.sample.guidance,
    batch_size=min(num, config.sample.batch_size),
  )
  if not distributed.is_main():
    return
  picture = pictures.image_grid(images, columns)
  pictures.save_png(path / "samples" / f"step_{step:08d}.png", picture)
  writer.write_images(step, {"samples": picture[None]})
