"""`scm-jax reconstruct`: makes EMA weights of other widths from snapshots."""

import argparse

from scm_jax.cli import flags

EXAMPLE = """\
scm-jax reconstruct --workdir=runs/teacher --ema=0.03,0.05 --out=runs/teacher_03
scm-jax train --config=imagenet64:run=scd --workdir=runs/scd \\
    --config.teacher=runs/teacher_03"""

FLAGS = {
  "--workdir=DIR": "workdir of a run with snapshots (config.snapshot_every)",
  "--ema=SIGMA_REL,...": "relative widths of the EMA weights; tasks use the "
  "first by default",
  "--step=N": "training step of a snapshot; the default is the newest "
  "checkpoint's",
  "--out=DIR": "new workdir, for sample, evaluate and --config.teacher",
}
add_arguments = flags.adder(FLAGS, ["workdir", "ema", "out"])


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes a workdir with the EMA weights and `origin.json`."""
  widths = tuple(dict.fromkeys(args.ema))
  flags.check(args, "step", least=1)

  import jax

  from scm_jax.training import workdir
  from scm_jax.training.ema import averaging, loading

  config = workdir.load_config(args.workdir)
  workdir.check_free(args.out)  # before the work, not after it
  like = workdir.param_shapes(config)
  kept, errors, step = {}, {}, 0
  for width in widths:
    params, step, error = loading.reconstruct(
      args.workdir, config, width, like, args.step
    )
    # Kept on the host, so that no device ever holds more than two copies.
    kept[averaging.name(width)] = jax.device_get(params)
    errors[averaging.name(width)] = error
  with config.unlocked():
    config.ema = widths
  origin = {
    "format": "averages reconstructed from snapshots",
    "workdir": args.workdir,
    "step": step,
    "fit_error": errors,
  }
  path = workdir.write_averages(args.out, config, kept, step, origin)
  shown = ", ".join(map(str, widths))
  print(f"EMA weights of width {shown} at step {step}: {path}")
