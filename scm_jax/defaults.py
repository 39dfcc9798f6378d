"""Every configuration field, with its meaning and the paper's value.

`configs/*.py` start from `get_defaults()` and change what differs. Section,
table and equation numbers are those of arXiv 2410.11081. The fields of
`config.network` are the options of the network families (`networks.FAMILIES`),
and those of `config.objective` the options of the objectives
(`objectives.OBJECTIVES`): each one's module says what they mean.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from scm_jax import networks, schema
from scm_jax.codec import Codec, LatentCodec, PixelCodec
from scm_jax.errors import ConfigError
from scm_jax.objectives import OBJECTIVES, Options, Spec

if TYPE_CHECKING:
  from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Data(schema.Checked):
  """The dataset, and what the network sees of it.

  Attributes:
    kind: `images`; or `latents`, an autoencoder's means and deviations.
    name: the dataset's name in TFDS.
    split: the split that is trained on.
    data_dir: the folder of datasets; "" is TFDS's own default.
    size: side of the images (smaller ones are padded) or of the latents that
      the network sees.
    channels: channels of the images or latents.
    num_classes: number of labels; 0 does not use labels.
    mean: mean of images in [-1, 1]; or of latents, one for each channel.
    std: standard deviation in the same form. Data become
      `(stored - mean) / std * sigma_d`.
    image_range: values of black and white in the images whose latents are
      stored.
    autoencoder: file of the autoencoder that decodes samples of latents; "" is
      a small preview instead.
    flip: whether images are mirrored at random.
    augment: probability of each change of EDM's augmentation, which the network
      must take as an input (`network.augment`), and which mirrors by itself; 0
      is none.
    upright: whether that augmentation leaves out flips upside down and
      rotations.
  """

  kind: Literal["images", "latents"] = "images"
  name: str = ""
  split: str = "train"
  data_dir: str = ""
  size: int = 0
  channels: int = 3
  num_classes: int = 0
  mean: float | tuple[float, ...] = 0.0
  std: float | tuple[float, ...] = 0.5
  image_range: tuple[float, float] = (-1.0, 1.0)
  autoencoder: str = ""
  flip: bool = False
  augment: float = 0.0
  upright: bool = False

  def __post_init__(self) -> None:
    """Raises ConfigError for values that do not go together."""
    super().__post_init__()
    if not 0 <= self.augment <= 1:
      raise ConfigError(f"augment is {self.augment}; it is a probability")
    if self.augment and (self.kind != "images" or self.flip):
      raise ConfigError(
        "augment changes images and mirrors them itself; it does not go with "
        f"data.kind={self.kind!r} and data.flip={self.flip}"
      )
    if self.kind == "latents":
      self._check_latents()
    elif self.autoencoder:
      raise ConfigError(
        f"autoencoder decodes latents, and data.kind is {self.kind!r}; leave "
        "it empty"
      )
    for key in ("mean", "std"):
      value = getattr(self, key)
      numbers = value if isinstance(value, tuple) else None
      if numbers is None and self.kind != "latents":
        continue
      if numbers is None or len(numbers) != self.channels:
        raise ConfigError(
          f"{key} is {value}; give {self.channels} numbers, one for each of "
          "data.channels"
        )
    if min(self.std if isinstance(self.std, tuple) else (self.std,)) <= 0:
      raise ConfigError(f"std is {self.std}; data are divided by it")

  def _check_latents(self) -> None:
    """Raises ConfigError for values that latents do not have."""
    if self.flip:
      raise ConfigError("flip mirrors images, not latents; set it to false")


@dataclasses.dataclass(frozen=True)
class Optimizer(schema.Checked):
  """The optimiser and its schedule.

  Attributes:
    name: `adam`; or `radam` (CIFAR-10, Section G.2).
    learning_rate: `alpha_ref`.
    decay_steps: `t_ref` of `alpha_ref / sqrt(max(step / t_ref, 1))`; 0 keeps
      the rate constant.
    rampup_images: images over which the rate rises linearly from zero.
    cooldown: last part of `total_steps` over which the rate also falls linearly
      to zero. It is not in the paper; short runs gain from it.
    b1: decay of the mean of gradients.
    b2: decay of the mean of their squares.
    eps: added to the root of that mean; the paper changes EDM2's 1e-8 (Table
      5).
  """

  name: Literal["adam", "radam"] = "adam"
  learning_rate: float = 1e-2
  decay_steps: int = 70_000
  rampup_images: int = 10_000_000
  cooldown: float = 0.0
  b1: float = 0.9
  b2: float = 0.99
  eps: float = 1e-11


@dataclasses.dataclass(frozen=True)
class Sample(schema.Checked):
  """How samples are drawn unless a flag says otherwise.

  They are drawn so in training, and by `sample`, `evaluate` and `scm_jax.load`.

  Attributes:
    t_mid: second time of the 2-step sampler, radians (Section G.2); 0 stands
      for steps of equal length.
    gamma: part of a flow map's noise that is fresh in each step, 0 to 1.
    sigma_max: noise level that sampling starts from.
    solver: solver of teachers: `heun` or `dpm_solver`.
    solver_steps: steps of that solver; 32 of Heun's are 63 evaluations (G.2).
    guidance: the scale, for networks that take one.
    guidance_interval: lowest and highest noise level `sigma` at which teachers
      are guided; () is everywhere.
    guidance_channels: how many of the data's channels are guided, from the
      first on; 0 is all.
    num: images in the grids that are drawn while training.
    batch_size: images drawn at once.
  """

  t_mid: float = 1.1
  gamma: float = 0.0
  sigma_max: float = 80.0
  solver: Literal["heun", "dpm_solver"] = "heun"
  solver_steps: int = 32
  guidance: float = 1.0
  guidance_interval: tuple[float, ...] = ()
  guidance_channels: int = 0
  num: int = 40
  batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Evaluate(schema.Checked):
  """How a run is scored.

  Attributes:
    num: samples that are scored in training, drawn as `Sample` says.
    reference: what samples are compared with, in training and by `evaluate`
      (which reads no other field of this group): a dataset, NAME[:SPLIT]; or a
      file such as img512.pkl; "" is the training data.
    features: names of features. In training the kernel distance in the first
      ones says which network is best; where the reference is a file of means
      and covariances, the Fréchet distance does.
    weights: files of those that are published networks: ("inception=FILE",).
  """

  num: int = 1000
  reference: str = ""
  features: tuple[str, ...] = ("pixels",)
  weights: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Mesh(schema.Checked):
  """Sizes of the mesh's axes; -1, in one of them, is what the devices leave.

  Batches are split over both axes, parameters over `fsdp`. Hosts are outermost.

  Attributes:
    data: devices that hold copies of the parameters.
    fsdp: devices that share one copy.
  """

  data: int = -1
  fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Sharding(schema.Checked):
  """How arrays are split over `mesh.fsdp`, and lie in memory.

  Attributes:
    min_size: arrays of fewer elements are replicated.
    rules: pairs of a pattern and a dimension (None is replicated); the first
      pattern that is found in an array's path decides (`training.sharding`).
    reduce_dtype: type in which gradients are summed over `mesh.fsdp`; "" is the
      network's; `float32` sends twice as much of them.
    filter_order: the order of axes in which a run keeps filters, their moments
      and averages on its devices. cuDNN reads `OHWI`. Checkpoints do not depend
      on it.
  """

  min_size: int = 65_536
  rules: tuple[tuple[str, int | None], ...] = ()
  reduce_dtype: Literal["", "float32"] = ""
  filter_order: Literal["HWIO", "OHWI"] = "HWIO"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(schema.Checked):
  """A resolved config: typed, checked and frozen.

  A config is resolved once (`training.resolve`), where it enters the trainer.

  Attributes:
    data: the dataset, and what the network sees of it.
    network: the network that is trained.
    objective: the options of the objective.
    optimizer: the optimiser and its schedule.
    sample: how samples are drawn.
    evaluate: how the run is scored.
    mesh: the sizes of the mesh's axes.
    sharding: how arrays are split over the mesh.
    run: the objective, a name in `objectives.OBJECTIVES`.
    seed: the seed of all randomness in training.
    batch_size: images of a step, on all devices together.
    total_steps: steps of the run.
    sigma_d: standard deviation of the network's data.
    teacher: workdir whose EMA weights a student starts from.
    teacher_ema: which of its EMAs, or any width; 0 is its first.
    guide: a weak network that guides the teacher (autoguidance, arXiv
      2406.02507): a smaller run, a checkpoint, or an early snapshot, where
      `snapshots/STEP` is one of the teacher's own (its run needs STEP in
      `snapshot_at`). It sees the labels that the teacher sees, where
      classifier-free guidance takes the teacher itself without labels. "" is
      the guidance network in the teacher's workdir, or else classifier-free
      guidance.
    guide_ema: which of its EMAs, or any width; 0 is its first.
    start: workdir to start from instead, such as an adapted teacher's.
    teacher_dtype: type of the teacher's weights where every step evaluates it.
    ema: the EMAs of the weights; the first is the default one. A number below 1
      is `sigma_rel` of a power function (EDM2, Section 3); one from 1 on is a
      half-life in images (CIFAR-10: 500_000).
    ema_rampup_ratio: a half-life is at most this part of the images seen (EDM).
    snapshot_every: steps between snapshots of the EMAs, from which any other
      `sigma_rel` is reconstructed; 0 is none. EDM2's are 8 Mi images apart,
      4096 steps of 2048.
    snapshot_at: further steps at which a snapshot is made, of the EMAs with a
      half-life too. A network that is trained less guides the finished one; see
      `guide`.
    snapshot_dtype: type of the snapshots; EDM2's is float16.
    memory_check: what happens if a step needs far more memory than the devices
      have, by an estimate: `stop` does not compile it, `warn` tries it, `off`
      says nothing.
    offload: what rests in the host's memory between steps, to leave room on the
      device: any of "averages", "moments".
    microbatches: parts of a device's batch that follow one another; 0 is as few
      as keep each part at `images_per_pass`.
    images_per_pass: most images of a device in one part; 0 is no limit.
    log_every: steps between lines of metrics; a checkpoint has one, too.
    sample_every: steps between grids of samples; 0 is one at the end.
    evaluate_every: steps between scores in training (`in_training/...` in
      metrics.jsonl), which are cheap and comparable with each other only; 0 is
      none. The best EMA so far is kept, as an export in best/.
    checkpoint_every: steps between checkpoints.
    keep_checkpoints: how many of the last checkpoints are kept.
    keep_every: checkpoints whose step this divides are kept, too; 0 is none.
    watchdog: seconds without a step until stacks are shown; 0 is never.
    profile: whether traces are written for TensorBoard's profile plugin.
    divergence_limit: RMS of the network's output, about 1 in a healthy run,
      beyond which a run is stopped as diverged.
    nonfinite: what happens if the gradient is not finite in several steps in a
      row: `stop` the run, or `warn`. (Such entries are zeroed in any case, as
      in EDM2, and every window of steps that had some warns.)
    isolate: whether a step's gradient that is not finite is computed again
      without the samples that overflowed. Makes the step a loop.
  """

  data: Data = schema.fixed()
  network: networks.NetworkConfig = schema.fixed()
  objective: Options = schema.fixed()
  optimizer: Optimizer = schema.fixed()
  sample: Sample = schema.fixed()
  evaluate: Evaluate = schema.fixed()
  mesh: Mesh = schema.fixed()
  sharding: Sharding = schema.fixed()
  run: str = "teacher"
  seed: int = 0
  batch_size: int = 2048
  total_steps: int = 0
  sigma_d: float = 0.5
  teacher: str = ""
  teacher_ema: float = 0.0
  guide: str = ""
  guide_ema: float = 0.0
  start: str = ""
  teacher_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
  ema: tuple[float, ...] = (0.05, 0.10)
  ema_rampup_ratio: float = 0.05
  snapshot_every: int = 0
  snapshot_at: tuple[int, ...] = ()
  snapshot_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
  memory_check: Literal["stop", "warn", "off"] = "stop"
  offload: tuple[str, ...] = ()
  microbatches: int = 0
  images_per_pass: int = 0
  log_every: int = 100
  sample_every: int = 0
  evaluate_every: int = 0
  checkpoint_every: int = 1000
  keep_checkpoints: int = 2
  keep_every: int = 0
  watchdog: float = 600.0
  profile: bool = False
  divergence_limit: float = 100.0
  nonfinite: Literal["stop", "warn"] = "stop"
  isolate: bool = False

  @property
  def spec(self) -> Spec:
    """The objective."""
    return OBJECTIVES[self.run]

  @property
  def asks_teacher(self) -> bool:
    """Whether every step evaluates the teacher, not the start alone."""
    return self.spec.asks_teacher(self.objective)

  @property
  def codec(self) -> Codec:
    """The codec between stored data and the network's data."""
    data = self.data
    if data.kind == "images":
      return PixelCodec(data.mean, data.std, self.sigma_d)
    assert isinstance(data.mean, tuple) and isinstance(data.std, tuple)
    return LatentCodec(data.mean, data.std, self.sigma_d, data.image_range)


