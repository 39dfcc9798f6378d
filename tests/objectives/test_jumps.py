"""Where jumps begin and end: the laws of both times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import samplers
from scm_jax.objectives import OBJECTIVES, consistency, flow_map, jumps


@pytest.mark.parametrize("name", jumps.ENDS)
def test_jumps_end_where_their_law_says(name):
  options = consistency.Options(
    ends=name, equal_share=0.25, segments=3, kappa=0.5
  )
  drawn = jumps.draw(jax.random.key(0), 4096, options)
  t, s = np.asarray(drawn["t"]), np.asarray(drawn["s"])
  assert np.all((s >= 0) & (s <= t) & (t < np.pi / 2))
  assert np.mean(s == t) == pytest.approx(0.25, abs=0.03)
  rest = s[s < t]
  if name in ("zero", "segment"):
    ends = np.unique(np.round(rest / (np.pi / 6), 4))
    assert set(ends) == ({0} if name == "zero" else {0, 1, 2})
  else:
    assert np.std(rest) > 0.05
  if name == "gap":
    tau = 0.5 * np.tan(t) / (1 + 0.5 * np.tan(t))
    end = 0.5 * np.tan(s) / (1 + 0.5 * np.tan(s))
    gap = (tau - end)[s < t]
    logit = np.log(gap / (1 - gap))
    assert np.mean(logit) == pytest.approx(-0.6, abs=0.1)
    assert np.std(logit) == pytest.approx(1.6, abs=0.1)


@pytest.mark.parametrize("segments", [2, 3])
def test_multistep_scd_is_drawn_by_the_jumps_that_it_learns(segments):
  """Its own steps begin and end where its segments do, to rounding."""
  spec = OBJECTIVES["ms_scd"]
  options = spec.options(segments=segments)
  times = samplers.consistency_times(segments, 0.5, **spec.sample)
  t = jnp.asarray(times) - 1e-5
  _, ends = jumps.ENDS[options.ends](jax.random.key(0), t, options)
  np.testing.assert_allclose(ends, (*times[1:], 0.0), atol=1e-6)


def test_facm_draws_times_by_the_published_law():
  """Its mean and deviation, of `ln(sigma_d tan t)` at `kappa = 1`."""
  options = flow_map.AnchoredConsistency()
  nodes, weights = np.polynomial.hermite_e.hermegauss(100)
  tau = 2 / np.pi * np.arctan(np.exp(-0.8 + 1.6 * nodes))
  x = np.log(options.sigma_d * tau / (1 - tau))
  mean = np.average(x, weights=weights)
  std = np.sqrt(np.average((x - mean) ** 2, weights=weights))
  assert (options.P_mean, options.P_std) == pytest.approx((mean, std), abs=0.01)
