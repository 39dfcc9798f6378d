"""Sphinx's settings for the documentation site, which launch/docs.sh builds."""

import importlib.metadata
import re

from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxDirective

from scm_jax import networks, objectives
from scm_jax.cli import main

project = "scm_jax"
author = "the authors of scm_jax"
copyright = f"{author}; Apache-2.0"
release = importlib.metadata.version("scm-jax")

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
  "sphinx_copybutton",
  "sphinxcontrib.programoutput",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["plans"]

myst_heading_anchors = 4  # links such as data.md#my-own-arrays
suppress_warnings = ["myst.xref_ambiguous"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
add_module_names = False
autodoc_default_options = {"members": True}
napoleon_use_ivar = True  # attributes are told once, by their class
smartquotes = False  # quoted text is code more often than speech
default_role = "literal"  # docstrings have code in single backticks

html_theme = "furo"
html_title = "scm_jax"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]


class Generated(SphinxDirective):
  """A directive that writes entries of a registry, which so need no list."""

  def run(self):
    text = "\n\n".join(self.entries())
    return self.parse_text_to_nodes(text, allow_section_headings=True)


class Commands(Generated):
  """The help of every task."""

  def entries(self):
    for task in main.TASKS:
      command = f".. command-output:: scm-jax {task} --help"
      yield f"{task}\n{'-' * len(task)}\n\n{command}"


class Options(Generated):
  """The options of every member of a registry, each class once."""

  required_arguments = 1

  def entries(self):
    classes = {
      "objectives": [spec.options for spec in objectives.OBJECTIVES.values()],
      "networks": [family.config for family in networks.FAMILIES.values()],
    }
    for kind in dict.fromkeys(classes[self.arguments[0]]):
      name = f"{kind.__module__}.{kind.__qualname__}"
      yield f".. autoclass:: {name}\n   :no-members:\n   :no-index:"


def skip(app, what, name, member, skip, options):
  """Leaves out what a NamedTuple's fields say of themselves."""
  del app, what, name, options
  alias = (getattr(member, "__doc__", "") or "").startswith("Alias for field")
  return True if alias else skip


def read_markdown(app, what, name, thing, options, lines):
  """Turns what docstrings have of Markdown into reStructuredText, in place.

  An indented block after a blank line is code, and letters may follow a
  backtick, as in `scan`s.
  """
  del app, what, name, thing, options
  result = []
  text = ""  # the last line that was not blank
  for line in lines:
    begins = line.startswith("    ") and result and not result[-1].strip()
    if begins and text and not text.startswith(" "):
      result += ["::", ""]
    result.append(re.sub(r"(?<!`)(`[^`]+`)(?=[a-z])", r"\1\\ ", line))
    text = line if line.strip() else text
  lines[:] = result


def link_files(app, name, source):
  """Lets links to Markdown outside of docs/ lead to the file, not a page."""
  del app, name
  source[0] = re.sub(r"\]\((\.\./\w+\.md)(#[^)]*)?\)", r"](path:\1)", source[0])


def setup(app):
  """Adds the directives, and what reads docstrings."""
  app.add_directive("task-help", Commands)
  app.add_directive("registry-options", Options)
  app.connect("autodoc-skip-member", skip)
  app.connect("source-read", link_files)
  for field in PyObject.doc_field_types:
    if field.name == "variable":  # Napoleon's name of attributes
      field.label = "Attributes"
  # Before Napoleon, which reads what Google's style has.
  app.connect("autodoc-process-docstring", read_markdown, priority=400)
