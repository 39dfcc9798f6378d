"""The class that draws images from a trained network, for every caller.

`scm_jax.load`, the command line, evaluations, exports and the grids drawn in
training all use `Sampler`. It needs jax, flax and numpy alone.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from scm_jax import codec as codecs
from scm_jax import editing, networks, samplers, trigflow
from scm_jax import sampler_inputs as inputs
from scm_jax import sampler_programs as programs
from scm_jax.sampler_inputs import Labels
from scm_jax.sampler_kinds import KINDS, SOLVERS, Kind


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """A trained network, its parameters and how images are drawn from it.

  Sampling compiles one program for each number of steps and size of a batch:
  noise, all steps, and decoding. Samplers that differ in their parameters only
  share their programs, because a sampler is a pytree whose leaves are the
  parameters.

  Labels are one class for each image, repeated in turn. The number of classes
  stands for "no label". None stands for every class in turn.

  Attributes:
    network: the network's functions.
    params: the network's parameters, normalised EMA weights.
    codec: the map between stored data and the network's data, which decodes
      samples.
    kind: how the network is sampled, a name in `KINDS`: `consistency` for a
      network that maps a noisy sample to data at once, `diffusion` for one that
      gives a trajectory's velocity.
    t_mid: the second time of a consistency model's 2-step sampler, in radians.
    sigma_max: the noise level that sampling starts from.
    solver: a diffusion model's ODE solver, a name in `SOLVERS`.
    solver_steps: the solver's number of steps unless the caller chooses.
    guidance: the guidance scale unless the caller chooses; it has no effect on
      a network that cannot be guided.
    unconditional: whether the network was trained without labels for a part of
      the samples, so that "no label" means something to it.
    batch_size: how many images are drawn at once, on all devices together.
    decoder: the parameters of the codec's autoencoder, if it has one.
    guidance_network: a second network that guides a diffusion model (EDM2's
      guidance and autoguidance); None is classifier-free guidance.
    guidance_params: the guidance network's parameters.
    batch_sharding: how a batch is divided over devices, each of which then
      holds all parameters; None leaves the placement to JAX.
  """

  network: networks.Network
  params: Any
  codec: codecs.Codec
  kind: str = "consistency"
  t_mid: float = samplers.T_MID
  sigma_max: float = trigflow.SIGMA_MAX
  solver: str = "heun"
  solver_steps: int = 32
  guidance: float = 1.0
  unconditional: bool = True
  batch_size: int = 256
  decoder: Any = None
  guidance_network: networks.Network | None = None
  guidance_params: Any = None
  batch_sharding: NamedSharding | None = None

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"there is no kind of sampler {self.kind!r}")
    if self.solver not in SOLVERS:
      raise ValueError(f"there is no solver {self.solver!r}")

  @property
  def rules(self) -> Kind:
    """The rules of the network's kind."""
    return KINDS[self.kind]

  @property
  def parameters(self) -> int:
    """The number of the network's parameters, without the weighting head."""
    return networks.parameter_count(self.params)

  @property
  def weights(self) -> Any:
    """All parameters: `params`, with the guidance network's as `guide`."""
    if self.guidance_network is None:
      return self.params
    return {**self.params, "guide": self.guidance_params}

  def with_weights(self, weights: Any) -> "Sampler":
    """Returns this sampler with other parameters, laid out like `weights`."""
    if self.guidance_network is None:
      return dataclasses.replace(self, params=weights)
    params = dict(weights)
    guidance_params = params.pop("guide")
    return dataclasses.replace(
      self, params=params, guidance_params=guidance_params
    )

  @property
  def steps(self) -> int:
    """The number of steps that is taken unless the caller chooses."""
    return self.rules.default_steps(self)

  @property
  def data_shape(self) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the network's data."""
    config = self.network.config
    return config.resolution, config.resolution, config.in_channels

  @functools.cached_property
  def image_shape(self) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the images that are drawn."""
    x0 = jax.ShapeDtypeStruct((1, *self.data_shape), jnp.float32)
    return jax.eval_shape(self.codec.decode, x0, self.decoder).shape[1:]

  @property
  def devices(self) -> int:
    """The number of devices that share a batch."""
    return self.batch_sharding.num_devices if self.batch_sharding else 1

  def noise_draws(self, steps: int) -> int:
    """Returns how many draws of noise a sample takes."""
    return steps if self.rules.fresh_noise else 1

  def evaluations(self, steps: int, guidance: float = 1.0) -> int:
    """Returns the network evaluations for one sample, guidance included."""
    passes = self.rules.evaluations(self, steps)
    return 2 * passes if self.extrapolates(guidance) else passes

  def extrapolates(self, guidance: float) -> bool:
    """Returns whether this scale costs a second evaluation of a network."""
    return guidance != 1.0 and not self.rules.guidance_is_input

  def settings(self, steps: int, guidance: float) -> dict[str, Any]:
    """Returns all that decides how samples are drawn, as JSON's types."""
    found: dict[str, Any] = {"guidance": guidance}
    if steps > 1:
      found |= {name: getattr(self, name) for name in self.rules.settings}
    dtype = jnp.dtype(self.network.config.dtype).name
    return found | {"sigma_max": self.sigma_max, "dtype": dtype}

  def on(self, batch_sharding: NamedSharding) -> "Sampler":
    """Returns this sampler on several devices, with a copy on each."""
    whole = NamedSharding(batch_sharding.mesh, PartitionSpec())
    return dataclasses.replace(
      jax.device_put(self, whole), batch_sharding=batch_sharding
    )

  # The checks of what a caller asks for.
  guidance_refusal = inputs.guidance_refusal
  guidance_scale = inputs.guidance_scale
  labels = inputs.labels

  def sample(
    self,
    labels: Labels = None,
    *,
    num: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
  ) -> np.ndarray:
    """Draws images.

    Args:
      labels: the images' classes, see the class.
      num: the number of images; None is one for each label.
      steps: the number of steps; None is `self.steps`.
      seed: image `i` is a function of `(seed, i, label i)`.
      guidance: the guidance scale; None is the sampler's own.

    Returns:
      uint8 images `[num, H, W, C]` on the host.

    Raises:
      ConfigError: labels that the network does not have, or guidance for a
        network that cannot be guided.
    """
    label = self.labels(labels, num)
    images = np.empty((len(label), *self.image_shape), np.uint8)
    first = 0
    for batch in self.batches(label, steps=steps, seed=seed, guidance=guidance):
      images[first : first + len(batch)] = batch
      first += len(batch)
    return images

  def batches(
    self,
    label: np.ndarray,
    *,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
  ) -> Iterator[np.ndarray]:
    """Returns an iterator over the images of `sample`, batch by batch.

    At most two batches are on the devices at any time, however many images are
    drawn. `label` holds one label for each image, as `labels` returns them; the
    other arguments and the errors are those of `sample`.
    """
    steps = self.steps if steps is None else steps
    scale = self.guidance_scale(guidance)

    def draw(batch: Any) -> Array:
      return self.draw(*batch, steps=steps, seed=seed, guidance=scale)

    arrays = np.arange(len(label)), np.asarray(label, np.int32)
    return programs.in_batches(self, draw, arrays)

  def draw(
    self,
    index: np.ndarray,
    label: np.ndarray,
    *,
    steps: int,
    seed: int,
    guidance: float,
  ) -> Array:
    """Starts to draw the images with the numbers `index`, `[B]` like `label`.

    It returns at once: uint8 images `[B, H, W, C]` on the devices. `guidance`
    is a scale as `guidance_scale` returns it; see `sample` for the rest.
    """
    return programs.draw_from_seed(
      self,
      jnp.int32(seed),
      jnp.float32(guidance),
      programs.put(self, (index, label)),
      steps=steps,
      guided=self.extrapolates(guidance),
    )

  def noise(
    self, num: int, *, steps: int | None = None, seed: int = 0
  ) -> np.ndarray:
    """Returns the noise of the first `num` images that `sample` draws.

    Args:
      num: the number of images.
      steps: as for `sample`.
      seed: as for `sample`.

    Returns:
      Unit noise `[draws, num, H, W, C]`: one draw for each step of a
      consistency model, one in all for a diffusion model.
    """
    draws = self.noise_draws(self.steps if steps is None else steps)
    index = jnp.arange(num, dtype=jnp.int32)
    return np.asarray(samplers.draw_noise(seed, index, draws, self.data_shape))

  def from_noise(
    self,
    noise: np.ndarray,
    labels: Labels = None,
    *,
    steps: int | None = None,
    guidance: float | None = None,
  ) -> np.ndarray:
    """Draws images from given noise.

    Args:
      noise: unit noise `[draws, N, H, W, C]`, as `noise` returns it.
      labels: the images' classes, see the class.
      steps: the steps of a diffusion model's solver; a consistency model takes
        one step for each draw.
      guidance: the guidance scale; None is the sampler's own.

    Returns:
      uint8 images `[N, H, W, C]`.

    Raises:
      UserError: noise of another shape, labels that the network does not have,
        or guidance for a network that cannot be guided.
    """
    return self._from_noise(
      programs.draw_from_noise, noise, labels, steps, guidance
    )

  def path(
    self,
    noise: np.ndarray,
    labels: Labels = None,
    *,
    steps: int | None = None,
    guidance: float | None = None,
  ) -> samplers.Path:
    """Returns the steps by which `from_noise` draws its images, as images.

    Args and errors are those of `from_noise`.

    Returns:
      The steps' times in radians `[steps]`; the noisy samples that they begin
      with, and the network's predictions of the clean samples, both uint8
      `[steps, N, H, W, C]`. The last prediction is the image.
    """
    path = self._from_noise(programs.draw_path, noise, labels, steps, guidance)
    x_t, x0 = (np.moveaxis(images, 1, 0) for images in path[1:])
    return samplers.Path(path.times[0], x_t, x0)

  def _from_noise(
    self,
    program: Any,
    noise: np.ndarray,
    labels: Labels,
    steps: int | None,
    guidance: float | None,
  ) -> Any:
    noise = np.asarray(noise, np.float32)
    steps = inputs.steps_from_noise(self, noise, steps)
    scale = self.guidance_scale(guidance)
    program = functools.partial(
      program,
      self,
      jnp.float32(scale),
      steps=steps,
      guided=self.extrapolates(scale),
    )
    arrays = np.moveaxis(noise, 0, 1), self.labels(labels, noise.shape[1])
    return programs.join(programs.in_batches(self, program, arrays))

  def edit(
    self,
    images: np.ndarray,
    labels: Labels = None,
    *,
    known: editing.Known | np.ndarray | None = None,
    start: float | None = None,
    steps: int = 2,
    seed: int = 0,
    guidance: float | None = None,
  ) -> np.ndarray:
    """Draws images that keep what is known of given images (see `editing`).

    Args:
      images: uint8 images `[N, H, W, C]`.
      labels: the images' classes, see the class.
      known: what stays as it is: a bool mask of pixels that broadcasts to
        `[H, W]` or to the images, or any `editing.Known`; None is nothing.
      start: the time, in radians, to which the images are noised at first: near
        0 they hardly change, near pi/2 little of them is left. None starts from
        noise alone.
      steps: the number of steps; more of them join the new parts better to what
        is known.
      seed: the noise's seed.
      guidance: the guidance scale; None is the sampler's own.

    Returns:
      uint8 images of the same shape.

    Raises:
      UserError: a diffusion model or a network of latents, which cannot edit,
        or arguments that do not fit.
    """
    images = np.asarray(images)
    inputs.check_edit(self, images, known, start)
    mask, transform = np.zeros((len(images), 1), bool), None
    if known is not None:
      if not isinstance(known, editing.Known):
        known = editing.pixels(known)
      mask = inputs.known_mask(known, images.shape)
      transform = known.transform
    program = functools.partial(
      programs.draw_edit,
      self,
      jnp.float32(self.guidance_scale(guidance)),
      times=editing.times(
        steps, start, self.codec.sigma_d, self.t_mid, self.sigma_max
      ),
      transform=transform,
      from_images=start is not None,
    )
    noise = np.moveaxis(self.noise(len(images), steps=steps, seed=seed), 0, 1)
    arrays = noise, self.labels(labels, len(images)), images, mask
    return programs.join(programs.in_batches(self, program, arrays))


_PARAMETERS = ["params", "decoder", "guidance_params"]
_FIELDS = [field.name for field in dataclasses.fields(Sampler)]
jax.tree_util.register_dataclass(
  Sampler,
  data_fields=_PARAMETERS,
  meta_fields=[name for name in _FIELDS if name not in _PARAMETERS],
)
