"""Measures how well low precision keeps the tangent of a trained sCD student.

    python examples/tangent_precision.py --workdir=runs/scd

prints the error of the tangent against float32's, by time, for each type and
precision that `config.network.dtype`, `config.network.precision` and
`config.network.last_float32` (or `config.objective.tangent_dtype` and
`tangent_precision`, for a tangent with a pass of its own) can name. For
each time the table has two numbers: the median over samples of a sample's
relative error, and the error of the mean over samples relative to that mean,
which shows a bias.

Products in less than float32 are emulated, so that a CPU shows what a TPU or a
GPU does: their operands are rounded, and split into two bfloat16 numbers where
the hardware does so. The sums of products are float32.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core

from scm_jax.data import pipeline, sources
from scm_jax.errors import UserError
from scm_jax.objectives import OBJECTIVES, Point, Student
from scm_jax.reporting import tables
from scm_jax.training import objective, program, resolve, workdir

TIMES = (0.05, 0.2, 0.63, 1.1, 1.47)


class Row(NamedTuple):
  """A way to compute the tangent.

  Attributes:
    name: the name of the table's row.
    dtype: type in which the student and the teacher compute.
    precision: precision of their products.
    late: number of blocks at the end that compute in float32.
    hardware: the hardware whose products are emulated, `tpu` or `gpu`.
    weights: type in which the teacher's weights are kept.
  """

  name: str
  dtype: str
  precision: str = "highest"
  late: int = 0
  hardware: str = "tpu"
  weights: str = "float32"


ROWS = (
  Row("bfloat16", "bfloat16"),
  Row("bfloat16, last 4 blocks float32", "bfloat16", late=4),
  Row("bfloat16, last 12 blocks float32", "bfloat16", late=12),
  Row("float16", "float16"),
  Row("float16, last 4 blocks float32", "float16", late=4),
  Row("float32 of one bfloat16 product", "float32", "default"),
  Row("float32 of three bfloat16 products", "float32", "high"),
  Row("float32 of TensorFloat-32", "float32", "high", hardware="gpu"),
  Row("float32, teacher's weights float16", "float32", weights="float16"),
  Row("float32, teacher's weights bfloat16", "float32", weights="bfloat16"),
)


def rounded(x: Array, mantissa: int) -> Array:
  """Rounds float32 numbers to fewer bits of mantissa, to nearest even."""
  return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=mantissa)


def product(multiply: Callable, a: Array, b: Array, kind: str) -> Array:
  """Computes a float32 product as the hardware does."""
  if kind == "tf32":
    return multiply(rounded(a, 10), rounded(b, 10))
  a_high, b_high = rounded(a, 7), rounded(b, 7)
  if kind == "bf16":
    return multiply(a_high, b_high)
  a_low, b_low = rounded(a - a_high, 7), rounded(b - b_high, 7)
  small = multiply(a_low, b_high) + multiply(a_high, b_low)
  return multiply(a_high, b_high) + small


def kind_of(given: Any, hardware: str) -> str | None:
  """Returns how products of a precision are emulated; None is float32."""
  given = given[0] if isinstance(given, tuple) else given
  if given == lax.Precision.HIGHEST:
    return None
  if hardware == "gpu":
    return "tf32"
  return "bf16x3" if given == lax.Precision.HIGH else "bf16"


def emulated(f: Callable, hardware: str) -> Callable:
  """Returns `f` with its float32 products computed as on a TPU or a GPU."""

  def call(*args):
    closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
    leaves = jax.tree.leaves(args)
    found = evaluate(closed.jaxpr, closed.consts, leaves, hardware)
    return jax.tree.unflatten(jax.tree.structure(shape), found)

  return call


def evaluate(jaxpr: Any, consts: Any, args: Any, hardware: str) -> list[Any]:
  """Evaluates a program, with its products emulated as `kind_of` says."""
  values = dict(zip(jaxpr.constvars, consts, strict=True))
  values |= dict(zip(jaxpr.invars, args, strict=True))

  def read(v):
    return v.val if isinstance(v, core.Literal) else values[v]

  for equation in jaxpr.eqns:
    inputs = [read(v) for v in equation.invars]
    results = apply(equation, inputs, hardware)
    values |= dict(zip(equation.outvars, results, strict=True))
  return [read(v) for v in jaxpr.outvars]


def apply(equation: Any, inputs: list[Any], hardware: str) -> list[Any]:
  """Returns the results of one operation."""
  bind = functools.partial(equation.primitive.bind, **equation.params)
  inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
  if inner is not None:
    body = getattr(inner, "jaxpr", inner)
    consts = getattr(inner, "consts", ())
    return evaluate(body, consts, inputs, hardware)
  if equation.primitive.name in ("dot_general", "conv_general_dilated"):
    kind = kind_of(equation.params["precision"], hardware)
    if kind and all(x.dtype == jnp.float32 for x in inputs):
      return [product(bind, *inputs, kind)]
  found = bind(*inputs)
  return found if equation.primitive.multiple_results else [found]


def batch(config: Any, count: int) -> Any:
  """Draws data, noise and condition of `count` samples, as training does."""
  source = sources.open_source(config.data)
  stream = pipeline.Batches(source, batch_size=count, seed=1)
  images, key = next(iter(stream.iterate(0))), jax.random.key(1)
  return objective.draw_batch(resolve.resolve(config), images, key)


def norm(x: np.ndarray, axis: Any = None) -> np.ndarray:
  """Returns Euclidean norms over some axes, or over all."""
  return np.sqrt(np.sum(np.square(x), axis=axis))


def relative(g: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
  """Returns the median error of a sample and the mean's error, in per cent."""
  axes = tuple(range(1, g.ndim))
  samples = norm(g - exact, axes) / norm(exact, axes)
  mean = norm((g - exact).mean(0)) / norm(exact.mean(0))
  return 100 * float(np.median(samples)), 100 * float(mean)


