"""Dropout by samples: a mask belongs to a sample and layer, not to a batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.networks import dropout

BATCH, WIDTH, RATE = 6, 4000, 0.25
KEYS = jax.random.split(jax.random.key(0), BATCH)


class Two(nn.Module):
  """Two layers; of ones, each entry tells which of them dropped it."""

  rate: float = RATE

  @nn.compact
  def __call__(self, x, train=True):
    drop = lambda name: nn.Dropout(
      self.rate, deterministic=not train, name=name
    )
    return drop("first")(x), drop("second")(x)


def apply(keys, batch=BATCH, rate=RATE, **kwargs):
  with dropout.per_sample(keys, batch):
    return Two(rate).apply({}, jnp.ones((batch, WIDTH)), **kwargs)


def test_zeroes_as_many_as_asked_and_keeps_the_mean():
  for y in apply(KEYS):
    assert set(np.unique(y)) == {0, np.float32(1 / (1 - RATE))}
    np.testing.assert_allclose(np.mean(y == 0, axis=1), RATE, atol=0.03)


def test_samples_and_layers_differ():
  first, second = apply(KEYS)
  rows = np.concatenate([first, second]) > 0
  agree = np.mean(rows[:, None] == rows[None], axis=-1)
  by_chance = RATE**2 + (1 - RATE) ** 2
  others = agree[~np.eye(len(rows), dtype=bool)]
  np.testing.assert_allclose(others, by_chance, atol=0.05)


def test_a_sample_keeps_its_mask_in_any_batch():
  whole, _ = apply(KEYS)
  part, _ = apply(KEYS[::2], BATCH // 2)
  np.testing.assert_array_equal(part, whole[::2])


def test_one_key_is_split():
  np.testing.assert_array_equal(apply(jax.random.key(0))[0], apply(KEYS)[0])


@pytest.mark.parametrize("off", [{"train": False}, {"rate": 0.0}])
def test_nothing_drops(off):
  for y in apply(KEYS, **off):
    np.testing.assert_array_equal(y, 1)


def test_without_keys_linen_asks_for_one():
  with pytest.raises(Exception, match="dropout"):
    apply(None)
