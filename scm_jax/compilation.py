"""Functions compiled with the options that suit the hardware they run on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

# XLA's CPU compiler hands convolutions, products and sums to the YNNPACK
# library, which leaves cores idle: train steps of small networks take 1.2 to
# 1.4 times as long with it on two cores. BUILD_NOTES.md has the measurements.
_WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def options(platform: str) -> dict[str, str] | None:
  """Returns the compiler's options for `cpu`, `gpu`, `tpu`, …, for `jax.jit`.

  An option that the installed XLA does not have is left out.
  """
  if platform != "cpu":
    return None
  probe = jax.jit(lambda: 0, compiler_options=_WITHOUT_YNNPACK)
  try:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      probe.lower().compile()
  except jax.errors.JaxRuntimeError:  # XLA has no option of this name
    return None
  return _WITHOUT_YNNPACK


@dataclasses.dataclass(frozen=True)
class Jitted:
  """A function that is compiled when it is called, as by `jax.jit`.

  The options of the compiler depend on JAX's default platform, which modules
  may not ask for while they are imported: that would start the devices. Inside
  another jitted function, call `function`: JAX takes a compiler's options for
  whole programs alone.

  Attributes:
    function: a pure function.
    static: names of its arguments that are part of the program.
  """

  function: Callable[..., Any]
  static: tuple[str, ...] = ()

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the function on JAX's default platform."""
    return self.on(jax.default_backend())(*args, **kwargs)

  def on(self, platform: str) -> jax.stages.Wrapped:
    """Returns the function, jitted with a platform's options."""
    return _jit(self.function, self.static, platform)


@functools.cache
def _jit(
  function: Callable[..., Any], static: tuple[str, ...], platform: str
) -> jax.stages.Wrapped:
  chosen = options(platform)
  return jax.jit(function, static_argnames=static, compiler_options=chosen)


def jitted(*static: str) -> Callable[[Callable[..., Any]], Jitted]:
  """Decorates a function to be compiled; `static` names static arguments."""
  return lambda function: Jitted(function, static)
