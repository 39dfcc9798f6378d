"""Links and commands of the pages lead to what there is."""

import importlib
import pathlib
import re
import shlex
from collections.abc import Iterator

import pytest

from scm_jax.cli import configs, main
from scm_jax.defaults import get_defaults
from scm_jax.training import workdir

from .commands import blocks

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
  *ROOT.glob("*.md"),
  *(ROOT / "docs").glob("*.md"),
  ROOT / "examples" / "README.md",
]
LINK = re.compile(r"\]\(([^()\s]+)\)")
# A command that stands for many has an ellipsis, or a name in capitals.
PLACEHOLDER = re.compile(r"\.\.\.|…|TASK|=[^ ]*\b(X|SIZE|TARGET)\b")


def text_of(page: pathlib.Path) -> str:
  """Returns a page without its blocks of code."""
  return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page: pathlib.Path) -> set[str]:
  """Returns the names that links give a page's headings."""
  titles = re.findall(r"^#+ (.*)$", text_of(page), re.M)
  kept = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
  return {title.strip().replace(" ", "-") for title in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for link in LINK.findall(text_of(page)):
    if "://" in link or link.startswith("../../actions/"):  # GitHub's
      continue
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists(), f"{page.name}: {link}"
    if anchor:
      assert anchor in anchors(target), f"{page.name}: {link}"


def commands(page: pathlib.Path) -> Iterator[list[str]]:
  """Yields the words of the `scm-jax` commands in a page's blocks of shell."""
  for block in blocks(page, "sh"):
    for line in block.replace("\\\n", " ").splitlines():
      line = re.sub(r"^(\w+=\S+ )+", "", line)  # variables of the environment
      if line.startswith("scm-jax ") and not PLACEHOLDER.search(line):
        words = shlex.split(line.removesuffix("&"), comments=True)
        yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, monkeypatch, capsys):
  """Their flags exist, and their configs have the fields that they set."""
  monkeypatch.chdir(ROOT)
  # A run of a command before it, which `teacher=` in a config reads.
  transformer = get_defaults("teacher", "dit")
  monkeypatch.setattr(workdir, "load_config", lambda folder: transformer)
  for words in commands(page):
    module = importlib.import_module(main.TASKS[words[0]][0])
    monkeypatch.setattr(module, "run", understand)
    assert main.main(words) == 0, f"{page.name}: {capsys.readouterr().err}"


def understand(args, config_argv):
  """Stands in for a task: loads its config and does nothing."""
  del args
  if config_argv:
    configs.parse_config(config_argv)
