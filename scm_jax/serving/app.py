"""The web application: the page, the HTTP API and the stream of the page."""

import asyncio
import io
import itertools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
  FileResponse,
  JSONResponse,
  PlainTextResponse,
  Response,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from scm_jax import errors, image_grid
from scm_jax.errors import UserError
from scm_jax.serving import fields, requests
from scm_jax.serving.engine import Drawing, Engine
from scm_jax.serving.models import SIZES, TIMES, Model
from scm_jax.serving.stream import Stream

PAGE = pathlib.Path(__file__).with_name("page")
_SENTENCES = {
  404: "there is nothing at this path; the page's tab API lists what there is",
  405: "the path takes another method; the page's tab API says which",
}
_LIMIT_S = 300.0  # how long an HTTP request may wait, compilation included


def make(models: Mapping[str, Model], engine: Engine) -> Starlette:
  """Returns the application.

  Args:
    models: what is served, by name; the page shows the first one at first.
    engine: draws what clients ask for. Its owner closes it.
  """
  api = _Api(models, engine)
  return Starlette(
    routes=[
      Route("/", api.page),
      Route("/api/models", api.models),
      Route("/api/status", api.status),
      Route("/api/python/{action}", api.python, methods=["POST"]),
      Route("/api/{action}", api.draw, methods=["POST"]),
      WebSocketRoute("/api/stream", api.stream),
      Mount("/page", StaticFiles(directory=PAGE)),
    ],
    exception_handlers={
      HTTPException: _answer_http_error,
      UserError: _answer_user_error,
    },
  )


def body_limit(models: Mapping[str, Model]) -> int:
  """Returns the bytes of the longest request: an image, a mask and words."""
  sizes = [math.prod(m.sampler.image_shape) for m in models.values()]
  return 4 * max(sizes) + 2**16


class _Api:
  """The functions that answer, with what they need."""

  def __init__(self, models: Mapping[str, Model], engine: Engine):
    self._models, self._engine = models, engine
    self._numbers = itertools.count()
    self._limit = body_limit(models)

  async def page(self, request: Request) -> Response:
    """Answers with the page."""
    del request
    return FileResponse(PAGE / "index.html")

  async def models(self, request: Request) -> Response:
    """Answers with the models and what may be chosen of them."""
    del request
    return JSONResponse(
      {
        "models": [model.describe() for model in self._models.values()],
        "sizes": SIZES,
        "starts": TIMES,
      }
    )

  async def status(self, request: Request) -> Response:
    """Answers with how many programs are still to be compiled."""
    del request
    programs, waiting = self._engine.total, self._engine.waiting_programs
    return JSONResponse({"programs": programs, "waiting": waiting})

  async def python(self, request: Request) -> Response:
    """Answers with lines of Python that draw the same."""
    wanted = await self._read(request)
    return PlainTextResponse(wanted.python())

  async def draw(self, request: Request) -> Response:
    """Draws, and answers with a PNG or an npz."""
    name = request.query_params.get("format", "png")
    if name not in FORMATS:
      formats = errors.hint(name, FORMATS)
      raise UserError(f"there is no such format; {formats}")
    media, encode = FORMATS[name]
    wanted = await self._read(request)
    drawn = await self._drawn(request, wanted)
    if drawn is None:
      raise HTTPException(503, "the server is closing down")
    content = await run_in_threadpool(encode, drawn)
    return Response(content, media_type=media)

  async def _drawn(
    self, request: Request, wanted: requests.Request
  ) -> Drawing | None:
    """Waits for a drawing; returns None if the server ends before.

    Raises:
      HTTPException: it takes too long, or nobody waits for it any more.
    """
    place = request.client.host if request.client else "", next(self._numbers)
    drawing = asyncio.wrap_future(self._engine.submit(*place, wanted))
    # After the whole body, the next message says that the client has left.
    left = asyncio.ensure_future(request.receive())
    try:
      first = asyncio.FIRST_COMPLETED
      await asyncio.wait({drawing, left}, timeout=_LIMIT_S, return_when=first)
      if drawing.done():
        return drawing.result()
    except asyncio.CancelledError:  # by the end of the server, after a second
      return None
    finally:
      left.cancel()
      if not drawing.done():
        drawing.cancel()
        self._engine.withdraw(*place)
    raise HTTPException(503, "the server is busy; try again later")

  async def stream(self, socket: WebSocket) -> None:
    """Answers the requests of a page as long as it is open."""
    await Stream(socket, self._models, self._engine).run()

  async def _read(self, request: Request) -> requests.Request:
    """Reads a request's body.

    Raises:
      UserError: it is not JSON, or not as documented.
      HTTPException: it is too large, or of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind.strip().lower() != "application/json":
      # Pages of other sites may send any other type without being asked.
      raise HTTPException(415, "send JSON, as 'Content-Type: application/json'")
    body = bytearray()
    try:
      async for part in request.stream():
        body += part
        if len(body) > self._limit:
          raise HTTPException(413, f"send at most {self._limit} bytes")
    except ClientDisconnect:
      raise HTTPException(400, "the request is not complete") from None
    action = request.path_params["action"]
    return requests.read(self._models, action, fields.parse(bytes(body)))


def _png(drawing: Drawing) -> bytes:
  """Returns the PNG of all images, in a grid that is about square."""
  columns = math.ceil(math.sqrt(len(drawing.images)))
  return image_grid.encode_png(image_grid.image_grid(drawing.images, columns))


def _npz(drawing: Drawing) -> bytes:
  """Returns `samples` and `labels`, as `scm-jax sample` writes them."""
  buffer = io.BytesIO()
  label = drawing.request.label
  np.savez_compressed(buffer, samples=drawing.images, labels=label)
  return buffer.getvalue()


FORMATS = {"png": ("image/png", _png), "npz": ("application/zip", _npz)}


async def _answer_http_error(request: Request, error: Any) -> Response:
  del request
  status = error.status_code
  line = _SENTENCES.get(status, error.detail)
  return JSONResponse({"error": line}, status, error.headers)


async def _answer_user_error(request: Request, error: Any) -> Response:
  del request
  return JSONResponse({"error": " ".join(str(error).split())}, 400)
