"""The process that serves: its socket, its models, its end."""

import base64
import contextlib
import dataclasses
import errno
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn

from scm_jax import errors, loading
from scm_jax.errors import ConfigError, UserError
from scm_jax.serving import app, guard, models, requests
from scm_jax.serving.engine import Engine
from scm_jax.serving.models import Model

_LOCAL = ("127.0.0.1", "localhost", "::1")
_CONNECTIONS = 256  # at once


@dataclasses.dataclass(frozen=True)
class Options:
  """What to serve, and where.

  Attributes:
    workdir: workdirs, checkpoints or exports; () for those of the package.
    host: the address to listen at; any but this machine's own needs a token.
    port: the port; 0 takes one that is free.
    compiled: the folder that keeps compiled programs, see `scm_jax.load`.
    browser: whether to open the page in the browser, where there is one.
  """

  workdir: Sequence[str] = ()
  host: str = "127.0.0.1"
  port: int = 8000
  compiled: str = ""
  browser: bool = True


def serve(options: Options) -> None:
  """Serves until the process is interrupted.

  Raises:
    UserError: there is nothing to serve, or the port is taken.
  """
  found = models.find(options.workdir)
  with _listen(options.host, options.port) as listener:
    served = {}
    for name, path in found.items():
      sampler = loading.load(path, compiled=options.compiled)
      served[name] = Model(name, path, sampler)
      logging.info("%s: %.2f M parameters", name, sampler.parameters / 1e6)
    local = options.host in _LOCAL
    token = "" if local else secrets.token_urlsafe(16)
    engine = Engine(first_requests(served))
    try:
      application = app.make(served, engine)
      guarded = guard.Guard(application, _LOCAL if local else (), token)
      _announce(options, listener, token)
      _run(guarded, listener, app.body_limit(served))
    finally:
      engine.close()


def first_requests(served: Mapping[str, Model]) -> list[requests.Request]:
  """Returns what each tab of the page begins with, most wanted first."""
  every = list(served.values())
  few = [model for model in every if model.sampler.rules.few_steps]
  wanted = [(model, "sample", {"num": 16}) for model in few or every]
  wanted += [(model, "walk", {"num": 1}) for model in few or every]
  wanted += [(model, "sample", {"num": 4}) for model in every]
  editing = [model for model in few if model.edits]
  wanted += [(model, "edit", _strokes(model)) for model in editing]
  for model in editing:  # a picture, and parts of it anew
    wanted.append((model, "sample", {"num": 1}))
    wanted.append((model, "edit", _part(model)))
  for model in few[:1]:  # what its sliders reach
    choices = [{"steps": steps} for steps in model.steps]
    choices += [{"t_mid": time} for time in model.times]
    wanted += [(model, "sample", {"num": 16} | body) for body in choices]
  return [
    requests.read(served, action, body | {"model": model.name})
    for model, action, body in wanted
  ]


def _strokes(model: Model) -> dict[str, Any]:
  """Returns an edit of an empty image, as the page begins with."""
  empty = base64.b64encode(bytes(math.prod(model.sampler.image_shape)))
  return {"image": empty.decode(), "num": 4, "steps": 2, "start": 1.2}


def _part(model: Model) -> dict[str, Any]:
  """Returns an edit of an empty image of which all is known."""
  height, width, _ = model.sampler.image_shape
  known = base64.b64encode(bytes([1]) * (height * width))
  return _strokes(model) | {"known": known.decode(), "start": None}


def _listen(host: str, port: int) -> socket.socket:
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family, backlog=1024)
  except OverflowError:
    raise ConfigError(f"--port={port}: a port is at most 65535") from None
  except OSError as error:
    if error.errno == errno.EADDRINUSE:
      raise UserError(
        f"port {port} is in use; choose another one with --port"
      ) from error
    why = error.strerror or errors.one_line(error)
    raise UserError(
      f"the server cannot listen at --host={host} --port={port}: {why}"
    ) from error


def _announce(options: Options, listener: socket.socket, token: str) -> None:
  """Prints the page's address, and opens it where there is a browser."""
  host, port = options.host, listener.getsockname()[1]
  if host in ("0.0.0.0", "::"):
    host = socket.gethostname()
  host = f"[{host}]" if ":" in host else host
  query = f"?token={token}" if token else ""
  address = f"http://{host}:{port}/{query}"
  print(f"{address}  (Ctrl-C ends it)", flush=True)
  if options.browser and _has_browser():
    open_page = threading.Thread(
      target=webbrowser.open, args=(address,), daemon=True
    )
    open_page.start()


def _has_browser() -> bool:
  """Returns whether there is a screen; text browsers take the terminal."""
  screens = ("DISPLAY", "WAYLAND_DISPLAY")
  return sys.platform in ("darwin", "win32") or any(map(os.getenv, screens))


def _run(application: guard.Guard, listener: socket.socket, limit: int) -> None:
  """Answers until the process is interrupted."""
  config = uvicorn.Config(
    application,
    lifespan="off",
    limit_concurrency=_CONNECTIONS,
    log_config=None,
    log_level="warning",
    access_log=False,
    server_header=False,
    timeout_graceful_shutdown=1,
    ws="websockets-sansio",
    ws_max_size=limit,
    ws_per_message_deflate=False,  # on one machine it only costs time
  )
  # uvicorn answers what it can, and then raises the signal again.
  if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
  with contextlib.suppress(KeyboardInterrupt):
    uvicorn.Server(config).run(sockets=[listener])
