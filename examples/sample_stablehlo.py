"""Draws images with an exported sampler; it needs jax, and not scm_jax.

pip install jax flatbuffers  # jax.export reads files with flatbuffers
python sample_stablehlo.py EXPORT [STEPS]  # writes samples.npz
"""

import json
import pathlib
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np


def load_safetensors(path):
  """Reads the tensors of a file: 8 bytes of length, a JSON header, bytes."""
  data = pathlib.Path(path).read_bytes()
  start = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:start])
  header.pop("__metadata__", None)
  types = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
  return {
    name: np.frombuffer(
      data[start + t["data_offsets"][0] : start + t["data_offsets"][1]],
      jnp.dtype(types[t["dtype"]]),
    ).reshape(t["shape"])
    for name, t in header.items()
  }


if len(sys.argv) < 2:
  sys.exit(__doc__)
folder, steps = pathlib.Path(sys.argv[1]), (sys.argv[2:] or ["2"])[0]
name = f"sample_{steps}_seed.jaxexport"
file = folder / "stablehlo" / name
if not file.exists():
  sys.exit(f"there is no {file}; export it with --formats=stablehlo --steps=…")
sample = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)
programs = json.loads((folder / "stablehlo" / "programs.json").read_text())
(program,) = [p for p in programs["programs"] if p["file"] == name]
# Parameters lie in files beside it, unless they are in the program (`--bake`).
paths = [folder / a["file"] for a in program["arguments"] if "file" in a]
params = jax.device_put([load_safetensors(path) for path in paths])
config = json.loads((folder / "config.json").read_text())
classes = max(config["network"]["num_classes"], 1)
index, label = jnp.arange(10), jnp.arange(10) % classes  # of each sample
seed, guidance = jnp.int32(0), jnp.float32(1.0)
images, data = sample(*params, seed, index, label, guidance)
np.savez("samples.npz", samples=np.asarray(images), data=np.asarray(data))
print(images.shape, images.dtype, "in samples.npz")
