"""ImageNet at 512x512 (1.28 M images, 1000 classes) in latents, S to XXL.

    scm-jax train --config=configs/imagenet512.py:run=teacher,size=xxl \
        --workdir=runs/teacher
    scm-jax train --config=configs/imagenet512.py:run=scd,size=xxl \
        --workdir=runs/scd --config.teacher=runs/teacher

`run=sct` is trained in the same way, but sCD is far better here (Table 6).
Prepare the data once, from a copy of ImageNet and the autoencoder's file
(docs/data.md), and pass --config.data.data_dir=datasets from then on:

    scm-jax prepare --config=configs/imagenet512.py --source=ILSVRC2012/train \
        --autoencoder=diffusion_pytorch_model.safetensors --out=datasets

Arguments: `run=teacher|sct|scd`, `size=s|m|l|xl|xxl`, `latents=paper|edm2` (see
below), `on=gpu|tpu`, the hardware, which decides the precision
(docs/configs.md, Precision), and `tiny` for a check of the code path in a
minute on one core (eight steps; the rest is compilation), with built-in data.

Latents of 64x64x4 come from `stabilityai/sd-vae-ft-mse`. The paper encodes
images in [-1, 1] and normalises by its own constants (Section G.1);
`latents=edm2` is for latents of images in [0, 1], which the public EDM2
networks take.

Every size runs unchanged on 8 A100-80GB and on hundreds: a device takes at most
64 images in one pass, and from M on the state is sharded over the 8 devices of
a host.
The paper does not print its hardware; 32 A100 trained EDM2's networks.
docs/planning.md has memory and hours.

FID that the paper reports (Table 6), with the guidance scale of each:

    size                        s         m         l        xl       xxl
    teacher, 126 evaluations  2.29/1.4  2.00/1.2  1.87/1.2  1.80/1.2  1.73/1.2
    sCT, 1 step              10.13      5.84      5.15      4.33      4.29
    sCT, 2 steps              9.86      5.53      4.65      3.73      3.76
    sCD, 1 step               3.07/1.5  2.75/1.3  2.55/1.3  2.40/1.3  2.28/1.3
    sCD, 2 steps              2.50/1.4  2.26/1.2  2.04/1.2  1.93/1.2  1.88/1.2
"""

from configs import common, paper
from scm_jax.configuration import parse_arg

# Table 5, one size in each line.
SIZES = {
  #                  teacher: steps, rate, dropout; sCT's, sCD's; teacher's EMA
  "s": paper.Column(1_048_000, 1e-2, 0.0, 0.25, 0.0, 0.025),
  "m": paper.Column(1_048_000, 9e-3, 0.1, 0.35, 0.1, 0.03),
  "l": paper.Column(696_000, 8e-3, 0.1, 0.35, 0.1, 0.015),
  "xl": paper.Column(598_000, 7e-3, 0.1, 0.35, 0.1, 0.02),
  "xxl": paper.Column(376_000, 6.5e-3, 0.1, 0.35, 0.1, 0.015),
}


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(
    arg,
    run=paper.RUNS,
    size=tuple(SIZES),
    latents=tuple(paper.LATENTS),
    on=paper.HARDWARE,
    tiny=False,
  )
  size = SIZES[choice.size]
  config = paper.imagenet(choice.run, choice.size, size, choice.on)
  paper.set_latents(config, "imagenet512_latents", choice.latents)

  config.optimizer.decay_steps = 70_000  # t_ref, Table 5
  config.objective.label_dropout = 0.1  # v2, Table 5; students: implied
  smallest = choice.size == "s"
  if choice.run == "teacher":
    config.objective.P_mean, config.objective.P_std = -0.4, 1.0  # Table 5
    config.sample.guidance = 1.4 if smallest else 1.2  # best FID, Table 6
  elif choice.run in paper.PUBLISHED:
    config.objective.P_mean, config.objective.P_std = -0.8, 1.6  # Table 5
  if choice.run == "sct":
    config.total_steps = 100_000  # Table 5
  elif choice.run == "scd_vsd":
    config.total_steps = 20_000  # Table 5
  elif choice.run != "teacher":
    config.total_steps = 200_000  # sCD: Table 5
  # iMF has no teacher, but its published network takes the scale.
  if common.takes_guidance(choice.run) or choice.run == "imf":
    config.objective.guidance = "sampled"  # Section 5.2
    config.objective.guidance_range = (1.0, 2.0)  # Section 5.2, Table 5
    config.sample.guidance = 1.4 if smallest else 1.2  # 2 steps, Table 6
    if choice.run == "scd_vsd":  # which the paper finds to need less
      config.sample.guidance = 1.2 if smallest else 1.0
  elif common.guides_itself(choice.run):
    # The teacher's best scale. MeanFlow's authors have 2 for a weaker network
    # on ImageNet 256 (omega 1, kappa 0.5).
    config.objective.guidance = "fixed"
    config.objective.guidance_scale = 1.4 if smallest else 1.2
  if choice.run in paper.EASY:
    paper.tune_easily(config, choice.size, size)
  common.fit_to_objective(config)
  if choice.tiny:
    config.data.name = "scm_patch_latents"
    config.data.size = 8
    paper.shrink(config)
  return config
