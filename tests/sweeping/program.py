"""Stands in for `scm-jax train` and `evaluate`: instant, and logs its calls."""

import json
import os
import pathlib
import signal
import sys
import time

argv = sys.argv[1:]
flags = dict(word[2:].partition("=")[::2] for word in argv[1:])
with open(os.environ["CALLS"], "a") as file:
  file.write(" ".join(argv) + "\n")


def train():
  folder = pathlib.Path(flags["workdir"])
  folder.mkdir(parents=True, exist_ok=True)
  if folder.name == os.environ.get("FAIL"):
    print("scm-jax train: diverged by step 2\n\n")
    sys.exit(1)
  if folder.name == os.environ.get("HANG"):

    def save(*_):
      (folder / "checkpoints" / "1").mkdir(parents=True)
      sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    (folder / "hangs").touch()
    time.sleep(60)
  # One that is being written is no checkpoint.
  (folder / "checkpoints" / "9.tmp").mkdir(parents=True)
  (folder / "checkpoints" / "3").mkdir()


def evaluate():
  """Distances that depend on the folder alone: c, the seed and the steps."""
  runs = []
  for path in flags["workdir"].split(","):
    name = pathlib.Path(path).name
    seed, teacher = int(name[-1]), name.startswith("teacher")
    c = 0.0 if teacher else float(name.split("tangent_c=")[1].split("_")[0])
    counts = "32,1" if teacher else flags["steps"]
    for steps in map(int, counts.split(",")):
      fd = (1.0 if steps == 32 else 3.0 + c / steps) + seed
      fd += float(flags.get("t-mid", 0))
      runs.append(
        {
          "name": name,
          "workdir": path,
          "objective": "teacher" if teacher else "scd",
          "steps": steps,
          "nfe": 2 * steps - 1 if teacher else steps,
          "params": 1000,
          "fd": {"classifier": fd, "pixels": 2 * fd},
          "precision": {"classifier": 0.5},
          "training_step": 2 if name == os.environ.get("DAMAGED") else 3,
        }
      )
  out = pathlib.Path(flags["out"])
  out.mkdir(parents=True, exist_ok=True)
  (out / "report.json").write_text(json.dumps({"runs": runs}))


{"train": train, "evaluate": evaluate}[argv[0]]()
