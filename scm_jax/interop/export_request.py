"""The choices of an export, with the standard library alone."""

import dataclasses

FORMATS = ("safetensors", "stablehlo", "diffusers", "onnx")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Request:
  """What an export contains."""

  formats: tuple[str, ...] = FORMATS[:3]  # `safetensors` is always written
  # One of `DTYPES`, in which the parameters are stored and the network
  # computes; "" stores float32 and computes as in training.
  dtype: str = ""
  # The StableHLO samplers' numbers of steps; none is 1, 2 and 4, or a diffusion
  # model's own number.
  steps: tuple[int, ...] = ()
  bake: bool = False  # whether the StableHLO programs hold the parameters
  license: str = "unknown"  # that the model card names
  name: str = "scm"  # the title of the model card
  num: int = 40  # samples in the model card's grid; 0 is no grid

  @property
  def written(self) -> tuple[str, ...]:
    """The formats that are written, in the order of `FORMATS`."""
    return tuple(f for f in FORMATS if f == FORMATS[0] or f in self.formats)
