"""The class that draws: batches, guidance, settings, programs."""

import dataclasses
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, sampler_programs
from scm_jax.codec import LatentCodec, PixelCodec
from scm_jax.errors import ConfigError
from scm_jax.networks import autoencoder
from scm_jax.sampler import Sampler

LABELS = np.array([0, 2, 1, 2, 0])
MANY = 64  # steps of solvers, in programs that most tests share


def test_weights_are_folded_once(student):
  """The sampler keeps its parameters, and draws from folded ones."""
  ready = student.ready
  assert ready is student.ready and ready.ready is ready
  assert ready.parameters == student.parameters
  folded = jax.tree.leaves(ready.params)
  raw = jax.tree.leaves(student.params)
  assert any(not np.array_equal(a, b) for a, b in zip(folded, raw, strict=True))
  np.testing.assert_array_equal(ready.sample(LABELS), student.sample(LABELS))


@pytest.fixture(scope="module")
def images(student):
  return student.sample(LABELS)


def assert_same_images(a, b):
  """Equal but for rounding, which may move a rare pixel by one level.

  Programs of different batch sizes sum in different orders.
  """
  difference = np.abs(a.astype(int) - b.astype(int))
  assert difference.max() <= 1
  assert np.mean(difference > 0) <= 0.01


def test_images(images):
  assert images.shape == (5, 4, 4, 1) and images.dtype == np.uint8
  assert images.std() > 20 and len(np.unique(images)) > 30


def test_samples_do_not_depend_on_the_batch(student, images):
  two_at_once = dataclasses.replace(student, batch_size=2)
  assert_same_images(two_at_once.sample(LABELS), images)
  assert_same_images(student.sample(LABELS[:2]), images[:2])


def test_samples_are_a_function_of_seed_and_label(student, images):
  np.testing.assert_array_equal(student.sample(LABELS), images)
  other = student.sample(LABELS, seed=1)
  relabelled = student.sample((LABELS + 1) % 3)
  guided = student.sample(LABELS, guidance=2.0)
  for i in range(5):
    for changed in (other, relabelled, guided):
      assert not np.array_equal(changed[i], images[i])
    # Two samples of one label and seed differ too.
    assert not np.array_equal(images[i], images[(i + 3) % 5])


def test_seeds_of_32_bits(student):
  drawn = [student.sample([0], seed=n) for n in (-(2**31), 2**31 - 1)]
  assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 1


def test_batches_reach_the_host_as_they_are_drawn(student, monkeypatch):
  """The devices never hold more than two, however many images are drawn."""
  on_devices, drawn = [], Sampler.draw

  def draw(self, *args, **kwargs):
    batch = drawn(self, *args, **kwargs)
    on_devices.append(weakref.ref(batch))
    return batch

  monkeypatch.setattr(Sampler, "draw", draw)
  sampler = dataclasses.replace(student, batch_size=2)
  seen = 0
  for batch in sampler.batches(sampler.labels(num=11), steps=1):
    assert isinstance(batch, np.ndarray)
    seen += len(batch)
    assert sum(array() is not None for array in on_devices) <= 2
  assert seen == 11 and len(on_devices) == 6


def test_one_program_serves_all_batches(student):
  """And all seeds, labels, scales of guidance and parameters."""
  network = student.network
  once = network._replace(F=chex.assert_max_traces(network.F, n=1))
  sampler = dataclasses.replace(student, network=once, batch_size=2)
  for seed in range(2):
    other = jax.tree.map(jnp.negative, sampler) if seed else sampler
    other.sample(LABELS, steps=1, seed=seed, guidance=1.5 + seed)
  chex.clear_trace_counter()


def test_one_step_of_a_teacher_is_the_consistency_formula(student):
  one = student.sample(LABELS, steps=1)
  for solver in ("heun", "dpm_solver"):
    diffusion = dataclasses.replace(student, kind="diffusion", solver=solver)
    np.testing.assert_array_equal(diffusion.sample(LABELS, steps=1), one)


def test_teachers(teacher):
  """Solvers agree with each other; guidance is off at 1 and acts beyond."""
  heun = teacher.sample(LABELS, steps=MANY)
  fast = dataclasses.replace(teacher, solver="dpm_solver")
  solved = fast.sample(LABELS, steps=MANY)
  assert np.abs(heun.astype(int) - solved).mean() < 0.5
  # Not 1.0, which takes another program.
  almost = fast.sample(LABELS, steps=MANY, guidance=1.0 + 1e-6)
  assert_same_images(almost, solved)
  guided = fast.sample(LABELS, steps=MANY, guidance=3.0)
  assert np.abs(guided.astype(int) - solved).mean() > 5


