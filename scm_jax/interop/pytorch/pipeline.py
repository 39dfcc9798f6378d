"""The sampler of an exported sCM, in diffusers' custom-pipeline form.

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
      PATH, custom_pipeline=PATH, trust_remote_code=True
    )
    images = pipe(class_labels=[3, 7], num_inference_steps=2).images

This file needs diffusers, and nothing of the trainer. A consistency model takes
one step, two, or more, with diffusers' `SCMScheduler`, and so does a flow map
(`"flow_map": true`), without a scheduler. A diffusion model (its
`model_index.json` says `"consistency": false`) takes the many steps of an ODE
solver instead, EDM's second-order Heun or DPM-Solver++ 2M, and has no
scheduler.
"""

import itertools
import math

import numpy as np
import torch
from diffusers import DiffusionPipeline, SCMScheduler
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

SIGMA_MIN, RHO = 0.002, 7.0  # EDM's discretisation
OUTPUTS = ("pil", "np", "pt", "latent")


class SCMPipeline(DiffusionPipeline):
  """Draws images from labels and noise.

  Args:
    unet: a `UNetTrigFlow`, or a transformer's `DiTTrigFlow`.
    scheduler: a consistency model's scheduler; None for a diffusion model.
    guide: the guidance network, away from which a diffusion model is guided;
      None is the model itself without labels.
    vae: the autoencoder of a network of latents, diffusers' `AutoencoderKL`.
    consistency: whether the network is a consistency or a diffusion model.
    flow_map: whether it is a flow map, which is told where each step ends.
    gamma: how much of a flow map's noise is fresh in each step, from 0 to 1.
    steps: the default of `num_inference_steps`.
    t_mid: the second time of a consistency model's sampler, in radians; 0
      stands for steps of equal length.
    sigma_max: the noise level that sampling starts from.
    solver: a diffusion model's solver, `heun` or `dpm_solver`.
    guidance: the default of `guidance_scale`.
    guidance_interval: the lowest and the highest noise level at which a
      diffusion model is guided; empty is everywhere.
    guidance_channels: how many of the data's channels are guided where a
      diffusion model is, from the first on; 0 is all.
    unconditional: whether the network was trained without labels for a part of
      the samples, so that it can draw, and be guided, without a label.
  """

  _optional_components = ["scheduler", "guide", "vae"]
  model_cpu_offload_seq = "unet->vae"

  def __init__(
    self,
    unet,
    scheduler: SCMScheduler | None = None,
    guide=None,
    vae=None,
    consistency: bool = True,
    steps: int = 2,
    t_mid: float = 1.1,
    sigma_max: float = 80.0,
    solver: str = "heun",
    guidance: float = 1.0,
    unconditional: bool = True,
    flow_map: bool = False,
    gamma: float = 0.0,
    guidance_interval: tuple[float, ...] = (),
    guidance_channels: int = 0,
  ):
    super().__init__()
    self.register_modules(unet=unet, scheduler=scheduler, guide=guide, vae=vae)
    self.register_to_config(
      consistency=consistency,
      steps=steps,
      t_mid=t_mid,
      sigma_max=sigma_max,
      solver=solver,
      guidance=guidance,
      unconditional=unconditional,
      flow_map=flow_map,
      gamma=gamma,
      guidance_interval=guidance_interval,
      guidance_channels=guidance_channels,
    )

  @torch.no_grad()
  def __call__(
    self,
    class_labels=None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 1,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: Tensor | None = None,
    output_type: str = "pil",
    return_dict: bool = True,
  ):
    """Draws images.

    Args:
      class_labels: one class for each image; None, or the number of classes,
        means no label.
      num_inference_steps: the number of steps; None is `steps`.
      guidance_scale: the guidance scale, where 1 is no guidance. Some
        consistency models take it as an input; guiding a diffusion model costs
        a second evaluation. None is `guidance`.
      batch_size: the number of images where no labels are given.
      generator: the source of all noise, or a list of one for each image.
      latents: noise of unit variance `[B, C, H, W]` to start from.
      output_type: `pil`, `np` (`[B, H, W, C]` in [0, 1]), `pt` (`[B, C, H, W]`
        in [-1, 1]), or `latent` (`pt` before the autoencoder).
      return_dict: whether the images are returned in an `ImagePipelineOutput`,
        or else as a tuple of one.

    Raises:
      ValueError: labels that the network does not have, guidance for a network
        that cannot be guided, noise of another shape, another number of
        generators than of images, or an output that cannot be had.
    """
    self._check_output(output_type)
    steps = num_inference_steps
    if steps is None:
      steps = self.config.steps
    if steps < 1:
      raise ValueError(f"num_inference_steps is {steps}; it must be positive")
    if guidance_scale is None:
      guidance_scale = self.config.guidance
    label, count = self._labels(class_labels, batch_size)
    shape = count, *self.unet.shape
    if isinstance(generator, list) and len(generator) != count:
      raise ValueError(
        f"there are {len(generator)} generators for {count} images; give one "
        "for each, or one alone"
      )
    if latents is None:
      latents = self._noise(shape, generator)
    elif latents.shape != shape:
      raise ValueError(f"latents are {tuple(latents.shape)}, not {shape}")
    z = latents.to(self._execution_device, torch.float32)
    F = self._network(label, guidance_scale)
    solvers = {"heun": self._heun, "dpm_solver": self._dpm_solver}
    sample = solvers[self.config.solver]
    if self.config.consistency:
      sample = self._flow_map if self.config.flow_map else self._consistency
    data = self._restore(sample(F, z, steps, generator))
    images = self._images(data, output_type)
    self.maybe_free_model_hooks()  # of `enable_model_cpu_offload`
    return ImagePipelineOutput(images=images) if return_dict else (images,)

  def times(self, steps: int) -> list[float]:
    """Returns the steps' times in radians, decreasing from `t_max`.

    From the third step on, they divide the way from `t_mid` to 0 evenly. A
    `t_mid` of 0 stands for steps of equal length.
    """
    second = self.config.t_mid or math.pi / 2 * (1 - 1 / steps)
    rest = np.linspace(second, 0.0, max(steps, 2))[: steps - 1]
    t_max = math.atan(self.config.sigma_max / self.unet.sigma_d)
    times = [t_max, *map(float, rest)]
    if any(a <= b for a, b in itertools.pairwise(times)):
      raise ValueError(
        f"the times of {steps} steps do not decrease: {times[:3]}, ...; take "
        "fewer steps, or a larger sigma_max"
      )
    return times

  def _consistency(self, F, z: Tensor, steps: int, generator) -> Tensor:
    """Draws samples by multistep consistency sampling."""
    # All times are given, because by itself the scheduler starts at pi / 2, and
    # its intermediate time works for 2 steps alone.
    self.scheduler.set_timesteps(
      steps,
      timesteps=[*self.times(steps), 0.0],
      max_timesteps=None,
      intermediate_timesteps=None,
      device="cpu",
    )
    sigma_d = self.unet.sigma_d
    x = sigma_d * z
    # The scheduler takes the velocity. It adds noise times sin(0) at last.
    for t in self.progress_bar(self.scheduler.timesteps[:-1]):
      velocity = sigma_d * F(x / sigma_d, t)
      x = self.scheduler.step(velocity, t, x, generator).prev_sample
    return x

  def _flow_map(self, F, z: Tensor, steps: int, generator) -> Tensor:
    """Draws samples by jumps, each with fresh noise at its end if gamma asks.

    Noise leads from where a jump ends to the time at which the next begins.
    """
    sigma_d, gamma = self.unet.sigma_d, self.config.gamma
    x, times = sigma_d * z, [*self.times(steps), 0.0]
    pairs = list(zip(times[:-1], times[1:], strict=True))
    for t, after in self.progress_bar(pairs):
      end = math.atan(math.sqrt(1 - gamma**2) * math.tan(after))
      velocity = sigma_d * F(x / sigma_d, t, end)
      x = math.cos(t - end) * x - math.sin(t - end) * velocity
      if after and gamma:
        fresh = sigma_d * self._noise(x.shape, generator).to(x.device)
        x = x * (math.cos(after) / math.cos(end))
        x = x + gamma * math.sin(after) * fresh
    return x

  def _heun(self, F, z: Tensor, steps: int, generator) -> Tensor:
    """Draws samples by EDM's second-order solver, Heun."""
    del generator
    sigma_d = self.unet.sigma_d
    if steps == 1:
      t = math.atan(self.config.sigma_max / sigma_d)
      return sigma_d * (math.cos(t) * z - math.sin(t) * F(z, t))
    sigmas = self._sigmas(steps)

    def slope(x, sigma):
      t = math.atan(sigma / sigma_d)
      u = math.cos(t) * x / sigma_d
      clean = sigma_d * (math.cos(t) * u - math.sin(t) * F(u, t))
      return (x - clean) / sigma

    x = math.hypot(sigmas[0], sigma_d) * z
    pairs = list(zip(sigmas[:-1], sigmas[1:], strict=True))
    for sigma, after in self.progress_bar(pairs):
      d = slope(x, sigma)
      x = x + (after - sigma) * d
      if after:
        x = x + (after - sigma) * (slope(x, after) - d) / 2
    return x

  def _dpm_solver(self, F, z: Tensor, steps: int, generator) -> Tensor:
    """Draws samples by DPM-Solver++ 2M in TrigFlow's coordinates."""
    del generator
    sigma_d = self.unet.sigma_d
    times = [math.atan(sigma / sigma_d) for sigma in self._sigmas(steps)]
    log_snr = lambda t: -math.log(math.tan(t))
    x, last = sigma_d * z, None
    pairs = list(zip(times[:-1], times[1:], strict=True))
    for s, t in self.progress_bar(pairs):
      clean = math.cos(s) * x - math.sin(s) * sigma_d * F(x / sigma_d, s)
      guess = clean
      if last and t:  # the first and the last step are of first order
        before, clean_before = last
        ratio = (log_snr(s) - log_snr(before)) / (log_snr(t) - log_snr(s))
        guess = clean + (clean - clean_before) / (2 * ratio)
      x = (math.sin(t) * x + math.sin(s - t) * guess) / math.sin(s)
      last = s, clean
    return x

  def _sigmas(self, steps: int) -> list[float]:
    """Returns EDM's `steps + 1` noise levels, which decrease to 0."""
    powers = self.config.sigma_max ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return np.append(np.linspace(*powers, steps) ** RHO, 0.0).tolist()

  def _network(self, label: Tensor | None, scale: float):
    """Returns `F(x_t / sigma_d, t, s=0)` with labels and guidance bound."""

    def evaluate(network, u, t, label, s=0.0):
      t = torch.full((len(u),), float(t), device=u.device)
      added = torch.full_like(t, scale), torch.full_like(t, s)
      return network(u, t, label, *added)

    F = lambda u, t, s=0.0: evaluate(self.unet, u, t, label, s)
    if not 0 <= scale < math.inf:
      raise ValueError(f"the guidance scale is {scale}; it must be at least 0")
    if scale == 1.0 or self.unet.config["guidance"]:
      return F
    if why := self._guidance_refusal():
      raise ValueError(f"the guidance scale {scale:g} cannot be used: {why}")

    low, high = self.config.guidance_interval or (0.0, math.inf)
    # A level that was converted to a time and back belongs to its interval.
    low, high = low * (1 - 1e-4), high * (1 + 1e-4)

    def guided(u, t):
      if not low <= self.unet.sigma_d * math.tan(t) <= high:
        return F(u, t)
      strong = F(u, t)
      if self.guide is not None:
        other = evaluate(self.guide, u, t, label)
      else:
        other = evaluate(self.unet, u, t, None)
      result = other + scale * (strong - other)
      if count := self.config.guidance_channels:
        result = torch.cat([result[:, :count], strong[:, count:]], dim=1)
      return result

    return guided

  def _guidance_refusal(self) -> str | None:
    """Returns why a network without a guidance input cannot be guided."""
    if self.config.consistency:
      return "this student was trained without guidance as an input"
    if self.guide is not None:
      return None
    if not self.unet.config["num_classes"]:
      return "this network takes no labels and has no guidance network"
    if not self.config.unconditional:
      return (
        "this network was always given labels in training and has no guidance "
        "network"
      )
    return None

  def _labels(self, labels, batch_size: int) -> tuple[Tensor | None, int]:
    """Returns the labels `[B]`, or None, and their number."""
    classes = self.unet.config["num_classes"]
    if labels is None:
      if not classes:
        return None, batch_size
      labels = [classes] * batch_size
    elif not classes:
      raise ValueError("this network takes no labels; give batch_size alone")
    label = torch.as_tensor(labels, device=self._execution_device)
    if label.ndim > 1 or label.is_floating_point() or label.is_complex():
      raise ValueError(
        f"labels must be whole numbers [B], not {label.dtype} "
        f"{list(label.shape)}"
      )
    label = label.reshape(-1).long()
    legal = classes + 1 if self.config.unconditional else classes
    wrong = label[(label < 0) | (label >= legal)]
    if len(wrong):
      no_label = f", and {classes} is no label" if legal > classes else ""
      raise ValueError(
        f"{int(wrong[0])} is not a label of this network: its classes are 0 to "
        f"{classes - 1}{no_label}"
      )
    return label, len(label)

  def _noise(self, shape, generator) -> Tensor:
    """Draws unit noise."""
    device = self._execution_device
    return randn_tensor(shape, generator, device, torch.float32)

  def _restore(self, x0: Tensor) -> Tensor:
    """Returns data before scaling: images in [-1, 1], or latents."""
    mean, std = (
      torch.tensor(self.unet.config[key], device=x0.device).reshape(-1, 1, 1)
      for key in ("data_mean", "data_std")
    )
    return x0 / self.unet.sigma_d * std + mean

  def _check_output(self, output_type: str) -> None:
    """Raises ValueError for an output that cannot be had."""
    if output_type not in OUTPUTS:
      raise ValueError(
        f"output_type is {output_type!r}; choose from {', '.join(OUTPUTS)}"
      )
    encoded = self.unet.config["latents"] and self.vae is None
    if encoded and output_type != "latent":
      raise ValueError(
        "this export has no autoencoder; give one as vae=, or choose "
        'output_type="latent"'
      )

  def _images(self, data: Tensor, output_type: str):
    """Converts data to images of the output type."""
    if output_type == "latent":
      return data
    if self.unet.config["latents"]:
      data = self.vae.decode(data.to(self.vae.dtype)).sample.float()
      low, high = self.unet.config["image_range"]
      data = (data - low) / (high - low) * 2 - 1
    if output_type == "pt":
      return data
    levels = (data + 1) * 127.5
    if not self.unet.config["latents"]:
      levels = levels.round()
    # EDM2 truncates decoded latents, and published distances have that in them.
    levels = levels.clamp(0, 255).floor()
    levels = levels.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
      return levels / 255
    return [
      Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
      for image in levels.astype(np.uint8)
    ]
