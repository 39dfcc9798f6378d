"""Makes `reference.json`, on a CPU and from the repository's root.

JAX_PLATFORMS=cpu python -m scm_jax.acceptance.reference
"""

import importlib
import json
import pathlib
from typing import Any

from scm_jax import configuration, defaults
from scm_jax.acceptance import correctness, parts, runs
from scm_jax.objectives import OBJECTIVES


def main() -> None:
  """Writes the configs, and then the results, which need the configs."""
  content = {"configs": configs(), "results": {}}
  _write(content)
  runs.reference.cache_clear()
  content["results"] = dict(correctness.reference())
  _write(content)


def configs() -> dict[str, dict[str, Any]]:
  """Returns what differs from the defaults in each run that is measured."""
  digits = [
    runs.digits(name, tiny) for name in OBJECTIVES for tiny in (False, True)
  ]
  imagenet = [
    runs.imagenet(name, size, tiny) + on
    for name in OBJECTIVES
    for size in parts.SIZES
    for tiny in (False, True)
    for on in ("", ",on=tpu")
    if not tiny or size == parts.SIZES[0]
  ]
  return {name: _changed(name) for name in digits + imagenet}


def _changed(name: str) -> dict[str, Any]:
  """Returns the run of a config, and its fields that are no defaults of it.

  They have dotted names.
  """
  path, _, argument = name.partition(":")
  module = ".".join(pathlib.PurePath(path).with_suffix("").parts)
  config = importlib.import_module(module).get_config(argument)
  usual = configuration.flatten(defaults.get_defaults(config.run))
  given = configuration.flatten(config)
  changed = {k: v for k, v in given.items() if v != usual[k]}
  return {"run": config.run} | changed


def _write(content: dict[str, Any]) -> None:
  """Writes one line for each config and each result."""
  sections = []
  for name, entries in content.items():
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
    sections.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
  runs.REFERENCE.write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
  main()
