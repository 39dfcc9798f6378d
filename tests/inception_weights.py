"""Random weights of FID's network."""

import numpy as np

from scm_jax.metrics import inception


def draw(width: float) -> dict[str, np.ndarray]:
  """Returns tensors by torchvision's names, of order one throughout.

  The width is in sixteenths of the real one.
  """
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  found = {}
  for name, (*taps, features) in inception.shapes(width).items():
    if name == "fc":
      found["fc.weight"] = 0.05 * normal(features, *taps)
      found["fc.bias"] = normal(features)
      continue
    height, breadth, features_in = taps
    weight = normal(features, features_in, height, breadth)
    found[f"{name}.conv.weight"] = weight * np.sqrt(2 / np.prod(taps))
    found[f"{name}.bn.weight"] = 1 + 0.3 * normal(features)
    found[f"{name}.bn.bias"] = 0.3 * normal(features)
    found[f"{name}.bn.running_mean"] = 0.3 * normal(features)
    found[f"{name}.bn.running_var"] = np.exp(0.3 * normal(features))
  return {name: np.asarray(t, np.float32) for name, t in found.items()}
