"""CIFAR-10 (50,000 images, 32x32, unconditional): DDPM++ of 55.7 M parameters.

    scm-jax train --config=configs/cifar10.py:run=teacher --workdir=runs/teacher
    scm-jax train --config=configs/cifar10.py:run=sct --workdir=runs/sct \
        --config.teacher=runs/teacher
    scm-jax train --config=configs/cifar10.py:run=scd --workdir=runs/scd \
        --config.teacher=runs/teacher

Prepare the data once with `tfds build cifar10 --file_format=array_record`, or
from images in class folders with `scm-jax prepare --config=configs/cifar10.py
--source=PATH --out=DIR`.

Arguments: `run=teacher|sct|scd`, and `tiny` for a check of the code path in
a minute on one core (eight steps; the rest is compilation), with built-in data.

The config is meant for 8 A100-80GB with 64 images each. The paper does not
print its hardware.

FID that the paper reports: teacher 2.15 (Section G.1; 35 evaluations); sCT 2.85
in one step and 2.06 in two; sCD 3.66 and 2.52 (Table 1).

Images are augmented as in EDM (probability 0.12), and the parameters of the
augmentation are an input of the network. The resampling filter differs from
EDM's (see `data/augmentation.py`). The paper does not say whether it augments:
its teacher has "the same settings" as EDM's. Students see the images as they
are: a reproduction that augmented its teacher alone has the paper's FIDs
(github.com/EpiGenomicsCode/edm2_sCM), and the authors of ECT, TCM and CMT
augment none either. MeanFlow's authors augment without rotations. Students that
began with augmentation go on with --config.data.augment=0.12, and
--config.data.upright=false; runs from before it, teacher and students, were
only mirrored, and go on with --config.data.augment=0
--config.network.augment=false --config.data.flip=true.
"""

from configs import common, paper
from scm_jax.configuration import parse_arg
from scm_jax.networks import presets

MEANFLOWS = ("meanflow", "imf", "alphaflow")
# Those that the paper (sCT) or their authors train with dropout here; iMF and
# alpha-Flow have MeanFlow's.
DROPOUT = ("sct", "ect", "tcm", *MEANFLOWS)
# Those whose authors keep PyTorch's second moment.
PYTORCH = ("ect", "tcm", "cmt")


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(arg, run=paper.RUNS, tiny=False)
  config = paper.start(choice.run)
  config.batch_size = 512  # G.1
  # Teacher: G.1. Students: not printed; sCT of Table 3 trains this long.
  config.total_steps = 400_000
  # A half-life in images (G.2), ramped up as in EDM's code.
  config.ema = (500_000.0,)
  config.ema_rampup_ratio = 0.05
  config.checkpoint_every = 5000  # our choice, as is `sample_every`
  config.sample_every = 5000

  config.data.name = "cifar10"
  config.data.size = 32
  config.data.num_classes = 0
  config.data.mean, config.data.std = 0.0, 0.5  # EDM: images in [-1, 1]
  if choice.run in ("teacher", *MEANFLOWS):
    config.data.augment = 0.12  # EDM
    config.data.upright = choice.run != "teacher"

  config.network.update(presets.DDPMPP)  # G.1; dropout at all sides, as in EDM
  config.network.augment = True  # EDM; students take it as their teachers do
  config.network.dtype = "float32"  # EDM's; the paper does not say

  optimizer, objective = config.optimizer, config.objective
  optimizer.decay_steps = 0  # no schedule (G.1, G.2)
  optimizer.eps = 1e-8  # G.1, G.2
  if choice.run == "teacher":
    optimizer.name = "adam"  # from this line to the next blank one: G.1
    optimizer.learning_rate = 1e-3
    optimizer.b1, optimizer.b2 = 0.9, 0.999
    config.network.dropout = 0.13

    optimizer.rampup_images = 10_000_000  # EDM's code; implied
    objective.P_mean, objective.P_std = -1.2, 1.2  # EDM's code; implied
    config.sample.solver, config.sample.solver_steps = "heun", 18  # 35 NFE
  else:
    optimizer.name = "radam"  # from this line to the next blank one: G.2
    optimizer.learning_rate = 1e-4
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999 if choice.run in PYTORCH else 0.99
    config.network.dropout = 0.20 if choice.run in DROPOUT else 0.0
    if choice.run not in ("ect", "tcm"):  # whose own law is for CIFAR-10
      objective.P_mean, objective.P_std = -1.0, 1.4

    optimizer.rampup_images = 0  # a constant rate
    # RAdam's first steps are plain gradient descent, whose size depends on that
    # of the loss: w_phi must count once for each sample (Equation 8).
    objective.weighting_unit = "sample"
    config.teacher_ema = config.ema[0]
  if choice.run == "tcm":
    # Its authors' command.
    config.batch_size, optimizer.learning_rate = 1024, 5e-5
  common.fit_to_objective(config)
  if choice.run == "cmt":
    # CMT's code: 8 trajectories of 16 states; an EMA that keeps .999 a step.
    config.batch_size, config.total_steps = 8, 300_000
    optimizer.learning_rate, optimizer.cooldown = 2e-4, 1.0
    config.network.dropout = 0.20
    config.ema = (5_545.0,)
  if choice.tiny:
    config.data.name = "scm_patches/16x16"
    config.data.size = 16
    paper.shrink(config)
  return config
