"""`scm-jax evaluate`: scores workdirs or images, and writes a report."""

import argparse
import signal

from scm_jax.cli import flags, platforms
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax evaluate --workdir=runs/digits/scd --steps=1,2
scm-jax evaluate --out=runs/digits \\
    --workdir=runs/digits/teacher,runs/digits/scd,runs/digits/sct
scm-jax evaluate --workdir=runs/scd --features=inception --seeds=0,1,2 \\
    --weights=inception=pt_inception-2015-12-05-6726825d.pth \\
    --reference=img512.pkl --num=50000 --guidance=1,1.4,2 --ema=0.05,0.1
scm-jax evaluate --images=pictures --reference=cifar10 --out=scores
scm-jax evaluate --workdir=runs/scd --then=runs/teacher --out=which_step"""

FLAGS = {
  "--workdir=DIR,DIR,...": "workdirs of trained runs, in the report's order",
  "--images=DIR|FILE": "images to score in place of workdirs: a folder or .zip "
  "of PNG or JPEG files, or an .npz (arr_0 or samples) or .npy of uint8 "
  "[N, H, W, C]; needs --reference",
  "--then=DIR": "a second network, to see which part of sampling is to be "
  "mended: samples of --workdir, of this one, and real images are noised to "
  "--t-mid, and each network finishes all of them. Students take one step a "
  "part, teachers their solver's; needs --out",
  "--steps=N,...": "numbers of steps of students' samplers; default 1,2",
  "--teacher-steps=N,...": "numbers of steps of teachers' solvers; default the "
  "config's and 1. N steps of Heun are 2N-1 network evaluations",
  "--num=N": "images for each run and seed; default as many as the reference "
  "has, at most 50000; of --images all",
  "--guidance=SCALE,...": "guidance scales, for networks that take one; of a "
  "student also one for each step, as 1.3:1.0, where it takes so many; default "
  "each config's",
  "--ema=SIGMA_REL,...": "EMA widths, as in sample; default the config's first",
  "--t-mid=T,...": "second times of students' samplers, 0 for steps of equal "
  "length; default each config's",
  "--times=TIMES,...": "times of all steps after the first, as 1.1,1.1:0.5 for "
  "students' samplers of two and of three steps; default by --t-mid",
  "--gamma=PART,...": "parts of flow maps' noise that are fresh in each step; "
  "default each config's. Of several scales, EMA widths, times or parts, the "
  "best combination is selected on --select-num images of another seed, and "
  "reported on fresh ones",
  "--select-num=N": "images to select by; default 0, as many as are reported. "
  "With fewer, --select-by=fd favours candidates that vary less",
  "--select-by=SCORE": "score to select by, such as fd, the Fréchet distance "
  "(the default), or kid, the kernel distance, which few images do not bias",
  "--features=NAME,...": "feature extractors, such as classifier (trained on "
  "the data), pixels, inception or dinov2; docs/evaluation.md lists all",
  "--weights=NAME=FILE,...": "weights of published feature networks, as "
  "inception=FILE,dinov2=FILE",
  "--keep=N": "images whose features are compared one by one, for KID, "
  "precision, recall, density and coverage; default 10000",
  "--batch-size=N": "images at once on all devices; default each config's",
  "--save-every=N": "batches between two saves of partial statistics, from "
  "which a killed evaluation resumes; default 16",
  "--cache=DIR": "folder of trained classifiers and reference statistics; "
  "default OUT/features",
  "--out=DIR": "folder of the report; default the first workdir; --images "
  "needs one",
  "--labels=MODE": "classes of the samples: random, as for published "
  "distances; balanced, each as often as any other (formerly uniform); or "
  "data, each as often as in the reference; default random",
  **flags.GUIDE,
  **flags.SAMPLER,
  **flags.DTYPE,
  "--reference=NAME[:SPLIT]|FILE": "a dataset; or statistics in EDM2's .pkl or "
  "pytorch-fid's or ADM's .npz; or images in an .npz or .npy; empty is the "
  "training data; default config.evaluate.reference of the first workdir",
  "--autoencoder=FILE": "for networks of latents, the autoencoder that decodes "
  "samples; default each workdir's own, empty for a preview",
  "--seeds,--seed=N,...": "seeds of the samples; for several, mean, standard "
  "deviation and minimum are reported",
  "--allow-few": "compute Fréchet distances of fewer images than features",
  "--save-samples": "keep the images, as OUT/samples/*.npy",
}
_EMPTY = ("teacher_steps", "guidance", "t_mid", "times", "gamma", "weights")
add_arguments = flags.adder(FLAGS, **dict.fromkeys(_EMPTY, ()))
# The flags of how a network draws, which images from elsewhere do not have.
_DRAWING = (
  "then steps teacher_steps guidance ema guide t_mid times gamma select_num "
  "select_by labels solver sigma_max guidance_interval guidance_channels "
  "dtype autoencoder save_samples"
).split()


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Evaluates; prints the table of scores and where the report is."""
  _check_subject(args)
  flags.check(args, "steps", "teacher_steps", "save_every", least=1)
  flags.check(args, "num", "guidance", "ema", "t_mid", "select_num", least=0)
  flags.check(args, "batch_size", "seeds", least=0)
  # Coverage looks at the fifth neighbour of each.
  flags.check(args, "keep", least=6)
  flags.check_times(*args.t_mid)
  flags.check_parts(*args.gamma)
  for times in args.times:
    flags.check_steps_times(times)
  if args.select_num == 1:
    raise ConfigError("--select-num is 1; it must be at least 2, or 0 for all")
  changes = tuple(flags.sampler_changes(args).items())
  weights = tuple(tuple(text.split("=", 1)) for text in args.weights)
  if not all(len(pair) == 2 and all(pair) for pair in weights):
    raise ConfigError("--weights: give NAME=FILE, as inception=FILE")

  import jax
  from etils import epath

  from scm_jax.evaluation import evaluate, labels, request
  from scm_jax.reporting import tables
  from scm_jax.training import workdir
  from scm_jax.training.processes import startup

  default = "" if args.images else "random"
  args.labels = args.labels or default
  if args.labels:
    args.labels = labels.resolve_mode(args.labels)
  question = flags.build(
    request.Request,
    args,
    grid=flags.build(request.CandidateGrid, args, workdirs=args.workdir or ()),
    networks=flags.build(request.NetworkOptions, args, changes=changes),
    protocol=flags.build(request.Protocol, args),
    weights=weights,
  )
  runtime = flags.build(request.RuntimeOptions, args)
  out = epath.Path(args.out or workdir.results_folder(args.workdir[0]))
  with startup.together("evaluate"):
    platforms.announce()
    if jax.process_count() > 1:
      # JAX catches it there. Nothing need be saved: the statistics are on disk.
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
    result = evaluate.evaluate(question, out, runtime)
    if startup.is_main():
      print(tables.evaluation(result))
      print(f"report: {out / 'report.json'} and {out / 'report.png'}")


