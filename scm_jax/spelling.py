"""The end of an error message about a name that does not exist.

Every place that looks a user's word up (tasks, flags, config fields, choices)
answers a miss in the same way: with the nearest real name, else with the list.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str | None:
  """The entry of `names` that `name` most likely meant, or None."""
  found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
  return found[0] if found else None


def hint(name: str, names: Iterable[str], what: str = "choose from") -> str:
  """`did you mean 'x'?`, else `{what} a, b, c` for a word far from all."""
  names = list(names)
  found = nearest(name, names)
  return f"did you mean {found!r}?" if found else f"{what} {', '.join(names)}"
