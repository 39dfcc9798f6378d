"""Times a network's layer in PyTorch, where PyTorch is installed with a GPU."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def measure(layer: Any, repeats: int) -> dict[str, float] | None:
  """Returns milliseconds by direction, as `layers` has them, or None.

  Images are channels_last. None means that there is no PyTorch, no GPU, or no
  plain convolution or product.
  """
  if importlib.util.find_spec("torch") is None:
    return None
  import torch

  if not torch.cuda.is_available():
    return None
  dtype = getattr(torch, np.dtype(layer.arrays[0].dtype).name)
  draw = lambda a: torch.randn(a.shape, dtype=dtype, device="cuda")
  x, w = map(draw, layer.arrays)
  params = dict(layer.params)
  if layer.primitive.name == "dot_general":
    call = _product(params)
  elif params["feature_group_count"] == 1 and set(params["rhs_dilation"]) == {
    1
  }:
    x = x.permute(0, 3, 1, 2)  # channels last in memory
    w = w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    call = _convolution(params)
  else:
    return None
  return _directions(torch, call, x, w, repeats)


def _convolution(params: dict[str, Any]) -> Callable[[Any, Any], Any]:
  from torch.nn import functional

  strides = tuple(params["window_strides"])
  padding = tuple(before for before, _ in params["padding"])
  return lambda x, w: functional.conv2d(x, w, None, strides, padding)


def _product(params: dict[str, Any]) -> Callable[[Any, Any], Any]:
  """Returns the product by PyTorch's einsum."""
  import torch

  (contract_x, contract_w), (batch_x, batch_w) = params["dimension_numbers"]
  shared = dict(
    zip((*contract_w, *batch_w), (*contract_x, *batch_x), strict=True)
  )

  def call(x: Any, w: Any) -> Any:
    left = list(range(x.ndim))
    right = [shared.get(i, x.ndim + i) for i in range(w.ndim)]
    free = [i for i in (*left, *right) if i not in shared.values()]
    return torch.einsum(x, left, w, right, [*batch_x, *free])

  return call


def _directions(
  torch: Any, call: Callable[[Any, Any], Any], x: Any, w: Any, repeats: int
) -> dict[str, float]:
  """Times the layer and its two gradients; a tangent is two layers."""

  def timed(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(repeats + 3):
      torch.cuda.synchronize()
      start = time.perf_counter()
      for _ in range(10):
        run()
      torch.cuda.synchronize()
      seconds.append((time.perf_counter() - start) / 10)
    return 1e3 * float(np.median(seconds[3:]))  # the first ones choose kernels

  def gradient(by: Any) -> float:
    by.requires_grad_(True)
    y = call(x, w)
    direction = torch.ones_like(y)
    run = lambda: torch.autograd.grad(y, by, direction, retain_graph=True)
    spent = timed(run)
    by.requires_grad_(False)
    return spent

  with torch.no_grad():
    forward = timed(lambda: call(x, w))
  return {
    "forward": forward,
    "tangent": 2 * forward,
    "input": gradient(x),
    "weight": gradient(w),
  }
