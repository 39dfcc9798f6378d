"""The sampler of an exported sCM, in diffusers' custom-pipeline form.

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
      PATH, custom_pipeline=PATH, trust_remote_code=True
    )
    images = pipe(class_labels=[3, 7], num_inference_steps=2).images

This file needs diffusers, and nothing of the trainer. A consistency model takes
one step, two, or more, by diffusers' `SCMScheduler`. A diffusion model (one
whose `model_index.json` says `"consistency": false`) has no such steps: it
takes the many steps of a solver, EDM's second-order Heun or DPM-Solver++ 2M,
and has no scheduler.
"""

import math

import numpy as np
import torch
from diffusers import DiffusionPipeline, SCMScheduler
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

SIGMA_MIN, RHO = 0.002, 7.0  # EDM's discretisation


class SCMPipeline(DiffusionPipeline):
  """Draws images from labels and noise.

  Args:
    unet: a `UNetTrigFlow`.
    scheduler: of a consistency model; None for a diffusion model.
    guide: a second network, away from which a diffusion model is guided; None
      is the model itself without labels.
    vae: the autoencoder of a network of latents, as diffusers has it.
    consistency: which of the two the network is.
    steps: default of `num_inference_steps`.
    t_mid: the second time, in radians.
    sigma_max: the noise level that sampling starts from.
    solver: of a diffusion model, `heun` or `dpm_solver`.
    guidance: default of `guidance_scale`.
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
    """Draws.

    Args:
      class_labels: one class for each image; None is "no label".
      num_inference_steps: of the consistency sampler, or of the solver.
      guidance_scale: input of a consistency model that takes it; of a
        diffusion model, classifier-free guidance, which costs a second
        evaluation; 1 is none. None is the run's own.
      batch_size: how many images, when there are no labels.
      generator: of all noise; a list has one for each image.
      latents: noise of unit variance `[B, C, H, W]` to start from.
      output_type: `pil`, `np` (`[B, H, W, C]` in [0, 1]), `pt` (`[B, C, H, W]`
        in [-1, 1]), or `latent` (`pt` before the autoencoder).
      return_dict: or a tuple of the images alone.
    """
    steps = num_inference_steps or self.config.steps
    if guidance_scale is None:
      guidance_scale = self.config.guidance
    label, count = self._labels(class_labels, batch_size)
    shape = count, *self.unet.shape
    if latents is None:
      latents = self._noise(shape, generator)
    elif latents.shape != shape:
      raise ValueError(f"latents are {tuple(latents.shape)}, not {shape}")
    z = latents.to(self._execution_device, torch.float32)
    F = self._network(label, guidance_scale)
    solvers = {"heun": self._heun, "dpm_solver": self._dpm_solver}
    sample = solvers[self.config.solver]
    if self.config.consistency:
      sample = self._consistency
    data = self._restore(sample(F, z, steps, generator))
    images = self._images(data, output_type)
    return ImagePipelineOutput(images=images) if return_dict else (images,)

  def times(self, steps: int) -> list[float]:
    """Radians, decreasing from t_max; beyond two steps they divide evenly."""
    rest = np.linspace(self.config.t_mid, 0.0, max(steps, 2))[: steps - 1]
    t_max = math.atan(self.config.sigma_max / self.unet.sigma_d)
    return [t_max, *map(float, rest)]

  def _consistency(self, F, z: Tensor, steps: int, generator) -> Tensor:
    """Multistep consistency sampling, by the scheduler."""
    # Times are given in full. By itself the scheduler starts at pi / 2 and has
    # an intermediate time, which it refuses for other numbers of steps than 2.
    self.scheduler.set_timesteps(
      steps,
      timesteps=[*self.times(steps), 0.0],
      max_timesteps=None,
      intermediate_timesteps=None,
      device="cpu",
    )
    sigma_d = self.unet.sigma_d
    x = sigma_d * z
    # The scheduler wants the velocity, and noises the last step with sin(0).
    for t in self.progress_bar(self.scheduler.timesteps[:-1]):
      velocity = sigma_d * F(x / sigma_d, t)
      x = self.scheduler.step(velocity, t, x, generator).prev_sample
    return x

  def _heun(self, F, z: Tensor, steps: int, generator) -> Tensor:
    """EDM's second-order sampler; `2 steps - 1` evaluations."""
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
    """DPM-Solver++ 2M in TrigFlow's coordinates; `steps` evaluations."""
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
    """EDM's noise levels, decreasing to 0: `steps + 1` of them."""
    powers = self.config.sigma_max ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return np.append(np.linspace(*powers, steps) ** RHO, 0.0).tolist()

  def _network(self, label: Tensor | None, scale: float):
    """`F(x_t / sigma_d, t)` with its condition bound."""

    def ask(network, u, t, label):
      t = torch.full((len(u),), float(t), device=u.device)
      return network(u, t, label, torch.full_like(t, scale))

    F = lambda u, t: ask(self.unet, u, t, label)
    if self.unet.config["guidance"] or scale == 1.0:
      return F
    if self.config.consistency:
      raise ValueError("this consistency model does not take a guidance scale")
    if self.guide is not None:
      weak = lambda u, t: ask(self.guide, u, t, label)
    elif self.unet.config["num_classes"]:
      weak = lambda u, t: ask(self.unet, u, t, None)
    else:
      raise ValueError("guidance needs a network that takes labels")

    def guided(u, t):
      away = weak(u, t)
      return away + scale * (F(u, t) - away)

    return guided

  def _labels(self, labels, batch_size: int) -> tuple[Tensor | None, int]:
    if labels is None:
      return None, batch_size
    classes = self.unet.config["num_classes"]
    if not classes:
      raise ValueError("this network takes no labels")
    label = torch.as_tensor(labels, device=self._execution_device)
    label = label.reshape(-1).long()
    if ((label < 0) | (label > classes)).any():
      raise ValueError(f"classes are 0 to {classes - 1}; {classes} is no label")
    return label, len(label)

  def _noise(self, shape, generator) -> Tensor:
    device = self._execution_device
    return randn_tensor(shape, generator, device, torch.float32)

  def _restore(self, x0: Tensor) -> Tensor:
    """Data before scaling: images in [-1, 1], or the autoencoder's latents."""
    mean, std = (
      torch.tensor(self.unet.config[key], device=x0.device).reshape(-1, 1, 1)
      for key in ("data_mean", "data_std")
    )
    return x0 / self.unet.sigma_d * std + mean

  def _images(self, data: Tensor, output_type: str):
    if output_type == "latent":
      return data
    if self.unet.config["latents"]:
      if self.vae is None:
        raise ValueError(
          'give the autoencoder as vae=, or output_type="latent"'
        )
      data = self.vae.decode(data.to(self.vae.dtype)).sample.float()
      low, high = self.unet.config["image_range"]
      data = (data - low) / (high - low) * 2 - 1
    if output_type == "pt":
      return data
    levels = (data + 1) * 127.5
    if not self.unet.config["latents"]:
      levels = levels.round()
    # Decoded latents are truncated, as EDM2's are.
    levels = levels.clamp(0, 255).floor()
    levels = levels.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
      return levels / 255
    return [
      Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
      for image in levels.astype(np.uint8)
    ]
