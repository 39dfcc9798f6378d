"""The commands and the Python of README.md, in order, with tiny networks."""

import contextlib
import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.cli import main

from .commands import blocks, commands

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
  """Where README was followed, and the last values of its Python, by block."""
  folder = tmp_path_factory.mktemp("readme")
  (folder / "configs").symlink_to(ROOT / "configs")
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  own = {  # what the last block takes of its reader
    "params": {"a": jnp.float32(0.3)},
    "F": lambda params, x, t, cond: params["a"] * x,
    "w": lambda params, t: 0 * t,
    "x0": 0.5 * normal(4, 2, 2, 1),
    "z": 0.5 * normal(4, 2, 2, 1),
    "t": jnp.linspace(0.1, 1.5, 4),
    "cond": {},
    "velocity": None,
    "step": 0,
  }
  with contextlib.chdir(folder):
    inline = re.findall(r"`(scm-jax [^`]*--out=[^`]*)`", README.read_text())
    for words in [*(line.split() for line in inline[:1]), *commands(README)]:
      program, *words = words
      if program == "scm-jax":
        words = [re.sub(r"(\.py:run=\w+)", r"\1,tiny", word) for word in words]
        assert main.main(words) == 0, words
    values = []
    for block in blocks(README, "python"):
      exec(block, own)  # the page's own code
      values.append({**own})
  return folder, values


@pytest.mark.slow
def test_the_tasks_write_what_they_say(read):
  folder, _ = read
  assert (folder / "digits" / "grid.png").stat().st_size > 0
  assert (folder / "runs" / "scd" / "checkpoints").is_dir()
  report = json.loads((folder / "runs" / "report.json").read_text())
  assert {run["objective"] for run in report["runs"]} >= {"teacher", "scd"}


@pytest.mark.slow
def test_the_python_draws_and_finds_a_loss(read):
  _, (shipped, own, objective) = read
  assert shipped["images"].shape == (5, 28, 28, 1)
  assert own["images"].shape == (5, 8, 8, 1)
  assert own["images"].dtype == shipped["images"].dtype == np.uint8
  assert np.isfinite(objective["loss"])
