"""Times train steps here and in PyTorch, of the same network on the same data.

    python examples/compare_pytorch.py                    # the digits' network
    python examples/compare_pytorch.py --compile --repeats=50

The network in PyTorch is the one that exports ship, with EDM2's normalisation
of weights after each update, Adam, and the losses of the teacher, sCT and sCD
written for PyTorch: one `torch.func.jvp` gives a value and its tangent, as
`jax.jvp` does here. Both measure a whole step: noise, loss, gradient, update.
Steps of the two take turns, so that both see the same machine. PyTorch's lack
the learnt weight and the EMAs, which cost it nothing here.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from scm_jax import interop
from scm_jax.cli import configs
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import sampling
from scm_jax.training.step import init_state

RUNS = ("teacher", "sct", "scd")
SIGMA_D = 0.5


def load_twin():
  """Returns the module of the exported network."""
  path = Path(interop.__file__).parent / "pytorch/unet_trigflow.py"
  spec = importlib.util.spec_from_file_location("unet_trigflow", path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # torch.compile imports it by its name
  spec.loader.exec_module(module)
  return module


def jax_step(run) -> Callable[[], None]:
  """Returns a call of this project's train step."""
  mesh = sharding.make_mesh(run)
  made = program.make(run, mesh)
  compiled = made.step.lower(*made.arguments).compile()
  where = jax.tree.map(lambda leaf: leaf.sharding, made.state)
  state = jax.jit(lambda: init_state(run), out_shardings=where)()
  others = [sampling.random_like(tree) for tree in made.arguments[1:]]
  held = {"state": state}

  def step():
    held["state"], metrics = compiled(held["state"], *others)
    jax.block_until_ready((held["state"], metrics))

  return step


class TorchStep:
  """A train step in PyTorch.

  Args:
    run: the run's config.
    device: PyTorch's device.
    compiled: whether the loss and its gradient go through `torch.compile`.
  """

  def __init__(self, run, device: str, compiled: bool):
    self.run = run
    twin = load_twin()
    fields = dataclasses.asdict(run.network) | {"guidance": False}

    def build():
      network = twin.UNetTrigFlow(fields).to(device)
      for p in network.parameters():
        torch.nn.init.normal_(p)
      return network.requires_grad_(True)

    self.student, self.teacher = build(), build().requires_grad_(False)
    self.filters = [
      m.weight for m in self.student.modules() if isinstance(m, twin.Linear)
    ]
    self.optimizer = torch.optim.Adam(
      self.student.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-11
    )
    side, channels = run.data.size, run.data.channels
    shape = run.batch_size, channels, side, side
    self.x0 = SIGMA_D * torch.randn(shape, device=device)
    classes = max(1, run.data.num_classes)
    self.label = torch.arange(run.batch_size, device=device) % classes
    loss = self.matching if run.run == "teacher" else self.consistency
    self.loss = torch.compile(loss) if compiled else loss
    self.device = device

  def __call__(self):
    """Makes one step."""
    self.optimizer.zero_grad(set_to_none=True)
    z = SIGMA_D * torch.randn_like(self.x0)
    tau = -1.0 + 1.4 * torch.randn(len(z), device=self.device)
    t = torch.atan(tau.exp() / SIGMA_D)
    self.loss(z, t).backward()
    self.optimizer.step()
    with torch.no_grad():
      for w in self.filters:
        axes = tuple(range(1, w.ndim))
        w.div_(w.square().mean(axes, keepdim=True).sqrt() + 1e-4)
    if self.device == "cuda":
      torch.cuda.synchronize()

  def matching(self, z, t):
    """Computes the diffusion loss."""
    cos, sin = (f(t)[:, None, None, None] for f in (torch.cos, torch.sin))
    x_t, v = cos * self.x0 + sin * z, cos * z - sin * self.x0
    F = self.student(x_t / SIGMA_D, t, self.label)
    return (SIGMA_D * F - v).square().mean()

  def consistency(self, z, t):
    """Computes sCM's loss, along the teacher's velocity or the sample's."""
    cos, sin = (f(t)[:, None, None, None] for f in (torch.cos, torch.sin))
    x_t, v = cos * self.x0 + sin * z, cos * z - sin * self.x0
    if self.run.run == "scd":
      with torch.no_grad():
        v = SIGMA_D * self.teacher(x_t / SIGMA_D, t, self.label)
    F, dF = torch.func.jvp(
      lambda x, t: self.student(x, t, self.label),
      (x_t / SIGMA_D, t),
      (cos * sin * v / SIGMA_D, t.cos() * t.sin()),
    )
    fixed = F.detach()
    g = -(cos**2) * (SIGMA_D * fixed - v)
    g = g - (cos * sin * x_t + SIGMA_D * dF.detach())
    norm = torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True)
    return (F - fixed - g / (norm + 0.1)).square().mean()


def measure(steps: dict[str, Callable[[], None]], repeats: int):
  """Returns the median milliseconds of each step; they take turns."""
  seconds = {name: [] for name in steps}
  for i in range(repeats + 2):
    for name, step in steps.items():
      start = time.perf_counter()
      step()
      if i > 1:  # the first ones compile
        seconds[name].append(time.perf_counter() - start)
  return {k: 1e3 * statistics.median(v) for k, v in seconds.items()}


def main():
  """Prints one JSON object a run: milliseconds a step, and their ratios."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="configs/digits.py")
  parser.add_argument("--arg", default="", help="such as tiny")
  parser.add_argument("--runs", default=",".join(RUNS))
  parser.add_argument("--repeats", type=int, default=30)
  parser.add_argument("--compile", action="store_true")
  args = parser.parse_args()
  device = "cuda" if torch.cuda.is_available() else "cpu"
  for name in args.runs.split(","):
    arg = ",".join(filter(None, [f"run={name}", args.arg]))
    config = configs.parse_config([f"--config={args.config}:{arg}"])
    config.teacher, config.objective.guidance = "random", "none"
    config.guide = ""
    config.batch_size = 32  # all runs alike
    run = resolve.resolve(config)
    steps: dict[str, Callable[[], None]] = {
      "scm_jax": jax_step(run),
      "pytorch": TorchStep(run, device, compiled=False),
    }
    if args.compile:
      steps["pytorch_compiled"] = TorchStep(run, device, compiled=True)
    # Fused attention has no forward mode.
    attention = contextlib.nullcontext()
    if name != "teacher":
      attention = sdpa_kernel(SDPBackend.MATH)
    with attention:
      ms = measure(steps, args.repeats)
    ratios = {k: ms["scm_jax"] / v for k, v in ms.items() if k != "scm_jax"}
    print(json.dumps({"run": name, "ms": ms, "scm_jax_over": ratios}))


if __name__ == "__main__":
  main()
