"""The process that serves: what it refuses, how it starts and ends."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request

import pytest

from scm_jax.cli import main
from scm_jax.errors import UserError
from scm_jax.interop import export_folder
from scm_jax.serving import models, server

SECONDS = 120


def refused(capfd, *argv):
  """The one line with which the command ends, and its exit code."""
  capfd.readouterr()
  code = main.main(["serve", "--no-browser", *map(str, argv)])
  out, err = capfd.readouterr()
  lines = [line for line in err.splitlines() if "running on" not in line]
  assert out == "" and len(lines) == 1, err
  return code, lines[0]


def test_a_port_in_use_is_one_line(capfd, exports):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    more = (f"--workdir={exports['student']}", f"--port={port}")
    code, line = refused(capfd, *more)
  assert code == 1 and f"port {port} is in use" in line


@pytest.mark.parametrize(
  ("argv", "code"),
  [
    (["--port=-1"], 2),
    (["--port=70000"], 2),
    (["--host="], 2),
    (["--host=256.0.0.1"], 1),
    (["--port=0", "--workdir=/nowhere"], 1),
  ],
)
def test_what_cannot_be_served_is_one_line(capfd, argv, code, monkeypatch):
  monkeypatch.setattr(export_folder, "pretrained", lambda: ["a"])
  assert refused(capfd, *argv)[0] == code


def test_without_any_network_it_says_so(capfd, monkeypatch):
  monkeypatch.setattr(export_folder, "pretrained", list)
  code, line = refused(capfd)
  assert code == 1 and "--workdir" in line


def test_networks_have_the_shortest_names_that_differ():
  found = models.find(["runs/a/scd", "runs/b/scd/", "runs/teacher"])
  assert list(found) == ["a/scd", "b/scd", "teacher"]
  assert found["b/scd"] == "runs/b/scd/"
  with pytest.raises(UserError):
    models.find(["runs/scd", "./runs/scd"])


def test_what_the_page_begins_with_is_compiled_first(models):
  found = server.first_requests(models)
  kinds = [(type(r).__name__, r.model.name, r.num) for r in found[:7]]
  assert kinds == [
    ("Sample", "student", 16),
    ("Walk", "student", 1),
    ("Sample", "student", 4),
    ("Sample", "teacher", 4),
    ("Edit", "student", 4),
    ("Sample", "student", 1),
    ("Edit", "student", 4),
  ]
  assert found[6].known is not None  # a part of a picture is drawn anew
  # What the sliders of the first model reach.
  later = {(request.steps, request.t_mid) for request in found[7:]}
  student = models["student"]
  assert {steps for steps, _ in later} == set(student.steps)
  assert {t_mid for _, t_mid in later} == set(student.times)


def test_a_teacher_alone_is_served(models):
  found = server.first_requests({"teacher": models["teacher"]})
  assert {(type(r).__name__, r.num) for r in found} == {
    ("Sample", 16),
    ("Walk", 1),
    ("Sample", 4),
  }


def status_of(address):
  try:
    return urllib.request.urlopen(address, timeout=SECONDS).status
  except urllib.error.HTTPError as error:
    return error.code


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_server_for_other_machines_from_start_to_end(serving, exports, end):
  more = ("--host=0.0.0.0", f"--workdir={exports['student']}")
  with serving(*more) as (process, address):
    where, _, token = address.partition("?token=")
    local = f"http://127.0.0.1:{where.rstrip('/').rpartition(':')[2]}/"
    assert len(token) >= 16
    assert status_of(local) == status_of(f"{local}?token=x") == 401
    assert status_of(f"{local}?token={token}") == 200
    request = urllib.request.Request(
      f"{local}api/sample",
      json.dumps({"num": 4}).encode(),
      {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    answer = urllib.request.urlopen(request, timeout=SECONDS)
    assert answer.read().startswith(b"\x89PNG")
    process.send_signal(end)
    out, err = process.communicate(timeout=SECONDS)
  assert (process.returncode, out) == (0, "") and "Traceback" not in err


def test_the_browser_is_opened_where_there_is_a_screen(monkeypatch):
  """A text browser would take the terminal."""
  opened = []
  monkeypatch.setattr(server.webbrowser, "open", opened.append)
  monkeypatch.setattr(server.sys, "platform", "linux")
  for display, count in (("", 0), (":0", 1)):
    monkeypatch.setitem(os.environ, "DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
      server._announce(server.Options(), listener, "")
    assert len(opened) == count
