"""What a client may ask for, and the Python that draws the same."""

import base64
import functools
import json

import numpy as np
import pytest

import scm_jax
from scm_jax.errors import UserError
from scm_jax.serving import fields, requests

SHAPE = (4, 4, 1)
IMAGE = np.arange(16, dtype=np.uint8).reshape(SHAPE) * 15
KNOWN = np.tri(4, dtype=np.uint8)


def encoded(array):
  return base64.b64encode(array.tobytes()).decode()


EDIT = {"image": encoded(IMAGE), "num": 4}
ASKED = {
  "one class": ("sample", {"labels": [1], "num": 4, "seed": 3}),
  "a class as it is": ("sample", {"labels": 2, "num": 1}),
  "no label": ("sample", {"labels": [3, 0], "num": 4}),
  "all classes": ("sample", {"num": 4, "steps": 1}),
  "a second time": ("sample", {"num": 4, "t_mid": 0.8}),
  "guidance": ("sample", {"num": 4, "guidance": 1.7}),
  "a solver": ("sample", {"num": 4, "model": "teacher", "steps": 4}),
  "a guided one": (
    "sample",
    {"num": 4, "model": "teacher", "steps": 4, "guidance": 2},
  ),
  "a walk": ("walk", {"num": 4, "at": 12.345, "seed": 8}),
  "a walk of one": ("walk", {"num": 1, "at": -0.1, "steps": 1, "labels": [1]}),
  "a solver's": ("walk", {"num": 4, "model": "teacher", "steps": 4}),
  "strokes": ("edit", EDIT | {"start": 1.2, "labels": [2]}),
  "a part": ("edit", EDIT | {"known": encoded(KNOWN), "t_mid": 0.8}),
  "strokes in a part": (
    "edit",
    EDIT | {"known": encoded(KNOWN), "start": 0.9, "guidance": 1.5},
  ),
}


@pytest.fixture(scope="module")
def load_once():
  """`scm_jax.load`, which reads each path once for all tests of this file."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scm_jax, "load", functools.cache(scm_jax.load), raising=False)
    yield


@pytest.mark.parametrize("name", ASKED)
def test_python_draws_the_same_to_the_bit(models, load_once, name):
  action, body = ASKED[name]
  request = requests.read(models, action, body)
  images = request.draw()
  assert images.shape == (body["num"], *SHAPE) and images.dtype == np.uint8
  assert images.std() > 0
  found = {}
  exec(request.python(), found)
  np.testing.assert_array_equal(images, found["images"])


def test_known_pixels_stay(models):
  request = requests.read(models, *ASKED["a part"])
  images = request.draw()
  np.testing.assert_array_equal(
    images[:, KNOWN > 0],
    np.broadcast_to(IMAGE[KNOWN > 0], (4, KNOWN.sum(), 1)),
  )
  assert (images != IMAGE).any()


@pytest.mark.parametrize(
  ("one", "other", "same"),
  [
    ({"seed": 1}, {"seed": 2}, True),
    ({"labels": [1]}, {}, True),
    ({"guidance": 1.5}, {"guidance": 2.5}, True),
    # The second time of a single step is not used.
    ({"steps": 1, "t_mid": 0.8}, {"steps": 1, "t_mid": 0.4}, True),
    ({"t_mid": 0.8}, {"t_mid": 0.4}, False),
    ({"num": 4}, {"num": 9}, False),
    ({"steps": 1}, {"steps": 2}, False),
    ({"model": "teacher"}, {"model": "student"}, False),
    # An extrapolation evaluates the network twice.
    (
      {"model": "teacher", "guidance": 1},
      {"model": "teacher", "guidance": 2},
      False,
    ),
  ],
)
def test_requests_share_a_program(models, one, other, same):
  a, b = (requests.read(models, "sample", body) for body in (one, other))
  assert (a.program == b.program) == same


WRONG = [
  ("sample", {"num": 17}, "num"),
  ("sample", {"num": 0}, "num"),
  ("sample", {"num": True}, "num"),
  ("sample", {"num": "4"}, "num"),
  ("sample", {"num": None}, "num"),
  ("sample", {"num": 10**400}, "num"),
  ("sample", {"steps": 1000}, "steps"),
  ("sample", {"seed": -1}, "seed"),
  ("sample", {"seed": 2**40}, "seed"),
  ("sample", {"seed": 1.5}, "seed"),
  ("sample", {"guidance": float("nan")}, "guidance"),
  ("sample", {"guidance": 1e9}, "guidance"),
  ("sample", {"guidance": []}, "guidance"),
  ("sample", {"t_mid": 0.123}, "t_mid"),
  ("sample", {"t_mid": 2.0}, "t_mid"),
  ("sample", {"labels": []}, "labels"),
  ("sample", {"labels": [0] * 65}, "labels"),
  ("sample", {"labels": [[0]]}, "labels"),
  ("sample", {"labels": [99]}, "99"),
  ("sample", {"labels": [-1]}, "labels"),
  ("sample", {"labels": [2**70]}, "labels"),
  ("sample", {"model": "../../etc/passwd"}, "student, teacher"),
  ("sample", {"model": {}}, "student, teacher"),
  ("sample", {"modle": "student"}, "'model'"),
  ("sample", {"at": 1.0}, "at"),
  ("sample", [], "object"),
  ("walk", {"at": 1e30}, "at"),
  ("walk", {"at": None}, "at"),
  ("walk", {"num": 36}, "num"),
  ("edit", {}, "known"),
  ("edit", {"image": "", "start": 1.2}, "image"),
  ("edit", {"image": 7, "start": 1.2}, "image"),
  ("edit", {"image": "é", "start": 1.2}, "image"),
  ("edit", EDIT | {"start": 0.0}, "start"),
  ("edit", EDIT | {"start": 1.2, "known": "AAAA"}, "known"),
  ("edit", EDIT | {"model": "teacher", "start": 1.2}, "teacher"),
  ("steal", {}, "sample"),
  ({}, {}, "sample"),
]


@pytest.mark.parametrize(("action", "body", "named"), WRONG)
def test_what_is_out_of_range_is_one_short_sentence(
  models, action, body, named
):
  with pytest.raises(UserError) as refusal:
    requests.read(models, action, body)
  message = str(refusal.value)
  assert named in message
  assert "\n" not in message and len(message) < 250


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_refused(text):
  with pytest.raises(UserError):
    fields.parse(text)


def test_a_description_offers_what_may_be_asked(models):
  """All choices that a page finds there are accepted."""
  for model in models.values():
    about = json.loads(json.dumps(model.describe()))
    for steps in about["steps"]["choices"]:
      requests.read(models, "sample", {"model": model.name, "steps": steps})
    for t_mid in about["t_mid"]["choices"]:
      body = {"model": model.name, "steps": 2, "t_mid": t_mid}
      requests.read(models, "sample", body)
    assert about["edits"] == (model.name == "student")
