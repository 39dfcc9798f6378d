"""`scm-jax export`: writes a trained network for other programs."""

import argparse
import contextlib
import json
import logging
import pathlib

from scm_jax import errors
from scm_jax.cli import flags
from scm_jax.errors import ConfigError
from scm_jax.interop.export_request import FORMATS, Request

EXAMPLE = """\
scm-jax export --workdir=runs/digits/scd --out=exports/digits
scm-jax export --workdir=runs/digits/scd --out=exports/digits-bf16 \\
    --dtype=bfloat16 --formats=safetensors,diffusers,onnx --license=mit"""

FLAGS = {
  "--workdir=DIR": "workdir of a trained run, its checkpoint, or an export",
  "--out=DIR": "the folder that is written",
  "--formats=NAME,...": f"formats out of {', '.join(FORMATS)}; safetensors is "
  "always written; the default is all that the network has but onnx, which "
  "needs PyTorch",
  **flags.EMA,
  **flags.AUTOENCODER,
  **flags.DTYPE,
  "--steps=N,...": "numbers of steps of the StableHLO samplers; the default is "
  "1,2,4 for a consistency model and the config's for a diffusion model",
  "--bake": "put the weights into the StableHLO programs",
  "--num=N": "samples in the model card's grid; default 40, 0 for none",
  "--license=NAME": "the model card's licence by a hub's name, as apache-2.0",
  "--name=NAME": "title of the model card; the default is the folder's name",
}
add_arguments = flags.adder(
  FLAGS, ["workdir", "out"], formats=(), ema=0.0, steps=()
)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Writes the export, whole or not at all."""
  for name in args.formats:
    if name not in FORMATS:
      near = errors.hint(name, FORMATS)
      raise ConfigError(f"--formats: no format {name!r}; {near}")
  flags.check(args, "steps", least=1)
  flags.check(args, "num", least=0)
  if "://" in args.out:
    raise ConfigError(
      f"--out={args.out}: an export is written to a local disk; choose a local "
      "folder, and copy it afterwards"
    )

  from scm_jax import configuration, networks
  from scm_jax.interop import export, export_pytorch
  from scm_jax.training import workdir

  sampler, about = workdir.load(args.workdir, args.ema, args.autoencoder)
  config = json.loads(configuration.to_json(about["config"]))
  origin = export.Origin(
    config, about["step"], about["ema"], about.get("source", {})
  )
  formats = args.formats or FORMATS[:3]
  if not (args.formats or export_pytorch.fits(sampler)):
    formats = FORMATS[:2]
    family = networks.family_name(sampler.network.config)
    logging.warning(
      f"diffusers is left out: no PyTorch code is there for {family} that is "
      f"sampled as a {sampler.kind} model"
    )
  name = args.name or pathlib.Path(args.out).absolute().name
  request = flags.build(Request, args, formats=formats, name=name)
  report = None
  run = workdir.results_folder(args.workdir)
  with contextlib.suppress(OSError, ValueError):  # it was not evaluated
    report = json.loads((run / "report.json").read_text())
    report = export.scores(report, origin, str(run))
    if report is None:
      logging.warning(
        "the export has no scores: report.json has none of these weights "
        f"(step {origin.step}, EMA {origin.ema}); scm-jax evaluate makes them"
      )
  out = export.write(sampler, origin, args.out, request, report)
  for path in sorted(p for p in out.rglob("*") if p.is_file()):
    print(f"{path.stat().st_size:>12,}  {path}")
