"""Runs one part and prints its results, one JSON object a line.

python -m scm_jax.acceptance.worker < request.json
"""

import importlib
import json
import pathlib
import sys
import traceback

from scm_jax.acceptance.parts import Request


def main() -> int:
  """Answers the request on standard input; the last line of a failure says why.

  Returns:
    1 if the part failed. What it had measured before is printed all the same.
  """
  asked = json.load(sys.stdin)
  module = asked.pop("module")
  request = Request(**asked | {"out": pathlib.Path(asked["out"])})
  try:
    for key, value in importlib.import_module(module).measure(request):
      print(json.dumps({"key": key, "value": value}), flush=True)
  except Exception as error:
    traceback.print_exc()
    text = " ".join(str(error).split())
    print(f"{type(error).__name__}: {text}", flush=True)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
