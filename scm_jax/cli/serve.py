"""`scm-jax serve`: a page that draws as one moves sliders, and an HTTP API."""

import argparse

from scm_jax.cli import flags, platforms
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax serve
scm-jax serve --workdir=runs/digits/teacher,runs/digits/scd --port=8080"""

FLAGS = {
  "--workdir=DIR,DIR,...": "workdirs of trained runs, checkpoints or exports; "
  "the default is the exports that come with the package",
  "--port=N": "the port; 0 takes one that is free; default 8000",
  "--host=ADDRESS": "the address to listen at; any but this machine's own "
  "needs the token that is printed; default 127.0.0.1",
  "--compiled=DIR": "folder that keeps compiled programs, which only you may "
  "write into; the next start need not compile them",
  "--no-browser": "do not open the page",
}

add_arguments = flags.adder(FLAGS)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Serves until the process is interrupted."""
  flags.check(args, "port", least=0)
  if args.host == "":
    raise ConfigError("--host is empty; give an address, such as 127.0.0.1")
  platforms.announce()

  from scm_jax.serving import server

  browser = not args.no_browser
  server.serve(flags.build(server.Options, args, browser=browser))
