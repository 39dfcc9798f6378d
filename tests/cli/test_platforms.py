"""JAX looks for a TPU only where there may be one; what is used is said."""

import logging
import os
import subprocess
import sys

import jax
import pytest

from scm_jax.cli import platforms
from scm_jax.errors import ConfigError


@pytest.fixture
def chosen(tmp_path, monkeypatch):
  """`chosen(files, modules, **environment)`: `JAX_PLATFORMS` afterwards.

  `files` maps paths of a made-up file system to contents; `modules` are those
  that count as installed.
  """

  def choose(files=(), modules=("libtpu",), **environment):
    for path, text in dict(files).items():
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / path).write_text(text)
    monkeypatch.setattr(platforms, "is_installed", modules.__contains__)
    platforms.choose(environment, tmp_path)
    return environment.get("JAX_PLATFORMS")

  return choose


def pci(vendor: str, kind: str) -> dict[str, str]:
  folder = "sys/bus/pci/devices/0000:00:04.0"
  return {f"{folder}/vendor": vendor + "\n", f"{folder}/class": kind + "\n"}


CUDA = ("libtpu", "jax_plugins.xla_cuda12")
GPU = {"dev/nvidia0": "", "dev/nvidiactl": ""}


def test_a_machine_without_accelerators_uses_its_cpu(chosen):
  assert chosen() == "cpu"
  assert chosen(pci("0x1ae0", "0x020000")) == "cpu"  # Google's network card


def test_a_gpu_stays_in_use(chosen):
  assert chosen(GPU, CUDA) == "cuda,cpu"
  assert chosen(modules=("libtpu",)) is None  # JAX warns that it lacks CUDA


@pytest.mark.parametrize(
  "files",
  [
    {"dev/accel0": ""},
    {"dev/vfio/0": ""},
    pci("0x1ae0", "0x088000"),
  ],
)
def test_a_tpu_stays_in_use(chosen, files):
  assert chosen(files) is None


def test_what_the_user_says_stands(chosen):
  assert chosen(JAX_PLATFORMS="") == ""
  assert chosen(TPU_NAME="slice") is None
  assert chosen(modules=()) is None


def test_libtpu_prints_nothing(tmp_path):
  """A command that starts JAX, in a process of its own, without settings."""
  pytest.importorskip("libtpu")
  environment = {**os.environ, "SCM_TEST": str(tmp_path)}
  environment.pop("JAX_PLATFORMS")
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert (done.stdout, done.stderr) == ("1\n", "")


PROGRAM = """
import types, sys
from scm_jax.cli import main

def run(args, config_argv):
  import jax
  print(jax.numpy.ones(1).size)

sys.modules["task"] = types.SimpleNamespace(
  EXAMPLE="", add_arguments=lambda parser: None, run=run
)
main.TASKS = {"task": ("task", "starts JAX")}
main.main(["task"])
"""


def test_the_device_can_be_chosen(chosen):
  assert chosen(SCM_DEVICE="cpu", modules=()) == "cpu"
  assert chosen(GPU, CUDA, SCM_DEVICE="cpu") == "cpu"
  assert chosen(SCM_DEVICE="cuda", modules=()) == "cuda,cpu"
  assert chosen(SCM_DEVICE="cuda", JAX_PLATFORMS="tpu") == "tpu"
  with pytest.raises(ConfigError, match="SCM_DEVICE"):
    chosen(SCM_DEVICE="cud")


@pytest.fixture
def announced(tmp_path, monkeypatch, caplog):
  """`announced(files, modules, asked)`: what is logged at INFO, and warned.

  `asked` is the user's `JAX_PLATFORMS`; JAX itself runs on the CPU.
  """

  def announce(files=(), modules=(), asked=None):
    for path, text in dict(files).items():
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / path).write_text(text)
    jax.devices()  # they start with the settings of all tests
    monkeypatch.setattr(platforms, "is_installed", modules.__contains__)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if asked is not None:
      monkeypatch.setenv("JAX_PLATFORMS", asked)
    caplog.clear()
    with caplog.at_level(logging.INFO):
      platforms.announce(tmp_path)
    said = [r.message for r in caplog.records if r.levelno == logging.INFO]
    warned = [r.message for r in caplog.records if r.levelno > logging.INFO]
    return said, warned

  return announce


def test_the_device_is_named(announced):
  said, warned = announced()
  assert f"{jax.device_count()} x CPU" in said[0] and warned == []


def test_an_unused_accelerator_is_warned_of(announced):
  _, [warning] = announced(GPU)
  assert "NVIDIA GPU" in warning and "scm-jax[cuda12]" in warning
  _, [warning] = announced(GPU, CUDA)
  assert "scm-jax[cuda12]" not in warning  # it is installed, and failed
  assert announced(GPU, asked="cpu")[1] == []  # the user's choice


def test_an_unused_tpu_is_warned_of(announced):
  _, [warning] = announced({"dev/accel0": ""})
  assert "TPU" in warning and "scm-jax[tpu]" in warning
