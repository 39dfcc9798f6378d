"""The model card of an export: a README.md that model hubs understand."""

import importlib.resources
from collections.abc import Mapping
from typing import Any

import jinja2

from scm_jax.interop import autoencoder
from scm_jax.interop.export_folder import Origin
from scm_jax.interop.export_request import Request
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler


def text(
  sampler: Sampler,
  origin: Origin,
  request: Request,
  report: Mapping[str, Any] | None = None,
) -> str:
  """Returns the whole card, from the template `model_card.md`.

  The `report` is the content of `report.json`, if the run was evaluated.
  """
  file = importlib.resources.files("scm_jax.interop").joinpath("model_card.md")
  environment = jinja2.Environment(
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
  )
  network = sampler.network.config
  objective = OBJECTIVES.get(origin.config.get("run", ""))
  classes = network.num_classes
  some = list(range(min(classes, 4)))
  return environment.from_string(file.read_text(encoding="utf-8")).render(
    sampler=sampler,
    network=network,
    family=type(network).__name__,
    origin=origin,
    data=origin.config.get("data", {}),
    description=objective.description if objective else "a network",
    labels=f"{classes} classes" if classes else "no labels",
    call=f"class_labels={some}" if classes else "batch_size=4",
    autoencoder=autoencoder.attached(sampler),
    request=request,
    formats=request.written,
    report=report,
  )
