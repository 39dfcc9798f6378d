"""Who may talk to the server: the checks that come before any request.

A server on this machine answers pages of other sites as little as other
machines. A page whose name was rebound to this machine's address sends that
name as `Host`; a page of another site sends its `Origin`.
"""

import secrets
from collections.abc import Collection
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "scm_jax_token"
_HEADERS = {
  "content-security-policy": (
    "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"
  ),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",  # the address may hold the token
  "cache-control": "no-store",
}


class Guard:
  """An ASGI application that refuses what may not reach another one.

  Attributes:
    app: the application behind.
    hosts: the names by which clients may call the server; () for any.
    token: what every request has to show, as `?token=`, as a bearer token or as
      a cookie; "" for nothing.
  """

  def __init__(self, app: ASGIApp, hosts: Collection[str], token: str):
    self.app, self.hosts, self.token = app, hosts, token

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers one connection."""
    if scope["type"] == "lifespan":
      await self.app(scope, receive, send)
      return
    connection = HTTPConnection(scope)
    if refusal := self._refusal(connection):
      await _refuse(scope, receive, send, *refusal)
      return
    cookie = self._new_cookie(connection)

    async def send_more(message: Message) -> None:
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers.update(_HEADERS)
        if cookie:
          headers.append("set-cookie", cookie)
      await send(message)

    await self.app(scope, receive, send_more)

  def _refusal(self, connection: HTTPConnection) -> tuple[int, str] | None:
    """Returns the status and the reason of a refusal, or None."""
    host = connection.headers.get("host", "")
    if self.hosts and _name(host) not in self.hosts:
      return 400, (
        "the server does not know itself by this name; open the address that "
        "it printed"
      )
    origin = connection.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
      return 403, "pages of other sites may not use this server"
    if self.token and not self._shown(connection):
      return 401, (
        "the token is missing or wrong; open the address that the server "
        "printed, or send 'Authorization: Bearer TOKEN'"
      )
    return None

  def _shown(self, connection: HTTPConnection) -> bool:
    bearer = connection.headers.get("authorization", "")
    shown = (
      connection.query_params.get("token", ""),
      bearer.removeprefix("Bearer "),
      connection.cookies.get(_cookie(connection), ""),
    )
    wanted = self.token.encode()
    return any(secrets.compare_digest(s.encode(), wanted) for s in shown)

  def _new_cookie(self, connection: HTTPConnection) -> str:
    """Returns the cookie to set, so that what a page loads has the token."""
    if not self.token or "token" not in connection.query_params:
      return ""
    name = _cookie(connection)
    return f"{name}={self.token}; HttpOnly; SameSite=Strict; Path=/"


def _cookie(connection: HTTPConnection) -> str:
  """Returns the cookie's name, since servers on all ports share cookies."""
  _, _, port = connection.headers.get("host", "").rpartition(":")
  return f"{COOKIE}_{port}" if port.isdigit() else COOKIE


def _name(host: str) -> str:
  """Returns the name of `name:port` or `[address]:port`."""
  if host.startswith("["):
    return host[1:].partition("]")[0]
  return host.partition(":")[0].lower()


async def _refuse(
  scope: Scope, receive: Receive, send: Send, status: int, reason: str
) -> None:
  if scope["type"] == "websocket":
    await send({"type": "websocket.close", "code": 1008, "reason": reason})
    return
  body: dict[str, Any] = {"error": reason}
  await JSONResponse(body, status, _HEADERS)(scope, receive, send)
