"""ImageNet at 256x256 (1.28 M images, 1000 classes) in latents: transformers.

    scm-jax train --config=configs/imagenet256.py:run=teacher,size=xl \
        --workdir=runs/teacher
    scm-jax train --config=configs/imagenet256.py:run=scd,size=xl \
        --workdir=runs/scd --config.teacher=runs/teacher

This is where DiT, SiT, MeanFlow and the papers after them are compared; sCM's
authors have no run here. The network is a diffusion transformer with patches of
2x2 latents, 256 tokens. Prepare the data once, from a copy of ImageNet and the
autoencoder's file (docs/data.md), and pass --config.data.data_dir=datasets from
then on:

    scm-jax prepare --config=configs/imagenet256.py --source=ILSVRC2012/train \
        --autoencoder=diffusion_pytorch_model.safetensors --out=datasets

A public SiT, REPA or LightningDiT network is a teacher after `scm-jax
import-sit`, and configs/adapt.py distils it (docs/public_model.md).

Arguments: `run=` any objective; `size=s|b|l|xl`; `layers=scm|dit|sit`, the
layers that sCM needs, those of DiT and MeanFlow, or SiT's own network and data
(`networks.dit`); or, in place of these two, `teacher=DIR`, a transformer whose
network and data are the run's, too, and which teaches it; `on=gpu|tpu`, the
hardware, which decides the precision (docs/configs.md, Precision); and `tiny`
for a check of the code path in a minute on one core, with built-in data.

Batch, optimiser and length are those of SiT (arXiv 2401.08740) and MeanFlow
(arXiv 2505.13447). Lengths of students, and what no paper says of a
transformer, are our choice. Nothing of it was trained on ImageNet by us.
"""

from configs import common, paper
from scm_jax.configuration import parse_arg
from scm_jax.errors import ConfigError
from scm_jax.interop import sit
from scm_jax.networks import presets

SIZES = presets.DIT
LAYERS = {
  "scm": {"channels_per_head": 64},  # for which devices have fast products
  "dit": presets.DIT_LAYERS,
  "sit": presets.DIT_LAYERS | {"form": "sit"},
}

# What a student has of its teacher.
OF_DATA = ("kind", "size", "channels", "num_classes", "mean", "std")
OF_DATA = (*OF_DATA, "image_range")
OF_NETWORK = ("form", *SIZES["s"], *presets.DIT_LAYERS)


def get_config(arg: str = ""):
  """Returns the config of one run for the arguments listed above."""
  choice = parse_arg(
    arg,
    run=paper.RUNS,
    size=("", *SIZES),
    layers=("", *LAYERS),
    teacher="",
    on=paper.HARDWARE,
    tiny=False,
  )
  if choice.teacher and (choice.size or choice.layers):
    raise ConfigError("teacher= says what size= and layers= would say")
  size = SIZES[choice.size or "s"]
  config = paper.start(choice.run, "dit")
  config.batch_size = 256  # SiT, MeanFlow
  config.ema = (0.05, 0.10)  # as in imagenet512.py
  config.snapshot_every = 20_000  # five million images
  config.checkpoint_every = config.sample_every = 20_000
  config.data.size = 32
  config.data.num_classes = 1000
  paper.set_latents(config, "imagenet256_latents")
  if choice.layers == "sit":
    config.data.update(sit.DATA)
  paper.set_precision(config, choice.on)
  config.network.update(size | LAYERS[choice.layers or "scm"])
  config.mesh.fsdp = _shards(config)
  config.images_per_pass = 64

  optimizer = config.optimizer
  # 1e-4 is SiT's and MeanFlow's rate, and that of FACM's students. sCM was
  # trained on large transformers with 2e-6 (arXiv 2503.09641, and rCM).
  careful = config.run in common.CAREFUL
  optimizer.learning_rate = 1e-5 if careful else 1e-4
  optimizer.decay_steps, optimizer.rampup_images = 0, 0
  optimizer.b1, optimizer.b2, optimizer.eps = 0.9, 0.95, 1e-8  # MeanFlow
  _set_length(config)
  _set_objective(config)
  common.fit_to_objective(config)
  if choice.tiny:
    config.data.name = "scm_patch_latents"
    config.data.size = 8
    paper.shrink(config)
  if choice.teacher:
    _fit_to_teacher(config, choice.teacher, choice.tiny)
  return config


def _shards(config) -> int:
  """Returns over how many devices the parameters of L and XL are split."""
  return 8 if config.network.depth >= SIZES["l"]["depth"] else 1


def _fit_to_teacher(config, folder: str, tiny: bool) -> None:
  """Takes the network and the data of a teacher.

  Raises:
    UserError: there is none in the folder, it is not a transformer, or its data
      are not those of `tiny`.
  """
  from scm_jax.training import workdir

  found = workdir.load_config(folder)
  if found.network.family != "dit":
    raise ConfigError(f"the teacher {folder} is not a transformer")
  shape = found.data.size, found.data.size, found.data.channels
  if tiny and shape != (8, 8, 4):
    raise ConfigError(
      "tiny has built-in latents of 8x8x4, but those of the teacher "
      f"{folder} are {'x'.join(map(str, shape))}; leave tiny out, and "
      "for a trial give --config.total_steps=8 and a small --config.batch_size"
    )
  config.teacher = folder
  for field in OF_DATA:
    with config.data.ignore_type():  # a number for each channel
      config.data[field] = found.data[field]
  config.network.update({name: found.network[name] for name in OF_NETWORK})
  config.mesh.fsdp = _shards(config)


def _set_length(config) -> None:
  """Sets the number of steps: 240 epochs, or less of what begins trained."""
  config.total_steps = 1_200_000  # MeanFlow
  if config.run == "scd_vsd":
    config.total_steps = 20_000
  elif config.run != "teacher" and not common.guides_itself(config.run):
    config.total_steps = 200_000


def _set_objective(config) -> None:
  """Sets the noise levels and guidance of a run."""
  objective = config.objective
  objective.label_dropout = 0.1  # SiT, MeanFlow
  if config.run == "scd_vsd":
    # With 1, U-Nets', a small transformer left the data (docs/configs.md).
    objective.matching_weight = 0.1
  if config.run == "teacher":
    # As in imagenet512.py: about the law of a rectified flow's times that is
    # logit-normal around their middle (LightningDiT).
    objective.P_mean, objective.P_std = -0.4, 1.0
    config.sample.guidance = 1.5  # SiT, DiT
  elif config.run in paper.PUBLISHED:
    objective.P_mean, objective.P_std = -0.8, 1.6  # FACM has sCM's, too
  if common.takes_guidance(config.run) or config.run == "imf":
    objective.guidance = "sampled"
    objective.guidance_range = (1.0, 2.0)
    config.sample.guidance = 1.5
  elif common.guides_itself(config.run):
    objective.guidance, objective.guidance_scale = "fixed", 2.0  # MeanFlow
  if config.run in paper.EASY:
    paper.weigh_easily(config)
