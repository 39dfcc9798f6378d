"""ImageNet in, FID out, in one process of a given number of devices.

    JAX_NUM_CPU_DEVICES=8 \
        python tests/imagenet_chain.py FOLDER PHOTOGRAPHS AUTOENCODER WEIGHTS

A process of its own, because the number of devices is fixed when JAX starts.
It runs the shipped commands and prints what came of each.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from scm_jax.cli import main

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={ROOT}/configs/imagenet512.py:run=teacher,tiny"
STEPS = 10


def run(*argv):
  if code := main.main([str(word) for word in argv]):
    raise SystemExit(code)


def numbers(value):
  """Returns a manifest's numbers in order, without its checksums."""
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list):
    return [number for item in value for number in numbers(item)]
  return [value] if isinstance(value, int | float) else []


def chain(folder, photographs, autoencoder, weights):
  """Prepares, trains, samples and scores; returns what is to be compared."""
  data, work = folder / "datasets", folder / "run"
  named = "--config.data.name=photographs"
  run(
    "prepare",
    CONFIG,
    named,
    f"--source={photographs}",
    f"--out={data}",
    f"--autoencoder={autoencoder}",
    "--on-error=skip",
    "--workers=1",
  )
  run(
    "train",
    CONFIG,
    named,
    f"--workdir={work}",
    f"--config.total_steps={STEPS}",
    "--config.network.channel_mult=(1,)",
    f"--config.data.data_dir={data}",
    f"--config.data.autoencoder={autoencoder}",
  )
  run("sample", f"--workdir={work}", "--num=8", "--seed=3")
  run(
    "evaluate",
    f"--workdir={work}",
    "--teacher-steps=2",
    "--num=80",
    "--features=inception",
    f"--weights=inception={weights}",
    "--allow-few",
    "--batch-size=40",
    f"--out={folder}/report",
  )
  with np.load(work / "samples" / "samples.npz") as file:
    samples = file["samples"]
  lines = (work / "metrics.jsonl").read_text().splitlines()
  report = json.loads((folder / "report" / "report.json").read_text())
  return {
    "devices": jax.device_count(),
    # Not bytes: on some processors, XLA's CPU backend rounds latents otherwise
    # when the machine is split into more devices (see docs/data.md).
    "dataset": numbers(
      json.loads(next(data.rglob("manifest.json")).read_text())
    ),
    "losses": [json.loads(line)["loss"] for line in lines],
    "samples": samples.tolist(),
    "runs": report["runs"],
  }


if __name__ == "__main__":
  result = chain(pathlib.Path(sys.argv[1]), *sys.argv[2:])
  print("RESULT " + json.dumps(result))
