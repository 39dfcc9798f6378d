"""`scm-jax train`: trains a config; the same command resumes."""

import argparse
from collections.abc import Iterator
from typing import Any

from scm_jax.cli import configs, flags, platforms

EXAMPLE = """\
scm-jax train --config=configs/digits.py:run=teacher --workdir=runs/teacher
scm-jax train --config=configs/digits.py:run=scd --workdir=runs/scd \\
    --config.teacher=runs/teacher --config.total_steps=500"""

FLAGS = {
  "config": configs.FLAGS,
  "--workdir=DIR": "folder of the run's files; an earlier run there goes on",
}
add_arguments = flags.adder(FLAGS, ["workdir"])


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Trains; returns 0 also if a signal stopped the run after it saved."""
  config = configs.parse_config(config_argv)

  from scm_jax.training.processes import startup

  with startup.together():
    platforms.announce()
    _train(config, args.workdir)


def _train(config: Any, workdir: str) -> None:
  import jax

  from scm_jax.planning import fitting
  from scm_jax.training import loop

  fitting.check(config)
  evaluate = None
  if config.evaluate_every:
    from scm_jax.evaluation.in_training import Evaluation

    evaluate = Evaluation(config, workdir)

  def batches(step: int) -> Iterator:
    from scm_jax.data import pipeline, sources
    from scm_jax.training import run_folder

    source = sources.open_source(config.data)
    origins = [*filter(None, (config.teacher, config.start))]
    run_folder.keep_classes(workdir, source.classes, step > 0, origins)
    stream = pipeline.Batches(
      source,
      batch_size=config.batch_size,
      seed=config.seed,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      flip=config.data.flip,
    )
    return stream.iterate(step)

  loop.train(config, workdir, batches, evaluate)
