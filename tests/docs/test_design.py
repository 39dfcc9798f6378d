"""The rooms import each other as docs/design.md says."""

import ast
import graphlib
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "scm_jax"


def floors() -> dict[str, int]:
  """Returns the floor of each room in the page's table."""
  text = (ROOT / "docs" / "design.md").read_text()
  rows = re.findall(r"^\| (\d) \| (.*?) \|", text, re.M)
  return {
    room: int(floor)
    for floor, rooms in rows
    for room in re.findall(r"`(\w+)`", rooms)
  }


def room_of(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> Iterator[str]:
  """Yields the rooms that a module imports, in functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    names = []
    if isinstance(node, ast.ImportFrom) and node.module:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    for name in names:
      package, _, rest = name.partition(".")
      if package == "scm_jax" and rest:
        yield rest.partition(".")[0]


def test_every_room_is_on_a_floor():
  """The package's own two modules are above all."""
  assert floors().keys() == {
    room_of(path) for path in PACKAGE.rglob("*.py")
  } - {"__init__", "__main__"}


def test_imports_go_down_and_never_in_a_circle():
  floor, edges = floors(), {}
  for path in PACKAGE.rglob("*.py"):
    if (room := room_of(path)) in floor:
      edges.setdefault(room, set()).update(set(imported(path)) - {room})
  for room, others in edges.items():
    for other in others:
      assert floor[other] <= floor[room], f"{room} imports {other}"
  assert list(graphlib.TopologicalSorter(edges).static_order())