def _check_subject(args: argparse.Namespace) -> None:
  """Raises ConfigError unless either workdirs or images are to be scored."""
  if bool(args.workdir) == bool(args.images):
    raise ConfigError("give either --workdir or --images, what is to be scored")
  if args.then and args.workdir:
    _check_then(args)
  if not args.images:
    return
  if not args.out:
    raise ConfigError("--images needs --out=DIR, the folder of the report")
  given = [
    name for name in _DRAWING if getattr(args, name) not in (None, (), False)
  ]
  if len(args.seeds or ()) > 1:
    given.append("seeds")
  if given:
    raise ConfigError(
      f"{flags.word(given[0])} says how a network draws samples, and --images "
      "are drawn already; leave it out"
    )


def _check_then(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags that do not go with two networks."""
  if len(args.workdir) > 1:
    raise ConfigError(
      "--then goes with one --workdir; give the one that begins"
    )
  if not args.out:
    raise ConfigError("--then needs --out=DIR, the folder of the report")
  for name in ("steps", "gamma", "select_num", "select_by"):
    if getattr(args, name) not in (None, ()):
      flag = flags.word(name)
      raise ConfigError(f"{flag} has no use with --then; leave it out")
  for name in ("teacher_steps", "guidance", "ema", "t_mid"):
    if len(getattr(args, name) or ()) > 1:
      flag = flags.word(name)
      raise ConfigError(f"{flag} has several values; give one with --then")
