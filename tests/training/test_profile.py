"""The profiling hook leaves a trace in the workdir."""

import jax.numpy as jnp
from etils import epath

from scm_jax.training import loop


def test_a_trace_is_written_some_steps_after_the_start(tmp_path):
  (hook,) = loop.profile_hooks(epath.Path(tmp_path), start=100)
  hook._profile_duration_ms = 0  # else it waits for three seconds
  for step in range(101, 110):
    hook(step)
  assert not list(tmp_path.rglob("*.xplane.pb"))
  for step in range(110, 120):
    jnp.sin(jnp.ones(3)).block_until_ready()
    hook(step)
  assert list(tmp_path.rglob("*.xplane.pb"))
