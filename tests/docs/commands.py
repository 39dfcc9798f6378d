"""The blocks of code of a page, and their commands."""

import re
import shlex


def blocks(page, language):
  """Returns the blocks of code in a language, of a page in Markdown."""
  return re.findall(
    rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S
  )


def commands(page):
  """Yields the words of each command of the page's shell blocks."""
  for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
    if words := shlex.split(line, comments=True):
      yield words
