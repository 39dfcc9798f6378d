"""What is said at the start of a run that will not fit."""

import logging
import re
import shlex

import jax
import pytest

from scm_jax.cli import configs, main
from scm_jax.errors import ConfigError
from scm_jax.planning import fitting, memory
from scm_jax.training import resolve


@pytest.fixture(scope="module")
def start(flags):
  """Flags of a run whose state is not sharded."""
  return [flag for flag in flags if "mesh.fsdp" not in flag]


@pytest.fixture(scope="module")
def parse(start):
  """Returns `parse(*argv)`: the config, changed by flags."""

  def call(*argv):
    config = configs.parse_config((*start, *argv))
    config.teacher = "random"
    return config

  return call


@pytest.fixture(scope="module")
def step(parse):
  """The config's step, traced once for all tests."""
  return memory.Step(resolve.resolve(parse()))


@pytest.fixture
def whole(step, parse):
  """The bytes that the step needs on one device."""
  return step.need(resolve.resolve(parse()), 1, 1).total


@pytest.fixture
def limit(step, monkeypatch):
  """Returns `limit(bytes)`, which sets the memory of the devices here."""
  monkeypatch.setattr(memory, "Step", lambda *_: step)
  return lambda count: monkeypatch.setattr(
    fitting, "capacity", lambda device: count
  )


def test_silent_where_it_fits_or_nobody_knows(parse, limit, whole, caplog):
  config = parse()
  assert fitting.capacity(jax.devices("cpu")[0]) is None
  fitting.check(config)
  limit(whole)
  fitting.check(config)
  assert not caplog.records


def test_what_does_not_fit_is_refused_with_flags_that_make_it_fit(
  parse, limit, whole
):
  limit(whole // 2)
  with pytest.raises(ConfigError) as error:
    fitting.check(parse())
  flags = re.findall(r"--config\.\S+=(?:\"[^\"]*\"|[^\s;,]+)", str(error.value))
  *ways, escape = shlex.split(" ".join(flags))
  assert ways
  fitting.check(parse(*ways))  # as they would be pasted
  fitting.check(parse(escape))


def test_a_near_miss_is_tried_with_a_warning(parse, limit, whole, caplog):
  limit(round(whole / 1.1))
  with caplog.at_level(logging.WARNING):
    fitting.check(parse())
  (record,) = caplog.records
  assert "--config." in record.message
  caplog.clear()
  fitting.check(parse("--config.memory_check=off"))
  assert not caplog.records


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2, 0.05])
@pytest.mark.parametrize("devices", [1, 8])
def test_suggestions_fit(parse, step, share, devices):
  config = parse()
  room = int(share * step.need(resolve.resolve(config), devices, 1).total)
  found = fitting.suggestion(resolve.resolve(config), step, (devices, 1), room)
  if found is None:  # nothing else was left to try
    leanest = parse(
      "--config.network.remat=full",
      "--config.teacher_dtype=float16",
      "--config.offload=('averages', 'moments')",
      f"--config.microbatches={16 // devices}",
    )
    assert step.need(leanest, 1, devices).total > (1 - fitting._FREE) * room
    return
  flags, less = found
  assert less.total <= room
  changed = parse(*shlex.split(" ".join(flags)))
  fsdp = changed.mesh.fsdp
  assert step.need(changed, devices // fsdp, fsdp) == less


def test_nothing_that_costs_speed_is_asked_for_without_need(parse, step):
  """Smaller passes come before computing again, and that before the host."""
  config = parse()
  config.batch_size = 64
  whole = step.need(resolve.resolve(config), 1, 1)
  flags, _ = fitting.suggestion(
    resolve.resolve(config), step, (1, 1), whole.total - 1
  )
  assert flags == ["--config.images_per_pass=32"]


def test_nothing_makes_it_fit(parse, limit):
  limit(1000)
  with pytest.raises(ConfigError, match="larger devices"):
    fitting.check(parse())


def test_train_stops_before_it_touches_anything(limit, start, tmp_path, capsys):
  limit(100_000)
  folder = tmp_path / "run"
  argv = [*start, "--config.teacher=somewhere"]
  code = main.main(["train", *argv, f"--workdir={folder}"])
  said = capsys.readouterr().err
  assert code == 2 and said.count("\n") == 1
  assert said.startswith("scm-jax train: a step needs about ")
  assert not folder.exists()
