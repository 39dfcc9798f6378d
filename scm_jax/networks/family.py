"""What the rest of the house knows of a family of networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from scm_jax import trigflow
from scm_jax.networks.config import NetworkConfig

# Of a parameter, such as ("denoiser", "conv_in", "bias").
Path = tuple[str, ...]


class Constraint(NamedTuple):
  """A surface in the space of a network's parameters.

  Attributes:
    apply: puts parameters on the surface: `apply(params, eps=0.0) -> params`.
      It is applied after each update, and to every average of parameters
      before it is used.
    project: removes from a gradient what points off the surface:
      `project(gradient, params) -> gradient`.
  """

  apply: Callable[..., Any]
  project: Callable[[Any, Any], Any]


def _unchanged(tree: Any, *_: Any, **__: Any) -> Any:
  """Returns its first argument."""
  return tree


FREE = Constraint(_unchanged, _unchanged)  # no constraint at all


class Forms(NamedTuple):
  """How a family's two forms, sCM's and the published one, are related.

  Layers are named by the third part of their parameters' paths.

  Attributes:
    convert: makes a published network TrigFlow's: `convert(network, sigma_d)`.
    time_layers: the layers that read features of the time, which differ.
    modulation: the layers that only one of the forms may have.
    sign: the start of the paths of parameters that alone turn the output's
      sign, by which the forms differ; () where a network of one form cannot
      start from one of the other.
    added: names of parameters that a network may lack from which another one
      starts, which then draws them.
    same: fields of the config that change what the same parameters compute, so
      that only an adaptation starts from a network that has others.
  """

  convert: Callable[..., Any] = trigflow.network_from_edm

  time_layers: frozenset[str] = frozenset()
  modulation: frozenset[str] = frozenset()
  sign: Path = ()
  added: frozenset[str] = frozenset()
  same: tuple[str, ...] = ()


class Family(NamedTuple):
  """A kind of network, as an entry of the registry `networks.FAMILIES`.

  Attributes:
    config: the class of its configs, whose options are the fields that
      `config.network` has for it.
    module: the class of its Linen modules, which take a config.
    constraint: where the optimiser keeps its weights.
    forms: how a network of one form starts from one of another.
    fold: computes from a module's parameters, once for many evaluations, what
      its layers would compute from them in each: `fold(config, params,
      platform, batch) -> params`, for `batch` images of a device at once. The
      module takes either and gives the same output. None is nothing.
  """

  config: type[NetworkConfig]
  module: Callable[..., nn.Module]
  constraint: Constraint = FREE
  forms: Forms = Forms()
  fold: Callable[[Any, Any, str, int], Any] | None = None
