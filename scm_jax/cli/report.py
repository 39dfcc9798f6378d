"""`scm-jax report`: charts and one page from the reports of many runs."""

import argparse

from scm_jax.cli import flags
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax report --workdir=runs/teacher,runs/scd,runs/sct --out=runs/page
scm-jax report --workdir=runs/miniature --out=runs/miniature/page
scm-jax report --report=s/report.json,xl/report.json --published=imagenet64 \\
    --out=page"""

FLAGS = {
  "--workdir=DIR,DIR,...": "evaluated runs, or the folder of a sweep of them",
  "--report=FILE,...": "reports by name, as evaluate --out=DIR writes them",
  "--out=DIR": "where charts and page go",
  "--published=NAME|FILE": "figures of other methods: imagenet512, imagenet64, "
  "cifar10, none, or a .csv with the columns of the package's; default "
  "imagenet512",
  "--features=NAME,...": "charted feature spaces; default the first but pixels",
}
add_arguments = flags.adder(
  FLAGS, ["out"], workdir=(), report=(), features=(), published="imagenet512"
)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes the report and prints where its files are."""
  if not (args.workdir or args.report):
    raise ConfigError("which runs? give --workdir=DIR,... or --report=FILE,...")
  workdirs, reports, features = (
    list(dict.fromkeys(words))
    for words in (args.workdir, args.report, args.features)
  )

  from scm_jax.reporting import combined_report

  written = combined_report.write(
    workdirs, reports, args.out, args.published, features
  )
  for note in written.missing:
    print(f"note: {note}")
  count = len(written.rows)
  print(f"{count} row{'s' * (count > 1)}: {', '.join(written.files)}")
