"""Every configuration field, with its meaning and the paper's value.

`configs/*.py` start from `get_defaults()` and change what differs. Section,
table and equation numbers are those of arXiv 2410.11081.
"""

from typing import Any

from ml_collections import config_dict

from scm_jax import networks, schema
from scm_jax.objectives import OBJECTIVES


def _fields(**fields) -> config_dict.ConfigDict:
  return config_dict.ConfigDict(fields)


def _data() -> config_dict.ConfigDict:
  return _fields(
    kind="images",  # or "latents": an autoencoder's means and deviations
    name="",  # a TFDS name
    split="train",
    data_dir="",  # "" is TFDS's own default
    # Side of the images (smaller ones are padded) or latents that the network
    # sees.
    size=0,
    channels=3,
    num_classes=0,  # 0: labels are not used
    mean=0.0,  # of images in [-1, 1], or of latents, one for each channel ...
    std=0.5,  # ... which become (image - mean) / std * sigma_d
    image_range=(-1.0, 1.0),  # of the images whose latents are stored
    # File of the autoencoder that decodes samples of latents; "": a preview.
    autoencoder="",
    flip=False,  # random horizontal flips
    # Probability of each change of EDM's augmentation, which the network must
    # take as an input (network.augment) and which mirrors by itself; 0: none.
    augment=0.0,
  )


def _network() -> config_dict.ConfigDict:
  # The options of all families; the config of each one says what they mean.
  fields: dict[str, Any] = {"family": "unet"}  # a name in `networks.FAMILIES`
  for family in reversed(networks.FAMILIES.values()):
    fields |= schema.options(family.config)
  return _fields(**fields | {"dtype": "float32"})


def _objective() -> config_dict.ConfigDict:
  # The options of all objectives; each one's module says what they mean.
  fields = {}
  for spec in reversed(OBJECTIVES.values()):
    fields |= schema.options(spec.options)
  return _fields(**fields)


def _optimizer() -> config_dict.ConfigDict:
  return _fields(
    name="adam",  # or "radam" (CIFAR-10, G.2)
    learning_rate=1e-2,  # alpha_ref
    decay_steps=70_000,  # t_ref of alpha_ref / sqrt(max(step / t_ref, 1))
    rampup_images=10_000_000,  # linear, from zero
    # Not in the paper: over this last part of total_steps the rate also falls
    # linearly to zero, which short runs gain from.
    cooldown=0.0,
    b1=0.9,
    b2=0.99,
    eps=1e-11,  # the paper's change to EDM2's 1e-8 (Table 5)
  )


def _sample() -> config_dict.ConfigDict:
  # How samples are drawn unless a flag says otherwise: in training, and by
  # `sample`, `evaluate` and `scm_jax.load`.
  return _fields(
    t_mid=1.1,  # second time of the 2-step sampler (G.2)
    sigma_max=80.0,
    solver="heun",  # for teachers; or "dpm_solver"
    solver_steps=32,  # 63 evaluations with Heun (G.2)
    guidance=1.0,  # the scale, for networks that take one
    num=40,  # images in the grids drawn while training
    batch_size=256,
  )


def _evaluate() -> config_dict.ConfigDict:
  return _fields(
    num=1000,  # samples in training, as config.sample draws the grids
    # What samples are compared with, in training and by `evaluate` (which reads
    # no other field here): a dataset, NAME[:SPLIT], or a file such as
    # img512.pkl; "" is the training data.
    reference="",
    # Feature spaces. The first one's kernel distance says what is best; where
    # the reference is a file of means and covariances, its Fréchet distance.
    features=("pixels",),
    weights=(),  # of published ones among them: ("inception=FILE",)
  )


def _mesh() -> config_dict.ConfigDict:
  # Sizes of the axes; -1, in one of them, is what the devices leave. Batches
  # are split over both, parameters over fsdp. Hosts are outermost.
  return _fields(data=-1, fsdp=1)


def _sharding() -> config_dict.ConfigDict:
  return _fields(
    min_size=65_536,  # arrays of fewer elements are replicated
    # (pattern of an array's path, dimension or None for replicated), the first
    # that is found decides; see training/sharding.py.
    rules=(),
    # In what gradients are summed over fsdp: "" is the network's type; or
    # "float32", which sends twice as much of them.
    reduce_dtype="",
  )


def get_defaults() -> config_dict.ConfigDict:
  """A config with every field; what has no default is empty or zero."""
  return _fields(
    run="teacher",  # a name in `objectives.OBJECTIVES`
    seed=0,
    batch_size=2048,
    total_steps=0,
    sigma_d=0.5,  # standard deviation of the network's data
    teacher="",  # workdir whose EMA weights a student starts from
    teacher_ema=0.0,  # which of its averages, or any width; 0 is its first
    start="",  # workdir to start from instead, such as an adapted teacher's
    # Of its weights in sCD; or "bfloat16", "float16".
    teacher_dtype="float32",
    # The averages; the first is the default. Below 1: sigma_rel of a power
    # function (EDM2, Section 3). From 1 on: a half-life in images (CIFAR-10:
    # 500_000), at most `ema_rampup_ratio` of the images seen (EDM).
    ema=(0.05, 0.10),
    ema_rampup_ratio=0.05,
    # Steps between snapshots of the averages, from which any other sigma_rel
    # is reconstructed; 0: none. EDM2: 8 Mi images, 4096 steps of 2048.
    snapshot_every=0,
    snapshot_dtype="float16",  # EDM2's; or "float32", "bfloat16"
    data=_data(),
    network=_network(),
    objective=_objective(),
    optimizer=_optimizer(),
    sample=_sample(),
    evaluate=_evaluate(),
    mesh=_mesh(),
    sharding=_sharding(),
    # Whether a step that needs far more memory than the devices have, by an
    # estimate, is not compiled: "stop"; or "warn" tries it, "off" says nothing.
    memory_check="stop",
    # What rests in the host's memory between steps, to leave room on the
    # device: any of "averages", "moments".
    offload=(),
    # Parts of a device's batch that follow one another; 0: as few as keep each
    # part at `images_per_pass`.
    microbatches=0,
    images_per_pass=0,  # most images of a device in one part; 0: no limit
    log_every=100,
    sample_every=0,  # 0: only at the end
    # Steps between scores in training (`in_training/...` in metrics.jsonl),
    # cheap and comparable with each other only; 0: none. The average with the
    # best so far is kept, as an export in best/.
    evaluate_every=0,
    checkpoint_every=1000,
    keep_checkpoints=2,  # the last few ...
    keep_every=0,  # ... and those whose step this divides; 0: none more
    watchdog=600.0,  # seconds without a step until stacks are shown; 0: never
    profile=False,  # traces for TensorBoard's profile plugin
    # RMS of the network's output, about 1 in a healthy run, beyond which a
    # run is stopped as diverged.
    divergence_limit=100.0,
    # What happens when the gradient is not finite in several steps in a row:
    # "stop" the run, or "warn". (Such entries are zeroed in any case, as in
    # EDM2, and every window of steps that had some warns.)
    nonfinite="stop",
    # Do a step's gradient again, without the samples that overflowed in the
    # network, where it is not finite. Makes the step a loop.
    isolate=False,
  )
