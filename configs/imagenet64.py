"""ImageNet at 64x64 (1.28 M images, 1000 classes) in pixels, sizes S to XL.

    scm-jax train --config=configs/imagenet64.py:run=teacher,size=s \
        --workdir=runs/teacher
    scm-jax train --config=configs/imagenet64.py:run=sct,size=s \
        --workdir=runs/sct --config.teacher=runs/teacher

`run=scd` is trained in the same way. Prepare the data once, from a copy of
ImageNet (docs/data.md), and pass --config.data.data_dir=datasets from then on:

    scm-jax prepare --config=configs/imagenet64.py --source=ILSVRC2012/train \
        --out=datasets

Images are cropped and resized as by ADM. Those of TFDS's imagenet_resized/64x64
are resized without cropping, and an FID on them cannot be compared with the
paper's.

Arguments: `run=teacher|sct|scd`, `size=s|m|l|xl`, `on=gpu|tpu`, the hardware,
which decides the precision (docs/configs.md, Precision), and `tiny` for a check
of the code path in a minute on one core (eight steps; the rest is compilation),
with built-in data.

Every size runs unchanged on 8 A100-80GB and on hundreds: a device takes at most
64 images in one pass, and from M on the state is sharded over the 8 devices of
a host.
The paper does not print its hardware; 32 A100 trained EDM2's networks.
docs/planning.md has memory and hours.

FID that the paper reports (Table 8):

    size                            s      m      l      xl
    teacher, 63 evaluations       1.70   1.55   1.44   1.38
    sCT, 1 step                   3.23   2.25   2.08   2.04
    sCT, 2 steps                  2.93   1.81   1.57   1.48
    sCD, 1 step                   2.97   2.79   2.43   2.44
    sCD, 2 steps                  2.07   1.89   1.70   1.66
"""

from configs import common, paper
from scm_jax.configuration import parse_arg

# Table 4, one size in each line. There is no guidance, and no label is dropped.
SIZES = {
  #                  teacher: steps, rate, dropout; sCT's, sCD's; teacher's EMA
  "s": paper.Column(1_048_000, 1e-2, 0.0, 0.45, 0.0, 0.075),
  "m": paper.Column(1_486_000, 9e-3, 0.1, 0.45, 0.0, 0.06),
  "l": paper.Column(761_000, 8e-3, 0.1, 0.45, 0.0, 0.04),
  "xl": paper.Column(540_000, 7e-3, 0.1, 0.45, 0.0, 0.04),
}


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(
    arg,
    run=paper.RUNS,
    size=tuple(SIZES),
    on=paper.HARDWARE,
    tiny=False,
  )
  size = SIZES[choice.size]
  config = paper.imagenet(choice.run, choice.size, size, choice.on)
  config.data.name = "imagenet64"
  config.data.mean, config.data.std = 0.0, 0.5  # EDM2: images in [-1, 1]
  config.data.flip = False  # EDM2

  config.optimizer.decay_steps = 35_000  # t_ref, Table 4
  config.objective.P_std = 1.6  # Table 4
  if choice.run == "teacher":
    config.objective.P_mean = -0.8  # Table 4
  else:
    config.objective.P_mean = -1.0  # Table 4
    # Table 4; 20,000 is what sCD+VSD has at 512x512 (Table 5).
    config.total_steps = 20_000 if choice.run == "scd_vsd" else 400_000
  if choice.run in paper.EASY:
    paper.tune_easily(config, choice.size, size)
  common.fit_to_objective(config)
  if choice.tiny:
    config.data.name = "scm_patches/16x16"
    config.data.size = 16
    paper.shrink(config)
  return config
