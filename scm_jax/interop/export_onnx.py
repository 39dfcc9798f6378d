"""The 1-step sampler in ONNX, made from the same export's PyTorch module.

The inputs are unit noise `[B, C, H, W]` float32, labels `[B]` int64 (the number
of classes stands for "no label") and the guidance scale `[B]` float32, each
only where the network takes it. The output is data `[B, C, H, W]` float32:
images in [-1, 1], or latents. It is computed in float32.
"""

import contextlib
import importlib
import io
import logging
import math
import pathlib
import warnings

from scm_jax.errors import UserError
from scm_jax.interop import export_pytorch
from scm_jax.sampler import Sampler

FOLDER, FILE = "onnx", "sample_1.onnx"
OPSET = 20


def write(folder: pathlib.Path, sampler: Sampler) -> None:
  """Writes `onnx/sample_1.onnx` from the export's `unet/`.

  Raises:
    UserError: PyTorch or its exporter is not installed.
  """
  module = export_pytorch.MODULES[type(sampler.network.config)]
  try:
    import onnxscript  # noqa: F401  (torch's exporter needs it)
    import torch

    code = importlib.import_module(f"scm_jax.interop.pytorch.{module.file}")
  except ModuleNotFoundError as error:
    raise UserError(
      f"--formats=onnx needs the package {error.name!r}; pip install "
      "'scm-jax[export]'"
    ) from error

  network = getattr(code, module.name)
  unet = network.from_pretrained(folder / "unet", torch.float32)
  t_max = math.atan(sampler.sigma_max / unet.sigma_d)

  class OneStep(torch.nn.Module):
    """Maps noise to data by one step from the latest time to 0."""

    def __init__(self):
      super().__init__()
      self.unet = unet
      scale = lambda key: torch.tensor(unet.config[key]).reshape(-1, 1, 1)
      self.register_buffer("mean", scale("data_mean").float())
      self.register_buffer("std", scale("data_std").float())

    def forward(self, noise, label=None, guidance=None):
      t = torch.full_like(noise[:, 0, 0, 0], t_max)
      F = self.unet(noise, t, label, guidance)
      x0 = math.cos(t_max) * noise - math.sin(t_max) * F  # over sigma_d
      return x0 * self.std + self.mean

  # Two samples, because the exporter would treat a size of one as a constant.
  inputs = {"noise": torch.randn(2, *unet.shape)}
  if unet.config["num_classes"]:
    inputs["label"] = torch.zeros(2, dtype=torch.int64)
  if unet.config["guidance"]:
    inputs["guidance"] = torch.ones(2)
  (folder / FOLDER).mkdir()
  size = sum(p.numel() * p.element_size() for p in unet.parameters())
  with _quiet():
    torch.onnx.export(
      OneStep().eval(),
      kwargs=inputs,
      f=str(folder / FOLDER / FILE),
      input_names=list(inputs),
      output_names=["data"],
      dynamic_shapes={n: {0: torch.export.Dim.DYNAMIC} for n in inputs},
      opset_version=OPSET,
      dynamo=True,
      external_data=size > 2**30,  # a file holds less than 2 GiB
    )


@contextlib.contextmanager
def _quiet():
  """Hides the exporter's progress and its libraries' warnings."""
  before = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logging.disable(before)
