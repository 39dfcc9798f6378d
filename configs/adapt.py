"""Students from public EDM2 networks: adaptation, then sCD.

    scm-jax import-edm2 edm2-img512-s-2147483-0.025.pkl --out=runs/edm2 \
        --guide=edm2-img512-xs-uncond-2147483-0.025.pkl
    scm-jax train --config=configs/adapt.py:run=teacher,size=s \
        --workdir=runs/adapted --config.teacher=runs/edm2
    scm-jax train --config=configs/adapt.py:run=scd,size=s,guide \
        --workdir=runs/scd --config.teacher=runs/edm2 \
        --config.start=runs/adapted
    scm-jax sample --workdir=runs/scd --steps=2 --guidance=1.4

The first run converts the weights from EDM2's form to sCM's (c_noise = t,
positional embedding, double normalisation), fits the other weights to the
imported network as well as they can, and trains until the network gives the
velocity of the imported one again. It prints which weights it copied. sCD then
starts from the result and distils the imported network itself. `run=sct` starts
in the same way and needs no teacher, only --config.start=runs/adapted.

A SiT, REPA or LightningDiT network (`import-sit`) is adapted likewise, with
`data=imagenet256,teacher=DIR`: its student has double normalisation in place of
adaLN and normalised queries and keys, and needs no guidance network.

Arguments: `run=teacher|sct|scd`, `data=imagenet512|imagenet64|cifar10|
imagenet256`, `size=`, `teacher=` and `on=gpu|tpu` as in the config of that
name, `guide` for sCD with the guidance scale as an input, which needs a teacher
that was imported with `--guide`, and `tiny` for a check of the code path in
seconds on one core. Everything else, the data included, is as in that config.
The paper trains its teachers from scratch; the numbers of the adaptation are
our choice.

A teacher of the published form may also come from `scm-jax train`, and for
CIFAR-10 it has to: `configs/cifar10.py:run=teacher --config.network.form=edm`.
"""

from configs import (
  cifar10,
  common,
  imagenet64,
  imagenet256,
  imagenet512,
  paper,
)
from scm_jax.configuration import parse_arg
from scm_jax.errors import ConfigError

DATA = {
  "imagenet512": imagenet512,
  "imagenet64": imagenet64,
  "cifar10": cifar10,
  "imagenet256": imagenet256,
}


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(
    arg,
    run=paper.RUNS,
    data=tuple(DATA),
    size=("", *dict.fromkeys((*imagenet512.SIZES, *imagenet256.SIZES))),
    teacher="",
    on=("", *paper.HARDWARE),
    guide=False,
    tiny=False,
  )
  config = DATA[choice.data].get_config(_base(choice))

  config.teacher_ema = 0.0  # a public file holds one set of EMA weights
  if choice.run == "teacher":
    _adapt(config, choice.tiny)
  if config.network.family == "dit":
    # Students of digits diverged without (docs/configs.md). SiT drops labels,
    # and is told its time in a way that suits students: it keeps its form.
    config.network.update(modulation="double", norm="rms", qk_norm=True)
    return config
  if config.network.family == "unet":
    # It keeps EDM2's shapes, and its gains keep the magnitudes of the blocks.
    config.network.double_norm = "gained"
  # EDM2's networks were always given the label: they cannot guide themselves,
  # nor teach a student without a label.
  config.objective.label_dropout = 0.0
  guided = choice.guide and common.takes_guidance(choice.run)
  config.objective.guidance = "sampled" if guided else "none"
  if not choice.guide:
    config.sample.guidance = 1.0
  return config


def _base(choice) -> str:
  """Returns the argument for the dataset's own config module."""
  sizes = getattr(DATA[choice.data], "SIZES", ())
  if choice.size and choice.size not in sizes:
    raise ConfigError(f"{choice.data} has no network of size {choice.size}")
  if choice.on and not sizes:
    raise ConfigError(
      f"{choice.data} computes alike on all hardware; leave on= out"
    )
  transformers = choice.data == "imagenet256"
  if choice.guide and transformers:
    raise ConfigError(
      "guide is for a teacher that was imported with a guidance network; a "
      "transformer guides itself, and its students take the scale in any case"
    )
  if choice.teacher and not transformers:
    raise ConfigError(
      "teacher= is an argument for data=imagenet256; give --config.teacher"
    )
  base = f"run={choice.run}"
  base += f",size={choice.size}" if choice.size else ""
  base += f",on={choice.on}" if choice.on else ""
  base += ",latents=edm2" if choice.data == "imagenet512" else ""
  if choice.teacher:
    base += f",teacher={choice.teacher}"
  elif transformers:
    base += ",layers=sit"
  return base + (",tiny" if choice.tiny else "")


def _adapt(config, tiny: bool) -> None:
  """Sets the objective and schedule of an adaptation, which are our choice.

  It is short compared with the 376,000 to 1,048,000 steps of training.
  """
  config.objective.target = "teacher"  # "data" is the diffusion loss
  # The noise levels of students, wider than those of teachers (Table 5).
  config.objective.P_mean, config.objective.P_std = -0.8, 1.6
  if not tiny:
    config.total_steps = 20_000
    # About the last rate of EDM2's schedule; it falls to 0 over the last half.
    # A transformer keeps SiT's rate.
    if config.network.family != "dit":
      config.optimizer.learning_rate = 2e-3
    config.optimizer.decay_steps = 0
    config.optimizer.rampup_images = 1_000_000
    config.optimizer.cooldown = 0.5