GROUPS = {
  "data": Data,
  "optimizer": Optimizer,
  "sample": Sample,
  "evaluate": Evaluate,
  "mesh": Mesh,
  "sharding": Sharding,
}


def get_defaults(run: str = "teacher", family: str = "unet") -> "ConfigDict":
  """Returns a config with every field; what has no default is empty or zero.

  Args:
    run: the objective, whose own defaults `config.objective` and
      `config.sample` have.
    family: the network's family, whose own defaults `config.network` has.

  Raises:
    ConfigError: there is no such objective, or no such family.
  """
  from ml_collections import ConfigDict  # who has a `Run` does without

  return ConfigDict(get_fields(run, family))


def get_fields(run: str = "teacher", family: str = "unet") -> dict[str, Any]:
  """Returns the fields of `get_defaults` as a dict, the groups' in dicts."""
  spec = schema.pick(OBJECTIVES, run, "config.run")
  chosen = schema.pick(networks.FAMILIES, family, "config.network.family")
  fields = schema.options(Run)
  fields |= {name: schema.options(kind) for name, kind in GROUPS.items()}
  for name in spec.sample:
    schema.pick(fields["sample"], name, f"a key of the {run} spec's sample")
  # The options of all families and objectives, with the defaults of this family
  # and of this objective.
  network: dict[str, Any] = {"family": family}
  for other in (*reversed(networks.FAMILIES.values()), chosen):
    network |= schema.options(other.config)
  objective: dict[str, Any] = {}
  for other in (*reversed(OBJECTIVES.values()), spec):
    objective |= schema.options(other.options)
  groups = {
    "network": network | {"dtype": "float32"},
    "objective": objective,
    "sample": fields["sample"] | spec.sample,
  }
  return fields | groups | {"run": run}