@pytest.mark.parametrize("solver", ["heun", "dpm_solver"])
def test_guidance_in_an_interval(teacher, solver):
  """All noise levels are full guidance, none are no guidance at all."""
  teacher = dataclasses.replace(teacher, solver=solver)
  plain, whole = (teacher.sample(LABELS, guidance=s) for s in (1.0, 3.0))

  def limited(*interval):
    model = dataclasses.replace(teacher, guidance_interval=interval)
    return model.sample(LABELS, guidance=3.0).astype(int)

  assert_same_images(limited(0.0, 1e6), whole)
  # Its ends belong to it, though times round them.
  assert_same_images(limited(0.002, teacher.sigma_max), whole)
  assert_same_images(limited(1e-6, 1e-5), plain)
  middle = limited(0.2, 2.0)
  assert min(np.abs(middle - x).mean() for x in (plain, whole)) > 1


@pytest.mark.parametrize("scale", [3.0, np.linspace(1, 3, len(LABELS))])
def test_guidance_of_some_channels(tiny_sampler, scale):
  """The first channels are guided, the others are not; 0 is all."""
  model = tiny_sampler("diffusion", in_channels=3)
  x = np.random.default_rng(0).normal(size=(len(LABELS), 4, 4, 3))
  t = jnp.linspace(0.3, 1.5, len(LABELS))

  def F(count, guided=True):
    limited = dataclasses.replace(model, guidance_channels=count)
    F, cond = sampler_programs.bind(limited, LABELS, jnp.array(scale), guided)
    return np.asarray(F(jnp.asarray(x, "f4"), t, cond))

  plain, whole = F(0, guided=False), F(0)
  assert np.abs(whole - plain).mean(axis=(1, 2, 3)).max() > 0.1
  for count in (1, 2, 3):
    wanted = np.concatenate([whole[..., :count], plain[..., count:]], -1)
    np.testing.assert_allclose(F(count), wanted, atol=1e-5)
  with pytest.raises(ConfigError, match="guidance_channels is 4"):
    F(4)


def test_evaluations(student, teacher):
  assert student.evaluations(1) == 1
  assert student.evaluations(2, guidance=1.5) == 2  # an input, not a pass
  assert teacher.evaluations(1) == 1
  assert teacher.evaluations(32) == 63  # the paper's
  assert teacher.evaluations(32, guidance=1.5) == 126
  fast = dataclasses.replace(teacher, solver="dpm_solver")
  assert fast.evaluations(32) == 32
  assert fast.evaluations(32, guidance=1.5) == 64


@pytest.mark.parametrize("solver", ["heun", "dpm_solver"])
def test_networks_are_evaluated_as_often_as_counted(tiny_sampler, solver):
  """Both networks are, but outside of the interval of guidance only one."""
  asked = {"own": 0, "weak": 0}

  def counted(name, network):
    def F(params, x, t, cond):
      jax.debug.callback(lambda: asked.update({name: asked[name] + 1}))
      return network.F(params, x, t, cond)

    return network._replace(F=F)

  model = tiny_sampler("diffusion")
  for interval in ((), (0.2, 2.0), (0.001, 0.01), (1e3, 1e4)):
    guided = dataclasses.replace(
      model,
      solver=solver,
      network=counted("own", model.network),
      guidance_network=counted("weak", model.network),
      guidance_params=model.params,
      guidance_interval=interval,
    )
    for steps in (1, 5):
      asked |= {"own": 0, "weak": 0}
      guided.sample(LABELS, steps=steps, guidance=1.5)
      jax.effects_barrier()
      assert asked["own"] == guided.evaluations(steps)
      assert sum(asked.values()) == guided.evaluations(steps, guidance=1.5)


def test_a_teacher_and_its_guidance_network(teacher):
  """Guided by a copy of itself it is itself; by another it is moved."""
  second = {"guidance_network": teacher.network}
  twin = dataclasses.replace(teacher, guidance_params=teacher.params, **second)
  plain = twin.sample(LABELS, steps=2)
  np.testing.assert_array_equal(teacher.sample(LABELS, steps=2), plain)
  assert_same_images(twin.sample(LABELS, steps=2, guidance=2.0), plain)

  # A second network that says "no velocity" makes of guidance a factor.
  silent = jax.tree.map(jnp.zeros_like, teacher.params)
  guided = dataclasses.replace(teacher, guidance_params=silent, **second)
  drawn = guided.sample(LABELS, steps=2, guidance=2.0)
  doubled = jax.tree.map(jnp.copy, teacher.params)
  doubled["denoiser"]["out_gain"] *= 2.0
  louder = dataclasses.replace(teacher, params=doubled)
  assert_same_images(drawn, louder.sample(LABELS, steps=2))
  assert np.abs(drawn.astype(int) - plain).mean() > 5
  assert guided.evaluations(2, guidance=2.0) == 6
  assert guided.parameters == teacher.parameters
  again = guided.with_weights(jax.tree.map(jnp.copy, guided.weights))
  np.testing.assert_array_equal(
    again.sample(LABELS, steps=2, guidance=2.0), drawn
  )


def test_defaults_are_the_models_own(student, teacher):
  tuned = dataclasses.replace(student, guidance=1.5)
  given = student.sample(LABELS, steps=2, guidance=1.5)
  np.testing.assert_array_equal(tuned.sample(LABELS), given)
  fields = {"guidance": 2.0, "solver_steps": MANY, "solver": "dpm_solver"}
  solver = dataclasses.replace(teacher, **fields)
  given = solver.sample(LABELS, steps=MANY, guidance=2.0)
  np.testing.assert_array_equal(solver.sample(LABELS), given)
  assert not np.array_equal(solver.sample(LABELS, guidance=1.0), given)


