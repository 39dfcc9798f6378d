"""Draws and scores the first EMA of a run while it trains."""

import dataclasses
import logging
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from scm_jax import image_grid
from scm_jax.defaults import Run
from scm_jax.interop import autoencoder
from scm_jax.sampler import Sampler
from scm_jax.training import offload, resolve, sharding
from scm_jax.training.checkpoints import best
from scm_jax.training.ema import averaging
from scm_jax.training.monitoring.writers import MultiWriter
from scm_jax.training.processes import startup


@dataclasses.dataclass(frozen=True)
class Preview:
  """Grids of samples and scores of a run's first EMA.

  Every process draws a part; the first one writes.

  Attributes:
    config: the run.
    stored: its config as it is written in the workdir.
    path: the workdir.
    mesh: the devices.
    writer: writes grids and scores to TensorBoard and `metrics.jsonl`.
    evaluate: scores a model every `config.evaluate_every` steps; None: never.
    decoder: the autoencoder and its parameters on this host, for latents.
  """

  config: Run
  stored: ConfigDict
  path: epath.Path
  mesh: Mesh
  writer: MultiWriter
  evaluate: best.Evaluate | None
  decoder: tuple[Any, Any] | None

  def due(self, step: int) -> bool:
    """Returns whether anything is drawn or scored after a step."""
    return self._draws(step) or bool(self._scorer(step))

  def show(self, step: int, ema: dict[str, Any]) -> None:
    """Draws and scores, where it is due, with the EMAs after a step."""
    model = self._sampler(ema)
    if self._draws(step):
      self._write_grid(step, model)
    if evaluate := self._scorer(step):
      self._write_scores(step, model, evaluate)

  def _draws(self, step: int) -> bool:
    last = step == self.config.total_steps
    return bool(self.config.sample.num) and (
      last or due(self.config.sample_every, step)
    )

  def _scorer(self, step: int) -> best.Evaluate | None:
    return self.evaluate if due(self.config.evaluate_every, step) else None

  def _sampler(self, ema: dict[str, Any]) -> Sampler:
    """Returns the sampler of the first EMA, whole on every device."""
    average = offload.fetch(ema[averaging.name(self.config.ema[0])])
    if self.mesh.size > 1:  # few images: every device draws all, no exchange
      average = sharding.replicate(average, self.mesh)
    model = resolve.model(self.config, average)
    return autoencoder.attach(model, *self.decoder) if self.decoder else model

  def _write_grid(self, step: int, model: Sampler) -> None:
    columns = min(self.config.data.num_classes or 8, 10)
    images = model.sample(num=self.config.sample.num)
    if not startup.is_main():
      return
    picture = image_grid.image_grid(images, columns)
    file = self.path / "samples" / f"step_{step:08d}.png"
    image_grid.save_png(file, picture)
    self.writer.write_images(step, {"samples": picture[None]})

  def _write_scores(
    self, step: int, model: Sampler, evaluate: best.Evaluate
  ) -> None:
    """Scores the model, and keeps it if it is the best so far.

    Every process draws a part on its own devices, and gets the same scores.
    """
    here = jax.tree.map(lambda leaf: leaf.addressable_data(0), model.params)
    model = dataclasses.replace(model, params=here)
    scores = evaluate(model)
    if startup.is_main():
      self.writer.write_scalars(step, scores)
      if best.keep_if_best(self.path, self.stored, model, step, scores):
        logging.info("the best so far, kept in %s", self.path / best.FOLDER)


def due(every: int, step: int) -> bool:
  """Returns whether something is done after a step; `every=0` is never."""
  return bool(every) and step % every == 0
