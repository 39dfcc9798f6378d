"""The line that says how far it is."""

import pytest

from scm_jax.preparing import progress


def test_line(caplog):
  caplog.set_level("INFO")
  now = [100.0]
  done = progress.Progress(1000, "images", clock=lambda: now[0])
  assert done.line().startswith("0 of 1,000 images (0.0%)")
  done.advance(30)
  assert not caplog.messages  # not at every image
  now[0] += progress.EVERY
  done.advance(20)
  assert caplog.messages == ["50 of 1,000 images (5.0%), 5/s, 3 min left"]
  done.advance(20)
  assert len(caplog.messages) == 1


@pytest.mark.parametrize(
  "seconds, text", [(0, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text
