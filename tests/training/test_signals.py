"""A training stops on a signal, after saving."""

import logging
import os
import signal

import jax.numpy as jnp
import pytest

from scm_jax.training import loop
from scm_jax.training.monitoring import signals


def raise_signal(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


def test_sigterm_asks_and_handlers_come_back():
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with signals.StopSignal() as stop:
    assert not stop.requested
    raise_signal()
    assert stop.requested == signal.SIGTERM
  after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert after == before


def test_first_interrupt_asks_and_the_second_interrupts():
  with signals.StopSignal() as stop:
    raise_signal(signal.SIGINT)
    assert stop.requested == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
      raise_signal(signal.SIGINT)


def test_sigterm_saves_the_step_it_comes_in(
  reference,
  train,
  make_config,
  steps_kept,
  state_at,
  assert_equal_states,
  read_metrics,
  tmp_path,
  caplog,
):
  """The same command then goes on, to the same bits."""
  caplog.set_level(logging.INFO)
  config = make_config("teacher", "--config.log_every=4")
  before = signal.getsignal(signal.SIGTERM)
  complete = train(
    config, tmp_path, lambda step, batch: step == 5 and raise_signal() or None
  )
  assert complete is False
  assert signal.getsignal(signal.SIGTERM) is before
  assert steps_kept(tmp_path) == [2, 4, 5]
  assert f"stopped by a signal; {tmp_path} is saved at step 5" in caplog.text
  assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 5]

  assert train(config, tmp_path)
  assert "continuing from step 5" in caplog.text
  assert_equal_states(state_at(tmp_path, 8), state_at(reference, 8))
  assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 5, 6, 8]


@pytest.mark.parametrize("look", [1, 2, 5])
def test_whenever_the_signal_comes_the_last_step_is_saved(
  look, train, make_config, steps_kept, monkeypatch, tmp_path, caplog
):
  """The signal comes just before the loop asks for the `look`-th time."""

  class AtLook(signals.StopSignal):
    looks = 0

    @property
    def requested(self):
      self.looks += 1
      return self.looks >= look

    @requested.setter
    def requested(self, value):
      pass

  def step(state, teacher_params, batch, seed):
    zero = jnp.float32(0)
    names = ("loss", "output_rms", "nonfinite_samples", "nonfinite_gradients")
    metrics = dict.fromkeys(names, zero)
    return state.replace(step=state.step + 1), metrics

  make = loop.program.make
  monkeypatch.setattr(signals, "StopSignal", AtLook)
  counting = lambda *args: make(*args)._replace(step=step)
  monkeypatch.setattr(loop.program, "make", counting)
  caplog.set_level(logging.INFO)
  done = []
  config = make_config("teacher", "--config.checkpoint_every=100")
  complete = train(config, tmp_path, lambda step, batch: done.append(step))
  assert not complete
  assert steps_kept(tmp_path) == [done[-1]]
  assert f"saved at step {done[-1]}" in caplog.text
