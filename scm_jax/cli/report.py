"""`scm-jax report`: charts and one page from the reports of many runs."""

import argparse

from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax report --workdir=runs/teacher,runs/scd,runs/sct --out=runs/page
scm-jax report --workdir=runs/miniature --out=runs/miniature/page
scm-jax report --report=s/report.json,xl/report.json --published=imagenet64 \\
    --out=page"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the task's flags."""
  parser.add_argument(
    "--workdir",
    metavar="DIR,DIR,...",
    default="",
    help="evaluated runs, each with its report.json; or a sweep's folder",
  )
  parser.add_argument(
    "--report",
    metavar="FILE,...",
    default="",
    help="reports by name, as evaluate --out=DIR writes them",
  )
  parser.add_argument(
    "--out", metavar="DIR", required=True, help="where charts and page go"
  )
  parser.add_argument(
    "--published",
    metavar="NAME|FILE",
    default="imagenet512",
    help="figures of other methods: imagenet512, imagenet64, cifar10, none, "
    "or a .csv with the columns of the package's; default imagenet512",
  )
  parser.add_argument(
    "--features",
    metavar="NAME,...",
    default="",
    help="feature spaces of the charts; default the first but pixels",
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Writes the report and prints where its files are."""
  workdirs, reports, features = (
    list(dict.fromkeys(filter(None, text.split(","))))
    for text in (args.workdir, args.report, args.features)
  )
  if not (workdirs or reports):
    raise ConfigError("which runs? give --workdir=DIR,... or --report=FILE,...")

  from scm_jax.reporting import combined_report

  written = combined_report.write(
    workdirs, reports, args.out, args.published, features
  )
  for note in written.missing:
    print(f"note: {note}")
  count = len(written.rows)
  print(f"{count} row{'s' * (count > 1)}: {', '.join(written.files)}")
  return 0
