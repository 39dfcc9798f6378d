"""The WebSocket of a page: many requests, of which the newest count."""

import asyncio
import contextlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from scm_jax.errors import UserError
from scm_jax.serving import fields, requests
from scm_jax.serving.engine import Drawing, Engine
from scm_jax.serving.models import Model

# Answers of one page that may be on their way. A page that does not take its
# answers is not read from either.
_ANSWERS = 64
_END = "websocket.disconnect"


class Stream:
  """Answers the messages of one page.

  A message is a JSON object with `action` and the fields of the HTTP API, with
  `view`, the place on the page that it is for, and `id`, which comes back. Its
  answer is a binary message, see `frame`, or a JSON object with `id`,
  `view`, and one of `error`; `dropped`, because a newer message of the view
  came; or `compiling`, after which the answer follows.
  """

  def __init__(
    self, socket: WebSocket, models: Mapping[str, Model], engine: Engine
  ):
    self._socket, self._models, self._engine = socket, models, engine
    self._room = asyncio.Semaphore(_ANSWERS)

  async def run(self) -> None:
    """Answers until the page is closed."""
    await self._socket.accept()
    tasks: set[asyncio.Task[None]] = set()
    try:
      while (message := await self._socket.receive())["type"] != _END:
        await self._room.acquire()
        # Binary messages have no text, and are no JSON.
        task = asyncio.create_task(self._answer(message.get("text") or ""))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    finally:
      self._engine.leave(self)
      for task in tasks:
        task.cancel()

  async def _answer(self, text: str) -> None:
    head: dict[str, Any] = {"id": None, "view": None}
    try:
      await self._draw(fields.parse(text.encode()), head)
    except UserError as error:
      await self._send(head | {"error": " ".join(str(error).split())})
    finally:
      self._room.release()

  async def _draw(self, body: Any, head: dict[str, Any]) -> None:
    """Draws what a message asks for; fills the head of its answer."""
    if not isinstance(body, dict):
      raise UserError("the request must be a JSON object")
    for name in head:
      head[name] = body.pop(name, None)
      if not isinstance(head[name], str | int | None):
        head[name] = None
        raise UserError(f"{name!r} must be a text or a whole number")
    wanted = requests.read(self._models, body.pop("action", None), body)
    drawing = self._engine.submit(self, head["view"], wanted)
    if not self._engine.is_ready(wanted):
      await self._send(head | {"compiling": True})
    drawn = await asyncio.wrap_future(drawing)
    if drawn is None:
      await self._send(head | {"dropped": True})
      return
    answer = await run_in_threadpool(frame, drawn, head)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
      await self._socket.send_bytes(answer)

  async def _send(self, message: dict[str, Any]) -> None:
    # The page may be closed meanwhile.
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
      # As ASCII: a half of a character pair cannot be sent as UTF-8.
      await self._socket.send_text(json.dumps(message))


def frame(drawing: Drawing, header: dict[str, Any]) -> bytes:
  """Returns a binary message: the header's length, the header, the pixels.

  These are 4 bytes, little-endian; as many bytes of JSON; uint8 pixels in the
  order of the shape `[num, H, W, C]`. The header also has what may be shown of
  the drawing.
  """
  shown = {
    "shape": list(drawing.images.shape),
    "labels": drawing.request.label.tolist(),
    "ms": round(1e3 * drawing.seconds, 3),
    "evaluations": drawing.request.evaluations,
  }
  head = json.dumps(header | shown).encode()
  return struct.pack("<I", len(head)) + head + drawing.images.tobytes()
