"""Times each convolution and product of the largest network, one by one."""

from collections.abc import Iterator
from typing import Any

from scm_jax.acceptance import runs
from scm_jax.acceptance.parts import Request
from scm_jax.training.benchmarks import layers


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields each layer's times, those with the most arithmetic first."""
  options = request.options
  size = "s" if request.tiny else options["size"]
  name = runs.imagenet(options["run"], size, request.tiny)
  images = 2 if request.tiny else 16
  fixed = {"batch_size": images, "microbatches": 1, "mesh.fsdp": 1}
  run = runs.run(name, **fixed)
  found = layers.of_network(run)
  for number, (layer, count) in enumerate(found.items()):
    if str(number) not in request.have:
      yield str(number), layers.time_layer(run, layer, count, 5)
