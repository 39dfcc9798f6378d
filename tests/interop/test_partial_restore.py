"""The parameters that a network takes from one of another form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from scm_jax import networks
from scm_jax.interop import partial_restore

EDM2 = networks.UNetConfig(
  resolution=8,
  in_channels=2,
  num_classes=3,
  form="edm2",
  channels=8,
  channel_mult=(1, 2),
  num_blocks=1,
  attn_resolutions=(4,),
  channels_per_head=8,
)
SHARED = dataclasses.replace(EDM2, form="trigflow", double_norm="shared")
SPLIT = dataclasses.replace(EDM2, form="trigflow")


def draw(config, seed=0):
  rng = np.random.default_rng(seed)
  shapes = networks.build(config).shapes
  normal = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
  return jax.tree.map(normal, shapes)


def leaf(params, name):
  for key in name.split("/"):
    params = params[key]
  return params


def count(params):
  return len(jax.tree.leaves(params))


@pytest.mark.parametrize("guidance", [False, True])
def test_of_edm2_into_trigflow(guidance):
  params = draw(EDM2)
  target = dataclasses.replace(SHARED, guidance=guidance)
  started, report = partial_restore.restore(params, EDM2, target)
  assert report.misfits == ()
  assert report.negated == ("denoiser/out_gain",)
  guided = ("denoiser/embedding/emb_guidance/kernel",) if guidance else ()
  assert report.fresh == (
    *guided,
    "denoiser/embedding/emb_noise/weight",
    "weighting/linear/bias",
    "weighting/linear/kernel",
  )
  assert report.unused == (
    "denoiser/embedding/emb_noise/weight",
    "denoiser/embedding/fourier/frequencies",
    "denoiser/embedding/fourier/phases",
    "weighting/fourier/frequencies",
    "weighting/fourier/phases",
    "weighting/linear/weight",
  )
  # Everything is in one of the lists, on either side.
  wanted = draw(target)
  assert len(report.copied) + 1 + len(report.fresh) == count(wanted)
  assert len(report.copied) + 1 + len(report.unused) == count(params)
  for name in report.copied:
    np.testing.assert_array_equal(leaf(started, name), leaf(params, name))
  assert leaf(started, "denoiser/out_gain") == -params["denoiser"]["out_gain"]
  for kind in ("conv0", "conv1", "skip", "attention/qkv", "modulation/emb"):
    assert f"denoiser/dec_4_0/{kind}/weight" in report.copied
  assert "denoiser/embedding/emb_label/weight" in report.copied


def test_of_edm2_into_the_split_form():
  _, report = partial_restore.restore(draw(EDM2), EDM2, SPLIT)
  assert report.misfits == ()
  modulations = [name for name in report.fresh if "modulation" in name]
  assert len(modulations) == len(report.fresh) - 3 == 10
  assert all(name.endswith("modulation/emb/weight") for name in modulations)
  assert not any("modulation" in name for name in report.copied)


def test_the_report_names_all_kinds_once():
  _, report = partial_restore.restore(draw(EDM2), EDM2, SHARED)
  lines = str(report).splitlines()
  kinds = [line.split()[0] for line in lines]
  assert kinds == ["copied", "negated", "fresh", "unused"]
  assert "enc_*/conv0/weight (3)" in lines[0] and "embedding/emb_label" in str(
    report
  )
  assert lines[1] == "negated (1): out_gain"
  assert lines[2].startswith("fresh (3): embedding/emb_noise/weight, weighting")


def test_blocks_of_a_transformer_are_one_kind():
  deep = networks.DiTConfig(channels=64, depth=3, resolution=8, in_channels=1)
  names = traverse_util.flatten_dict(networks.build(deep).shapes, sep="/")
  params = traverse_util.unflatten_dict(
    {n: np.zeros(x.shape) for n, x in names.items()}, sep="/"
  )
  _, report = partial_restore.restore(params, deep, deep)
  assert "block_*/mlp/fc1/weight (3)" in str(report)


def test_equal_forms_share_all():
  params = draw(SHARED)
  started, report = partial_restore.restore(params, SHARED, SHARED)
  jax.tree.map(np.testing.assert_array_equal, started, params)
  assert count(started) == len(report.copied) == count(params)
  assert not (report.negated + report.fresh + report.unused + report.misfits)
  # The weights are the source's own, not copies: a network may be large.
  conv = started["denoiser"]["conv_in"]["weight"]
  assert conv is params["denoiser"]["conv_in"]["weight"]


def test_a_head_of_another_kind_is_not_taken():
  """Its linear layer has the same shape but reads other features."""
  teacher = dataclasses.replace(SPLIT, weighting="fourier")
  started, report = partial_restore.restore(draw(teacher), teacher, SPLIT)
  assert report.misfits == () and "weighting" not in started
  kernel = ("weighting/linear/bias", "weighting/linear/kernel")
  assert report.fresh == kernel and set(kernel) < set(report.unused)
  back, report = partial_restore.restore(draw(SPLIT), SPLIT, teacher)
  assert report.misfits == () and "weighting" not in back
  assert "weighting/fourier/phases" in report.fresh


@pytest.mark.parametrize(
  "change, said",
  [
    (
      {"channels": 16},
      "conv_in/weight is (3, 3, 3, 8) there and (3, 3, 3, ",
    ),
    ({"num_blocks": 2}, "is missing there and ("),
    ({"channel_mult": (1,)}, " there and "),
    ({"num_classes": 4}, "emb_label/weight is (3, 16) there and (4, 16) here"),
    ({"attn_resolutions": ()}, "is (1, 1, 16, 16) there and missing here"),
  ],
)
@pytest.mark.parametrize("source", [EDM2, SHARED], ids=["edm2", "trigflow"])
def test_misfits(change, said, source):
  target = dataclasses.replace(SHARED, **change)
  _, report = partial_restore.restore(draw(source), source, target)
  assert any(said in misfit for misfit in report.misfits)


def test_the_sign_is_turned_with_the_convention():
  """Without the features of the time, the two networks nearly agree."""
  params = draw(EDM2)
  started, _ = partial_restore.restore(params, EDM2, SHARED)
  for tree in (params, started):
    for block in tree["denoiser"].values():
      if "modulation" in getattr(block, "keys", dict)():
        # y * 1 in one form, pnorm(y) * pnorm(1) + pnorm(0) in the other.
        block["modulation"]["emb"]["weight"] *= 0
  drawn = draw(SHARED, seed=1)
  full = {
    "denoiser": {**drawn["denoiser"], **started["denoiser"]},
    "weighting": drawn["weighting"],
  }
  full["denoiser"]["embedding"] = {
    **drawn["denoiser"]["embedding"],
    **started["denoiser"]["embedding"],
  }
  rng = np.random.default_rng(3)
  x = jnp.asarray(rng.normal(size=(4, 8, 8, 2)), jnp.float32)
  t, cond = jnp.linspace(0.3, 1.3, 4), {"label": jnp.arange(4) % 3}
  ours = jax.jit(networks.build(SHARED).F)(full, x, t, cond)
  theirs = jax.jit(networks.build(EDM2).F)(params, x, t, cond)
  correlation = np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1]
  assert correlation > 0.5


@pytest.mark.parametrize("guidance", [False, True])
def test_of_ddpmpp(guidance):
  """DDPM++ has no gain; its last layer, bias included, sets the sign."""
  edm = networks.DDPMppConfig(
    resolution=8,
    in_channels=2,
    form="edm",
    channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=8,
  )
  target = dataclasses.replace(edm, form="trigflow", guidance=guidance)
  params = draw(edm)
  started, report = partial_restore.restore(params, edm, target)
  assert report.misfits == ()
  last = {f"denoiser/conv_out/{part}" for part in ("bias", "kernel")}
  assert set(report.negated) == last
  for name in last:
    np.testing.assert_array_equal(leaf(started, name), -leaf(params, name))
  # What reads the time, and the modulations that became double.
  for name in report.fresh + report.unused:
    reads = name.split("/")[2] in ("emb_0", "emb", "emb_guidance")
    assert reads or "weighting" in name
  assert "denoiser/dec_4_0/emb/kernel" in report.fresh
  assert "denoiser/embedding/emb_0/kernel" in report.fresh
  for name in ("embedding/emb_1", "dec_4_0/norm1", "dec_4_0/conv1"):
    assert any(n.startswith(f"denoiser/{name}/") for n in report.copied)
  wanted = count(draw(target))
  assert len(report.copied) + len(last) + len(report.fresh) == wanted
