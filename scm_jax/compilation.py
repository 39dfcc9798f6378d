"""Functions compiled with the options that suit the hardware they run on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# XLA's CPU compiler hands convolutions, products and sums to the YNNPACK
# library, which leaves cores idle: train steps of small networks take 1.2 to
# 1.4 times as long with it on two cores. BUILD_NOTES.md has the measurements.
_WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}
# It also removes barriers, by which `stored` works, before it fuses operations.
_WITH_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# LLVM's level for programs that take longer to compile than to run. They keep
# YNNPACK, so that the first weights of a seed stay what they were.
_QUICKLY = {"xla_backend_optimization_level": "1"}


@functools.cache
def options(
  platform: str, storing: bool = False, once: bool = False
) -> dict[str, str] | None:
  """Returns the compiler's options for `cpu`, `gpu`, `tpu`, …, for `jax.jit`.

  An option that the installed XLA does not take is left out.

  Args:
    platform: that the program is for.
    storing: whether `stored` has an effect. Programs with gradients gain by it,
      others do not.
    once: whether the program runs only once, so that the time to compile it
      counts.
  """
  if platform != "cpu":
    return None
  wanted = _QUICKLY if once else _WITHOUT_YNNPACK
  if storing:
    wanted = wanted | _WITH_BARRIERS
  return {k: v for k, v in wanted.items() if _is_taken(k, v)} or None


def _is_taken(option: str, value: str) -> bool:
  """Returns whether XLA compiles for CPUs with this option."""
  probe = jax.jit(
    lambda: lax.optimization_barrier(0), compiler_options={option: value}
  )
  try:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      probe.lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


_keep = Primitive("keep")
_keep.def_impl(lambda x: x)
_keep.def_abstract_eval(lambda x: x)
ad.deflinear2(_keep, lambda cotangent, _: [_keep.bind(cotangent)])
batching.defvectorized(_keep)
mlir.register_lowering(_keep, lambda _, x: [x])
mlir.register_lowering(
  _keep,
  mlir.lower_fun(lax.optimization_barrier, multiple_results=False),
  platform="cpu",
)


@jax.custom_jvp
def stored(x: Array) -> Array:
  """Returns `x`, which train steps on CPUs compute once and keep in memory.

  Without it XLA's CPU compiler repeats a chain of element-wise operations in
  each loop that reads its result, such as the copies that turn features around
  for a convolution's gradient by its weight. Train steps of small networks
  take up to 1.3 times as long then. Derivatives are stored, too. Programs
  without derivatives, those that are compiled without `options(…,
  storing=True)`, and those for other platforms, are as if this were not there.
  """
  return x


@stored.defjvp
def _keep_both(
  primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
  (x,), (tangent,) = primals, tangents
  return _keep.bind(x), _keep.bind(tangent)


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
