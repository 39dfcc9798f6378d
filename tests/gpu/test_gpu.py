"""A GPU draws and trains what a CPU does."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from scm_jax import networks
from scm_jax.cli import platforms

ARCHIVE = pathlib.Path(__file__).parents[1] / "compatibility" / "unet.tar.xz"
# The largest mean distance, in levels of 255, from the CPU's float32 images;
# on a CPU the narrower types are 0.37 and 0.06 away.
FAR = {"float32": 0.02, "bfloat16": 1.0, "float16": 0.2}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
  """`printed(platform)`: what the program prints there."""
  folder = tmp_path_factory.mktemp("gpu")
  with tarfile.open(ARCHIVE) as file:
    file.extractall(folder, filter="data")

  def run(platform):
    done = subprocess.run(
      [
        sys.executable,
        pathlib.Path(__file__).with_name("program.py"),
        folder / "export-scd",
      ],
      env={**os.environ, "JAX_PLATFORMS": platform},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)

  return run


@pytest.fixture(scope="module")
def cpu(printed):
  return printed("cpu")


@pytest.fixture(scope="module")
def gpu(printed):
  if not platforms.has_nvidia_gpu():
    pytest.skip("no NVIDIA GPU, or no CUDA plugin of jax, is here")
  return printed("cuda,cpu")


@pytest.mark.slow
@pytest.mark.parametrize("family", networks.FAMILIES)
def test_the_program_runs_where_there_is_no_gpu(cpu, family):
  assert np.isfinite(cpu[family]["loss"])
  assert cpu[family]["memories"]["ema"] == ["pinned_host"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FAR)
def test_samples(gpu, cpu, dtype):
  assert gpu["platform"] == "gpu" and cpu["platform"] == "cpu"
  expected = np.asarray(cpu["samples"]["float32"], float)
  assert expected.std() > 20
  difference = np.abs(np.asarray(gpu["samples"][dtype]) - expected)
  assert difference.mean() < FAR[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("family", networks.FAMILIES)
def test_a_step_with_the_optimizers_state_on_the_host(gpu, cpu, family):
  assert gpu[family]["loss"] == pytest.approx(cpu[family]["loss"], rel=1e-3)
  memories = gpu[family]["memories"]
  assert memories["params"] == ["device"]
  assert memories["opt_state"] == memories["ema"] == ["pinned_host"]
