"""launch/lib/hardware.sh: the build of JAX that fits the hardware."""

import http.server
import os
import subprocess
import threading

import pytest


@pytest.fixture
def extra(repo, tmp_path, program):
  """`extra(smi, files, **variables)`: the extra, and what is said.

  `smi` is the body of a stand-in for nvidia-smi; None is a machine without it.
  `files` maps paths of a made-up file system to contents.
  """
  root, tools = tmp_path / "root", tmp_path / "tools"
  root.mkdir()
  tools.mkdir()

  def run(smi=None, files=(), **variables):
    if smi is not None:
      program(tools / "nvidia-smi", smi)
    for path, text in dict(files).items():
      (root / path).parent.mkdir(parents=True, exist_ok=True)
      (root / path).write_text(text)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}/usr/bin:/bin"}
    environment.pop("SCM_DEVICE", None)
    done = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", 'source "$1"; hardware_extra "$2"']
      + ["_", str(repo / "launch" / "lib" / "hardware.sh"), str(root)],
      env=environment | variables,
      capture_output=True,
      text=True,
      timeout=60,
    )
    return done.stdout.strip(), done.stderr

  return run


def pci(vendor, kind):
  folder = "sys/bus/pci/devices/0000:00:04.0"
  return {f"{folder}/vendor": vendor + "\n", f"{folder}/class": kind + "\n"}


GOOGLE = {"sys/class/dmi/id/product_name": "Google Compute Engine\n"}


@pytest.mark.parametrize(
  ("gpus", "build"),
  [
    ("580.159.04, 9.0", "cuda13"),
    ("581.0, 10.0\n581.0, 12.0", "cuda13"),
    ("579.99, 9.0", "cuda12"),
    ("525.60.13, 8.0", "cuda12"),
    ("580.65.06, 9.0\n580.65.06, 7.0", "cuda12"),  # CUDA 13 left Volta behind
    ("470.199.02, 8.0", ""),
    ("525.60.13, 3.7", ""),
    ("580.65.06, [N/A]", ""),
    ("No devices were found", ""),
  ],
)
def test_the_driver_and_the_oldest_gpu_decide(extra, gpus, build):
  # What was left out of the query gives nothing.
  query = "--query-gpu=driver_version,compute_cap --format=csv,noheader"
  smi = f'[[ "$*" == "{query}" ]] && cat << "END"\n{gpus}\nEND'
  found, said = extra(smi)
  assert found == build
  assert bool(said) == (not build and gpus[0].isdigit())  # too old, and why


def test_a_gpu_without_its_driver_is_said(extra):
  found, said = extra("echo 'NVIDIA-SMI has failed'; exit 9")
  assert found == "" and "nvidia-smi" in said


def test_a_machine_without_accelerators_takes_the_cpus_build(extra):
  # Google's network card; and no question to a server on others' machines.
  assert extra(files=pci("0x1ae0", "0x020000")) == ("", "")


@pytest.mark.parametrize(
  "files", [{"dev/accel0": ""}, pci("0x1ae0", "0x120000")]
)
def test_a_tpu_is_seen_by_its_devices(extra, files):
  assert extra(files=files) == ("tpu", "")


class Metadata(http.server.BaseHTTPRequestHandler):
  """Stands for Google's metadata server of a TPU VM."""

  known = "/computeMetadata/v1/instance/attributes/agent-worker-number"

  def do_GET(self):
    asked = self.headers["Metadata-Flavor"] == "Google"
    self.send_response(200 if asked and self.path == self.known else 404)
    self.end_headers()
    self.wfile.write(b"0")

  def log_message(self, *args):
    pass


@pytest.mark.parametrize(("attribute", "build"), [("0", "tpu"), ("", "")])
def test_a_tpu_vm_is_known_to_the_metadata_server(extra, attribute, build):
  handler = type("Handler", (Metadata,), {} if attribute else {"known": ""})
  with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"127.0.0.1:{server.server_port}"
    assert extra(files=GOOGLE, GCE_METADATA_IP=where) == (build, "")
    server.shutdown()


def test_a_silent_metadata_server_is_no_tpu(extra):
  assert extra(GCE_METADATA_IP="127.0.0.1:9") == ("", "")


@pytest.mark.parametrize(
  ("device", "build"),
  [("cpu", ""), ("tpu", "tpu"), ("cuda", "cuda13"), ("cuda12", "cuda12")],
)
def test_what_the_user_says_stands(extra, device, build):
  assert extra("echo 580.65.06, 9.0", SCM_DEVICE=device) == (build, "")


def test_cuda_without_a_driver_is_the_build_that_most_can_run(extra):
  assert extra(SCM_DEVICE="cuda") == ("cuda12", "")