def test_given_noise_takes_the_default_steps(student, teacher):
  """A step for each draw of a student's, and a diffusion model's own number."""
  for sampler in (student, dataclasses.replace(teacher, solver_steps=MANY)):
    images = sampler.from_noise(sampler.noise(5), LABELS)
    assert_same_images(images, sampler.sample(LABELS))


def test_each_step_may_have_its_own_scale(student):
  """The first step of two is that of its scale, and so is the second."""
  noise = student.noise(5, steps=2)
  draw = lambda scale: student.path(noise, LABELS, guidance=scale).x0
  mixed, low, high = draw((1.0, 2.0)), draw(1.0), draw(2.0)
  assert_same_images(draw([2.0, 2.0]), high)
  assert_same_images(mixed[0], low[0])
  assert np.abs(mixed[1].astype(int) - low[1]).max() > 1
  # The second step begins where the first one led.
  other = draw((1.5, 2.0))
  assert np.abs(mixed[1].astype(int) - other[1]).max() > 1
  assert_same_images(
    student.sample(LABELS, steps=2, guidance=(1.0, 2.0)), mixed[1]
  )


def test_times_of_all_steps(student):
  """They take the place of the schedule that follows from `t_mid`."""
  same = dataclasses.replace(student, times=(0.9,))
  own = dataclasses.replace(student, t_mid=0.9)
  np.testing.assert_array_equal(same.sample(LABELS), own.sample(LABELS))
  np.testing.assert_array_equal(
    same.sample(LABELS, steps=1), student.sample(LABELS, steps=1)
  )
  three = dataclasses.replace(student, times=(1.2, 0.3))
  path = three.path(three.noise(5), LABELS)
  np.testing.assert_allclose(path.times[1:], (1.2, 0.3), rtol=1e-6)
  assert three.settings(3, (1.0, 1.5, 2.0)) == {
    "guidance": "1.0:1.5:2.0",
    "times": "1.2:0.3",
    "sigma_max": 80.0,
    "dtype": "float32",
  }
  for times, steps in (((1.2, 0.3), 2), ((0.3, 1.2), 3), ((1.2, 0.0), 3)):
    wrong = dataclasses.replace(student, times=times)
    with pytest.raises(ConfigError, match=f"{steps} steps need {steps - 1} of"):
      wrong.sample(LABELS, steps=steps)


def test_steps_of_equal_length_are_reported_by_their_times(student):
  even = dataclasses.replace(student, t_mid=0.0)
  assert even.settings(3, 1.0)["times"] == "1.0472:0.5236"
  assert "times" not in even.settings(1, 1.0)


def test_settings_tell_samplers_apart(student, teacher):
  assert student.settings(2, 1.5) == {
    "guidance": 1.5,
    "t_mid": 1.1,
    "sigma_max": 80.0,
    "dtype": "float32",
  }
  assert "t_mid" not in student.settings(1, 1.5)
  fast = dataclasses.replace(teacher, solver="dpm_solver", sigma_max=50.0)
  found = fast.settings(8, 1.0)
  assert (found["solver"], found["sigma_max"]) == ("dpm_solver", 50.0)


def test_parameters(student):
  assert student.parameters == sum(
    leaf.size for leaf in jax.tree.leaves(student.params["denoiser"])
  )


def test_an_autoencoder_decodes_within_the_sampler(student):
  """Its parameters are an argument, like the network's."""

  def decoder(params, latents):
    image = latents.repeat(8, axis=1).repeat(8, axis=2) + params["shift"]
    return jnp.repeat(image, 3, axis=-1)

  network = autoencoder.build(autoencoder.AutoencoderConfig())
  network = network._replace(decode=decoder)
  codec = LatentCodec((0.1,), (0.5,), 0.5, autoencoder=network)
  model = dataclasses.replace(student, codec=codec, decoder={"shift": 0.0})
  images = model.sample(LABELS)
  assert images.shape == (5, 32, 32, 3) and images.dtype == np.uint8
  assert images.std() > 20
  np.testing.assert_array_equal(
    images, images[:, ::8, ::8].repeat(8, 1).repeat(8, 2)
  )
  white = dataclasses.replace(model, decoder={"shift": 100.0}).sample(LABELS)
  np.testing.assert_array_equal(white, 255)


def test_sampling_says_that_nothing_was_augmented():
  config = networks.DDPMppConfig(resolution=4, in_channels=1, augment=True)
  codec = PixelCodec(0.0, 0.5, 0.5)
  sampler = Sampler(networks.build(config), {}, codec)
  label, scale = jnp.zeros(5, jnp.int32), jnp.float32(1.0)
  _, cond = sampler_programs.bind(sampler, label, scale)
  assert cond.keys() == {"augment"}
  np.testing.assert_array_equal(cond["augment"], np.zeros((5, 9)))
