"""The wheel and the sdist work outside of the repository."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Files of the repository's own that an sdist need not hold.
LEFT_OUT = {".git", ".venv", ".cache", "runs", "build", "dist"}
# Without the repository on the path.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
SMALL = ("channel_mult=(1,)", "num_blocks=1", "channels=8")


def call(command: list[str]) -> None:
  done = subprocess.run(
    command, env=ENVIRONMENT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> pathlib.Path:
  """A folder with the sdist, and the wheel that was built from it."""
  folder = tmp_path_factory.mktemp("dist")
  command = [sys.executable, "-m", "build", "--no-isolation"]
  call([*command, f"--outdir={folder}", str(ROOT)])
  return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> pathlib.Path:
  """The programs of a new environment with the wheel.

  It finds scm_jax's dependencies where this process does, by a `.pth` file,
  which the interpreter follows without those that lie there: the repository is
  not found.
  """
  folder = tmp_path_factory.mktemp("venv")
  venv.create(folder, symlinks=True)
  programs = folder / "bin"
  (wheel,) = dist.glob("*.whl")
  pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
  call([*pip, "install", "--quiet", "--no-deps", str(wheel)])
  variables = {"base": str(folder), "platbase": str(folder)}
  packages = pathlib.Path(sysconfig.get_path("purelib", vars=variables))
  here = sysconfig.get_path("purelib")
  (packages / "dependencies.pth").write_text(here + "\n")
  return programs


@pytest.fixture
def run(installed, tmp_path, data_dir, compilation_cache):
  """`run(program, *args)`: a program of that environment, from a new folder."""
  environment = ENVIRONMENT | {
    "TFDS_DATA_DIR": data_dir,
    "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
  }

  def start(program, *args):
    return subprocess.run(
      [str(installed / program), *args],
      cwd=tmp_path,
      env=environment,
      capture_output=True,
      text=True,
    )

  return start


def shipped_files(*folders: str) -> set[str]:
  """Returns the names of the repository's files that git would keep."""
  found = (path for name in folders for path in (ROOT / name).rglob("*"))
  return {
    path.relative_to(ROOT).as_posix()
    for path in found
    if path.is_file() and "__pycache__" not in path.parts
  }


@pytest.mark.slow
def test_the_wheel_has_the_whole_package_and_the_configs(dist):
  (wheel,) = dist.glob("*.whl")
  names = {n for n in zipfile.ZipFile(wheel).namelist() if "dist-info" not in n}
  configs = {f"scm_jax/shipped/{name}" for name in shipped_files("configs")}
  assert names == shipped_files("scm_jax") | configs


@pytest.mark.slow
def test_the_sdist_has_what_tests_and_launch_scripts_need(dist):
  (sdist,) = dist.glob("*.tar.gz")
  with tarfile.open(sdist) as archive:
    members = {m.name.partition("/")[2]: m for m in archive.getmembers()}
  top = {path.name for path in ROOT.iterdir() if path.suffix != ".egg-info"}
  folders = {name for name in top - LEFT_OUT if (ROOT / name).is_dir()}
  caches = {name for name in folders if name.endswith("_cache")}
  assert shipped_files(*(folders - caches)) <= members.keys()
  assert members["launch/test.sh"].mode & 0o100


@pytest.mark.slow
def test_commands_work_from_another_folder(run, tmp_path):
  train = ["train", "--config=digits:run=teacher,tiny", "--workdir=teacher"]
  small = [f"--config.network.{field}" for field in SMALL]
  trained = run("scm-jax", *train, *small)
  assert trained.returncode == 0, trained.stderr
  sample = ["sample", "--workdir=teacher", "--num=3", "--steps=2", "--out=s"]
  drawn = run("scm-jax", *sample)
  assert drawn.returncode == 0, drawn.stderr
  samples = np.load(tmp_path / "s" / "samples.npz")["samples"]
  assert samples.shape == (3, 8, 8, 1)


@pytest.mark.slow
def test_trained_networks_come_with_it(run):
  code = """
import scm_jax
from scm_jax.interop import export_folder
names = export_folder.pretrained()
print(scm_jax.__file__, *names)
assert all(scm_jax.load(name).parameters > 1000 for name in names)
"""
  loaded = run("python", "-c", code)
  assert loaded.returncode == 0, loaded.stderr
  file, *names = loaded.stdout.split()
  assert str(ROOT) not in file
  folders = (ROOT / "scm_jax" / "pretrained").glob("*/config.json")
  assert names == sorted(path.parent.name for path in folders)


@pytest.mark.slow
def test_sweeps_find_shipped_configs(run):
  sweep = ["sweep", "--config=miniature:tiny", "--workdir=w"]
  swept = run("scm-jax", *sweep, "--dry-run")
  assert swept.returncode == 0, swept.stderr
  first = swept.stdout.splitlines()[0]
  assert "/scm_jax/shipped/configs/miniature.py:run=teacher" in first
  launched = run("scm-jax", *sweep, "--launcher=slurm")
  assert launched.returncode == 1
  assert "launch scripts come with the repository" in launched.stderr
  unknown = run("scm-jax", "train", "--config=digts", "--workdir=w")
  assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_no_package_configs_is_left_beside_it(run):
  outside = run("python", "-c", "import configs")
  assert "No module named 'configs'" in outside.stderr
