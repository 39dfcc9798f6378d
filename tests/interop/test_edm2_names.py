"""EDM2's names and ours, and parity with a reference network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from scm_jax import networks, trigflow
from scm_jax.interop import edm2, edm2_names
from scm_jax.networks import magnitude, presets
from scm_jax.training import resolve

TOLERANCE = 2e-5  # relative, in float32


def relative(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def nhwc(x):
  return x.transpose(0, 2, 3, 1)


def parameters(tensors):
  """Returns a reference file's parameters, which it calls `param:NAME`."""
  prefix = "param:"
  return {
    name.removeprefix(prefix): np.asarray(tensor)
    for name, tensor in tensors.items()
    if name.startswith(prefix)
  }


@pytest.fixture(scope="module")
def imported(reference):
  """Returns the reference's network and its normalised parameters."""
  tensors, config = reference
  pickle = edm2.Pickle(
    tensors=parameters(tensors),
    sigma_d=0.5,
    channels_per_head=config["channels_per_head"],
    data={
      "size": config["img_resolution"],
      "channels": config["img_channels"],
      "num_classes": config["label_dim"],
      "mean": 0.0,
      "std": 0.5,
    },
  )
  resolved = edm2.config(pickle, step=1, sigma_rel=0.1)
  assert resolved.network.channel_mult == tuple(config["channel_mult"])
  assert resolved.network.attn_resolutions == tuple(config["attn_resolutions"])
  assert resolved.network.num_blocks == config["num_blocks"]
  network_config = resolve.resolve(resolved).network
  model = resolve.model(
    resolve.resolve(resolved),
    edm2_names.params_from_tensors(network_config, pickle.tensors),
  )
  return model.network, model.params


def labels(tensors):
  """Returns the classes of one-hot rows; a row of zeros is "no label"."""
  one_hot = tensors["in:labels_onehot"]
  return np.where(one_hot.sum(-1) > 0, one_hot.argmax(-1), one_hot.shape[-1])


def test_parity(imported, reference):
  """The output, its derivative by `x` and `sigma`, and log-variance agree."""
  tensors, _ = reference
  network, params = imported
  cond = {"label": jnp.asarray(labels(tensors))}

  def denoise(x, sigma):
    x_t, t = trigflow.from_schedule(x, jnp.ones_like(sigma), sigma, 0.5)
    return trigflow.denoise(network.F(params, x_t / 0.5, t, cond), x_t, t, 0.5)

  point = nhwc(tensors["in:x"]), jnp.asarray(tensors["in:sigma"])
  tangent = nhwc(tensors["in:tangent_x"]), tensors["in:tangent_sigma"]
  tangent = tuple(map(jnp.asarray, tangent))
  denoised, jvp = jax.jit(lambda: jax.jvp(denoise, point, tangent))()
  assert relative(denoised, nhwc(tensors["out:denoised"])) <= TOLERANCE
  assert relative(jvp, nhwc(tensors["out:jvp"])) <= TOLERANCE

  t = trigflow.sigma_to_time(point[1], 0.5)
  log_variance = -network.w(params, t)
  assert relative(log_variance, tensors["out:logvar"]) <= TOLERANCE


def test_parity_needs_every_part(imported, reference):
  """A change of any weight, or of epsilon, would break the parity."""
  tensors, _ = reference
  network, params = imported
  x, t = nhwc(tensors["in:x"]), jnp.array([0.3, 0.8, 1.4])
  cond = {"label": jnp.asarray(labels(tensors))}
  F = jax.jit(lambda params: network.F(params, x, t, cond))
  exact = F(params)
  without_epsilon = magnitude.normalize_weights(params)
  assert relative(F(without_epsilon), exact) > 2 * TOLERANCE
  leaves, tree = jax.tree.flatten(params["denoiser"])
  for i in range(len(leaves)):
    changed = leaves.copy()
    changed[i] = leaves[i] * 1.01 + 0.01
    moved = {"denoiser": tree.unflatten(changed)}
    assert relative(F(moved), exact) > TOLERANCE


def test_names_and_back(reference, imported):
  tensors, config = reference
  theirs = parameters(tensors)
  network, _ = imported
  ours = edm2_names.params_from_tensors(network.config, theirs)
  back = {}
  for path, array in traverse_util.flatten_dict(ours).items():
    name = edm2_names.to_name(path, config["img_resolution"])
    back[name] = edm2_names.to_theirs(array, path)
  assert back.keys() == theirs.keys()
  for name, tensor in theirs.items():
    np.testing.assert_allclose(back[name], tensor, rtol=1e-6)


@pytest.mark.parametrize("size", ["xs", "xxl"])
def test_every_parameter_of_every_size_has_a_name(size):
  """The config's fields are inferred from the names and shapes."""
  fields = presets.EDM2[size]
  config = networks.UNetConfig(
    resolution=64,
    in_channels=4,
    num_classes=1000,
    form="edm2",
    **{k: v for k, v in fields.items() if k != "family"},
  )
  shapes = networks.build(config).shapes
  like = jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), shapes)
  theirs, seen = {}, set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(like):
    keys = tuple(key.key for key in path)
    name = edm2_names.to_name(keys, 64)
    assert name not in seen
    seen.add(name)
    theirs[name] = edm2_names.to_theirs(leaf, keys)
  told = edm2.architecture(theirs, 64)
  assert told == {
    k: fields[k] for k in told if k not in ("form", "attn_resolutions")
  } | {"form": "edm2", "attn_resolutions": (16, 8)}


def test_other_names():
  for path in (
    ("denoiser", "head"),
    ("denoiser", "enc_8_0", "conv2", "weight"),
  ):
    with pytest.raises(KeyError, match="/".join(path)):
      edm2_names.to_name(path, 64)


@pytest.mark.parametrize(
  "name, expected",
  [
    ("edm2-img512-s-2147483-0.130.pkl", (1 << 20, 0.13)),
    ("edm2-img512-xxl-0939524-0.015.pkl", (458752, 0.015)),
    ("edm2-img512-xs-uncond-2147483-0.045.pkl", (1 << 20, 0.045)),
    ("network-snapshot.pkl", (0, 0.0)),
  ],
)
def test_what_a_files_name_tells(name, expected):
  assert edm2.training(name) == expected
