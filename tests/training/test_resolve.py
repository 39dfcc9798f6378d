"""Configs that make no run are refused before it begins."""

import math

import pytest

from scm_jax.errors import ConfigError
from scm_jax.objectives import flow_map
from scm_jax.training import resolve


@pytest.mark.parametrize(
  ("field", "value"),
  [
    *(("keep_checkpoints", 0), ("sample.batch_size", 0), ("batch_size", 0)),
    *(("sample.num", -1), ("keep_every", -1), ("microbatches", -2)),
    *(("objective.check_every", 5), ("objective.guidance", "fixed")),
    *(("objective.guidance_range", (1.5,)), ("sample.sigma_max", 0.0)),
    *(("objective.guidance_interval", (0.3, 3.0)),),
    *(("sample.guidance_interval", (3.0,)),),
    *(("sample.guidance_channels", 9), ("sample.guidance_channels", -1)),
    *(("sample.guidance_interval", None), ("objective.P_mean", None)),
    *(("sample.t_mid", 1.6), ("sample.gamma", 1.1), ("sample.guidance", -1.0)),
    *(("sample.sigma_max", math.inf), ("optimizer.learning_rate", math.nan)),
    *(("optimizer.learning_rate", -1.0), ("optimizer.b1", 1.5)),
    *(("data.std", 0.0), ("objective.P_std", -1.0), ("seed", 2**32)),
    *(("objective.label_dropout", 2.0), ("network.dropout", 1.0)),
    *(("network.channels", -8), ("network.channel_mult", ())),
    *(("data.size", 0), ("data.channels", 0), ("data.num_classes", -1)),
    *(("data.mean", 127.0), ("data.std", 64.0)),
    *(("snapshot_at", (4.5,)), ("sharding.rules", (("bias", 0.5),))),
  ],
)
def test_values_that_make_no_run(make_config, field, value):
  config = make_config("teacher")
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ConfigError, match=f"config.{field} is"):
    resolve.check(config)


@pytest.mark.parametrize(
  ("options", "what"),
  [
    ({"guidance_scale": 0.5}, "omega is 1.0"),
    ({"omega": 0.0}, "omega is 0.0"),
    ({"guidance_interval": (2.0, 1.0)}, "guidance_interval is"),
    ({"guidance_interval": (2.0,)}, "guidance_interval is"),
    ({"guidance": "none", "guidance_interval": (1.0, 2.0)}, "no guidance"),
    ({"ends": "zero", "equal_share": 0.0}, "equal_share=0"),
    ({"ends": "segment", "equal_share": 0.0}, "equal_share=0"),
    (
      {"guidance": "none", "along": "network", "ends": "segment"}
      | {"equal_share": 0.0},
      "along is 'network'",
    ),
  ],
)
def test_guidance_that_a_flow_map_cannot_have(options, what):
  with pytest.raises(ConfigError, match=what):
    flow_map.MeanFlow(**{"guidance": "fixed"} | options)


def test_a_network_that_guides_itself_has_to_see_no_label(make_config):
  config = make_config("meanflow", "--config.objective.label_dropout=0.1")
  config.objective.guidance = "fixed"
  resolve.check(config)
  config.objective.label_dropout = 0.0
  with pytest.raises(ConfigError, match="label_dropout"):
    resolve.check(config)


@pytest.mark.parametrize(
  "t_mid, sigma_max", [(1.1, 0.9), (0.0, 0.4), (0.0, 1.0), (1.57, 80)]
)
def test_times_of_samples_that_would_not_decrease(
  make_config, t_mid, sigma_max
):
  """They are found before the run begins, not when it draws."""
  config = make_config("sct")
  config.sample.sigma_max = float(sigma_max)
  config.sample.t_mid = 0.9 * math.atan(sigma_max / config.sigma_d)
  resolve.check(config)
  config.sample.t_mid = t_mid
  with pytest.raises(ConfigError, match="config.sample.t_mid="):
    resolve.check(config)
