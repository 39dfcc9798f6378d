"""What a client may ask for: read from JSON, checked, drawn, and as Python.

A request is an entry of `ACTIONS`. Everything a client sends is read here; what
is out of range raises a `UserError` of one sentence, and nothing that a client
sends is ever a path.
"""

import abc
import base64
import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any, Self

import numpy as np

from scm_jax import errors
from scm_jax.errors import UserError
from scm_jax.serving import fields, walk
from scm_jax.serving.models import GUIDANCE, SIZES, TIMES, Model

_SEEDS = (0, 2**31 - 1)
_PLACES = (-1e6, 1e6)
_WALKERS = SIZES[:4]


@dataclasses.dataclass(frozen=True, eq=False)
class Request(abc.ABC):
  """Images that a client asks for, whose fields are those of its JSON object.

  Attributes:
    model: the network.
    labels: their classes, repeated in turn; None is every class in turn.
    num: the number of images.
    steps: the number of steps.
    seed: the noise's seed.
    guidance: the guidance scale.
    t_mid: the second time, in radians; 0 stands for steps of equal length.
  """

  model: Model
  labels: tuple[int, ...] | None
  num: int
  steps: int
  seed: int
  guidance: float
  t_mid: float

  @classmethod
  def read(cls, model: Model, body: Mapping[str, Any]) -> Self:
    """Returns the request that a JSON object stands for.

    Raises:
      UserError: a field does not exist or is out of range.
    """
    sampler = model.sampler
    own = sampler.guidance_scale()
    request: dict[str, Any] = {
      "model": model,
      "labels": fields.labels(body),
      "num": fields.choice(body, "num", 16, SIZES),
      "steps": fields.choice(body, "steps", sampler.steps, model.steps),
      "seed": fields.whole(body, "seed", 0, _SEEDS),
      "guidance": fields.number(body, "guidance", own, GUIDANCE),
      "t_mid": fields.choice(
        body, "t_mid", sampler.t_mid, model.times or (sampler.t_mid,)
      ),
    }
    sampler.guidance_scale(request["guidance"])
    sampler.labels(request["labels"], request["num"])
    if request["steps"] == 1:
      request["t_mid"] = sampler.t_mid  # not used, and one program
    return cls(**request | cls.read_more(model, body))

  @classmethod
  def read_more(cls, model: Model, body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the fields that this action has beside."""
    del model, body
    return {}

  @property
  def program(self) -> tuple[Hashable, ...]:
    """What the compiled program depends on."""
    guided = self.model.sampler.extrapolates(self.guidance)
    name = type(self).__name__
    return name, self.model.name, self.num, self.steps, self.t_mid, guided

  @property
  def evaluations(self) -> int:
    """The network evaluations for one image."""
    return self.model.sampler.evaluations(self.steps, self.guidance)

  @functools.cached_property
  def label(self) -> np.ndarray:
    """One label for each image, int32 `[num]`."""
    return self.model.sampler.labels(self.labels, self.num)

  @abc.abstractmethod
  def draw(self) -> np.ndarray:
    """Draws the images, uint8 `[num, H, W, C]`."""

  @abc.abstractmethod
  def python(self) -> str:
    """Returns lines of Python that draw exactly the same images."""

  def _load(self) -> str:
    """Returns the line that loads the network."""
    sampler, change = self.model.sampler, ""
    if self.t_mid != sampler.t_mid:
      change = f".changed(t_mid={self.t_mid!r})"
    return f"sampler = scm_jax.load({self.model.path!r}){change}\n"

  def _arguments(self, **more: Any) -> str:
    """Returns the arguments of a call, of which some are in every call."""
    given = dict(more)
    if self.model.sampler.guidance_refusal() is None:
      given["guidance"] = self.guidance
    labels = None if self.labels is None else list(self.labels)
    words = [f"{name}={value!r}" for name, value in given.items()]
    return ", ".join([repr(labels), *words])


class Sample(Request):
  """Images drawn from a seed."""

  def draw(self) -> np.ndarray:
    return self.model.at(self.t_mid).sample(
      self.labels,
      num=self.num,
      steps=self.steps,
      seed=self.seed,
      guidance=self.guidance,
    )

  def python(self) -> str:
    call = self._arguments(num=self.num, steps=self.steps, seed=self.seed)
    return f"import scm_jax\n{self._load()}images = sampler.sample({call})\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Walk(Request):
  """Images drawn from a place of an endless path through noise.

  Attributes:
    at: the place on the path, see `walk.noise`.
  """

  at: float

  @classmethod
  def read_more(cls, model: Model, body: Mapping[str, Any]) -> dict[str, Any]:
    del model
    return {
      # Each image takes six noises for each step.
      "num": fields.choice(body, "num", 16, _WALKERS),
      "at": fields.number(body, "at", 0.0, _PLACES),
    }

  def draw(self) -> np.ndarray:
    sampler = self.model.at(self.t_mid)
    noise = walk.noise(
      sampler, self.at, num=self.num, steps=self.steps, seed=self.seed
    )
    return sampler.from_noise(
      noise, self.label, steps=self.steps, guidance=self.guidance
    )

  def python(self) -> str:
    call = self._arguments(steps=self.steps)
    return (
      "import scm_jax, scm_jax.serving.walk as walk\n"
      f"{self._load()}"
      f"noise = walk.noise(sampler, {self.at!r}, num={self.num}, "
      f"steps={self.steps}, seed={self.seed})\n"
      f"images = sampler.from_noise(noise, {call})\n"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Edit(Request):
  """Variations of a given image: strokes made a picture, or parts drawn anew.

  Attributes:
    image: the image, uint8 `[H, W, C]`.
    known: which pixels stay as they are, bool `[H, W]`; None is none.
    start: the time in radians to which the image is noised; None draws what is
      not known from noise alone.
  """

  image: np.ndarray
  known: np.ndarray | None
  start: float | None

  @classmethod
  def read_more(cls, model: Model, body: Mapping[str, Any]) -> dict[str, Any]:
    if not model.edits:
      raise UserError(
        f"{model.name} cannot edit images; choose a model of few steps on "
        "pixels"
      )
    height, width, channels = model.sampler.image_shape
    known, start = body.get("known"), body.get("start")
    if known is None and start is None:
      raise UserError("an edit needs 'known', or 'start', or both")
    if known is not None:
      known = fields.array(body, "known", (height, width)) > 0
    image = fields.array(body, "image", (height, width, channels))
    found = {"image": image, "known": known, "start": start}
    if start is None:
      return found
    start = fields.choice(body, "start", None, TIMES)
    # The second time is not used then, and one program does.
    return found | {"start": start, "t_mid": model.sampler.t_mid}

  @property
  def program(self) -> tuple[Hashable, ...]:
    """What the compiled program depends on."""
    return *super().program, self.start, self.known is None

  def draw(self) -> np.ndarray:
    return self.model.at(self.t_mid).edit(
      np.broadcast_to(self.image, (self.num, *self.image.shape)),
      self.label,
      known=self.known,
      start=self.start,
      steps=self.steps,
      seed=self.seed,
      guidance=self.guidance,
    )

  def python(self) -> str:
    more = {"steps": self.steps, "seed": self.seed, "start": self.start}
    call = self._arguments(**more)
    lines = [
      "import base64, numpy as np, scm_jax",
      self._load().rstrip(),
      f"image = {_as_python(self.image)}",
    ]
    if self.known is not None:
      lines.append(f"known = {_as_python(self.known)} > 0")
      call += ", known=known"
    images = f"image[None].repeat({self.num}, 0)"
    return "\n".join([*lines, f"images = sampler.edit({images}, {call})", ""])


ACTIONS: dict[str, type[Request]] = {
  "sample": Sample,
  "walk": Walk,
  "edit": Edit,
}


def read(models: Mapping[str, Model], action: Any, body: Any) -> Request:
  """Reads the JSON value that a client sent for an entry of `ACTIONS`.

  The first model is drawn from unless the request names another.

  Raises:
    UserError: the request is not as documented.
  """
  if not isinstance(action, str) or action not in ACTIONS:
    raise UserError(
      f"there is no action {fields.short(action)}; choose from "
      f"{', '.join(ACTIONS)}"
    )
  if not isinstance(body, dict):
    raise UserError("the request must be a JSON object")
  kind = ACTIONS[action]
  known = [field.name for field in dataclasses.fields(kind)]
  for name in body:
    if name not in known:
      raise UserError(
        f"there is no field {fields.short(name)}; {errors.hint(name, known)}"
      )
  name = body.get("model", next(iter(models)))
  if not isinstance(name, str) or name not in models:
    raise UserError(
      f"there is no model {fields.short(name)}; choose from {', '.join(models)}"
    )
  return kind.read(models[name], body)


def _as_python(array: np.ndarray) -> str:
  """Returns an expression for an array's bytes in its shape."""
  data = base64.b64encode(array.astype(np.uint8).tobytes()).decode()
  shape = ", ".join(map(str, array.shape))
  return f'np.frombuffer(base64.b64decode("{data}"), np.uint8).reshape({shape})'
