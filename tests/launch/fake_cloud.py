"""Stands in for gcloud and kubectl: a small Google Cloud in a JSON file.

The folder above the program's own has `cloud.json`:

* `tpus`, `instances`, `jobsets`: what exists, by name;
* `bucket`: names of the files that were uploaded;
* `history`: what was made, started, entered and deleted, in order;
* `faults`: words of calls that fail, the error, how often, and whether machines
  are made all the same; an error "interrupt" stops the caller instead;
* `reports`: what the hosts report at each look, and changes to make then: a
  TPU's state or an instance's status, None to delete it.
"""

import contextlib
import json
import os
import pathlib
import signal
import sys

FILE = pathlib.Path(sys.argv[0]).parents[1] / "cloud.json"
PROGRAM, ARGV = os.path.basename(sys.argv[0]), sys.argv[1:]
WORDS = [word for word in ARGV if not word.startswith("--")]
FLAGS = dict(word[2:].partition("=")[::2] for word in ARGV if word[:2] == "--")
NOT_FOUND = "ERROR: (gcloud.x) NOT_FOUND: Resource 'r' was not found."


class Refused(Exception):
  """The call fails with this error."""


def find(kind, name):
  if name not in kind:
    raise Refused(NOT_FOUND)
  return kind[name]


def selected(kind):
  """Returns the names that a list's filter selects."""
  wanted = FLAGS["filter"].rpartition("=")[2].rpartition("/")[2].rstrip("$")
  return [n for n in kind if n == wanted or n.startswith(f"{wanted}-")]


def tpus(cloud, verb, name):
  kind = cloud["tpus"]
  if verb == "create":
    kind[name] = {"flags": FLAGS, "state": "ACTIVE", "node": "READY"}
  elif verb == "describe":
    print(find(kind, name)["node" if "tpu-vm" in WORDS else "state"])
  elif verb == "delete":
    find(kind, name)
    del kind[name]
  elif verb == "list":
    print(*(f"projects/p/{n}" for n in selected(kind)), sep="\n")


def instances(cloud, verb, names):
  kind = cloud["instances"]
  if verb == "create":
    for name in names:
      kind[name] = {"flags": FLAGS, "zone": FLAGS["zone"], "status": "RUNNING"}
  elif verb == "start":
    for name in names:
      find(kind, name)["status"] = "RUNNING"
  elif verb == "delete":
    for name in names:
      assert find(kind, name)["zone"] == FLAGS["zone"]
      del kind[name]
  elif verb == "list":
    columns = FLAGS.get("format", "value(name)")[6:-1]
    for name in selected(kind):
      row = {"name": name, **kind[name]}
      row["zone.basename()"] = row["zone"]
      print(*(row[column] for column in columns.split(",")), sep="\t")


def storage(cloud, verb, paths):
  if verb == "cp":
    assert all(os.path.exists(path) for path in paths[:-1] if "*" not in path)
    names = [os.path.basename(path) for path in paths[:-1]]
    cloud["bucket"] = sorted({*cloud["bucket"], *names})
  elif verb == "cat" and "/state/" in paths[0]:
    text, changes = cloud["last"], {}
    if cloud["reports"]:
      text, changes = cloud["reports"].pop(0)
    cloud["last"] = text
    for name, value in changes.items():
      change(cloud, name, value)
    print(text)
  elif verb == "cat":
    print("the kept log")


def change(cloud, name, value):
  """Preempts, stops or deletes a machine, as Google or somebody else does."""
  if value is None:
    cloud["tpus"].pop(name, None)
    cloud["instances"].pop(name, None)
  elif name in cloud["tpus"]:
    field = "node" if value == "PREEMPTED" else "state"
    cloud["tpus"][name][field] = value
  else:
    cloud["instances"][name]["status"] = value


def kubernetes(cloud):
  kind = cloud["jobsets"]
  if WORDS[0] == "apply":
    kind[cloud["name"]] = pathlib.Path(FLAGS["filename"]).read_text()
  elif WORDS[0] == "delete":
    kind.pop(WORDS[-1], None)
  elif WORDS[0] == "get":
    print(*(f"jobset.jobset.x-k8s.io/{name}" for name in kind), sep="\n")


def act(cloud):
  if PROGRAM == "kubectl":
    kubernetes(cloud)
  elif WORDS[0] == "storage":
    storage(cloud, WORDS[1], WORDS[2:])
  elif WORDS[:2] == ["compute", "tpus"]:
    tpus(cloud, WORDS[3], WORDS[-1])
  elif WORDS[:2] == ["compute", "instances"]:
    instances(cloud, WORDS[2], WORDS[3:])


def note(cloud):
  """Adds what a call changes to the history."""
  text = " ".join([PROGRAM, *WORDS])
  for verb in ("create", "apply", "delete", "start", "ssh"):
    if f" {verb}" in text:
      names = text.partition(f" {verb}")[2].split()
      cloud["history"].append(" ".join([verb, *names]))


def fault(cloud):
  """Returns the fault that this call meets, if any."""
  call = " ".join([PROGRAM, *ARGV])
  for one in cloud["faults"]:
    if one["times"] and all(word in call for word in one["call"].split()):
      one["times"] -= 1
      return one
  return None


def main():
  cloud = json.loads(FILE.read_text())
  met, code = fault(cloud), 0
  if not met or met.get("partial") or met["error"] == "interrupt":
    note(cloud)
    if met and met.get("partial"):
      del WORDS[4:]  # the first of several machines
    try:
      act(cloud)
    except Refused as error:
      code = print(error, file=sys.stderr) or 1
  if met and met["error"] == "interrupt":
    with contextlib.suppress(ProcessLookupError):
      os.kill(os.getppid(), signal.SIGTERM)
  elif met:
    code = print(met["error"], file=sys.stderr) or 1
  FILE.write_text(json.dumps(cloud))
  return code


sys.exit(main())