def measure(folder: str, count: int) -> Callable[[Row], np.ndarray]:
  """Returns a function that computes the tangents of a student in some way.

  Args:
    folder: workdir of an sCD student.
    count: number of samples at each time.

  Returns:
    A function from a `Row` to tangents `[len(TIMES), count, ...]`.

  Raises:
    UserError: the run takes no tangent along a teacher's velocity.
  """
  student, about = workdir.load(folder)
  config = about["config"].copy_and_resolve_references()
  if OBJECTIVES[config.run].tangent is None or not config.teacher:
    raise UserError(
      f"{folder} is a run of {config.run!r}, which has no tangent or no "
      "teacher; give one of scd"
    )
  teacher, _ = workdir.load(config.teacher, config.teacher_ema)
  networks = objective.Networks(
    student.network, teacher.network, teacher.guidance_network
  )
  draws, options = batch(config, count), resolve.resolve(config).objective
  spec = OBJECTIVES[config.run]

  def tangents(row: Row) -> np.ndarray:
    given = networks.cast(row.dtype, row.precision, row.late)
    config.teacher_dtype = row.weights
    weights = program.cast_teacher(config, teacher.weights)

    def at(params, weights, t):
      point = Point(draws["x0"], draws["z"], t, draws["cond"])
      velocity = objective.velocity_of(resolve.resolve(config), given, weights)
      network = Student(given.student.F, given.student.w)
      done = max(options.warmup_steps, 1)  # after the warm-up
      return spec.tangent(network, params, point, velocity, options, done)

    run = jax.jit(emulated(at, row.hardware))
    times = [jnp.full(count, t, jnp.float32) for t in TIMES]
    found = [run(student.params, weights, t) for t in times]
    return np.asarray(found, np.float64)

  return tangents


def main() -> None:
  """Prints the table, each row as soon as it is measured."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--workdir", required=True, help="workdir of an sCD student"
  )
  parser.add_argument(
    "--num", type=int, default=128, help="number of samples at each time"
  )
  args = parser.parse_args()
  try:
    tangents = measure(args.workdir, args.num)
  except UserError as error:  # such as a run on arrays, which are not here
    parser.exit(1, f"{parser.prog}: {error}\n")
  exact = tangents(Row("float32", "float32"))
  print(tables.line(["tangent in", *(f"t = {t}" for t in TIMES)]))
  print(tables.line(["---"] * (len(TIMES) + 1)))
  sizes = np.sqrt(np.square(exact).mean(axis=tuple(range(1, exact.ndim))))
  print(tables.line(["RMS of g", *(f"{size:.4f}" for size in sizes)]))
  for row in ROWS:
    found = map(relative, tangents(row), exact)
    cells = [f"{sample:.2g} %, {mean:.2g} %" for sample, mean in found]
    print(tables.line([row.name, *cells]), flush=True)


if __name__ == "__main__":
  main()
