"""Connections between the processes of a run: who is missing, who has died.

JAX does not tell. Where a process does not come, or dies, JAX 0.10 aborts all
others when a timeout ends (300 and 100 s), with a C++ stack trace, exit code
134 and, for one that did not come, without its index; Python cannot catch it.

So every process holds a TCP connection to process 0, which is set up over the
port that JAX's coordinator uses afterwards. The connection of a process that
has died closes at once. The messages are lines of text: a process sends its
index, and is answered `complete` or the indices that are missing; later,
`leave` announces an orderly end, and process 0 sends all others `lost INDEX`.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping

from scm_jax.errors import UserError
from scm_jax.training.processes.cluster import Cluster


class PeerConnections:
  """The connections of this process: those of process 0 lead to all others."""

  def __init__(self, cluster: Cluster, timeout: float, heartbeat: float):
    """Waits `timeout` seconds until all processes have come.

    A host that vanished without closing its connections counts as lost after
    `heartbeat` seconds.

    Raises:
      UserError: some processes did not come; every one that did names them.
    """
    self._is_first, self._leaving = cluster.index == 0, False
    if self._is_first:
      self._sockets = _accept_all(cluster, timeout)
    else:
      self._sockets = {0: _connect(cluster, timeout)}
    for connection in self._sockets.values():
      connection.settimeout(None)
      _probe_when_silent(connection, heartbeat)

  def watch(self, on_lost: Callable[[int], None]) -> None:
    """Calls `on_lost(index)`, once, when a process ends without `leave`."""
    first = threading.Lock()

    def report(index: int) -> None:
      if self._leaving or not first.acquire(blocking=False):
        return
      if self._is_first:
        _send(self._sockets, f"lost {index}")
      on_lost(index)

    for index, connection in self._sockets.items():
      listening = connection, index, report
      threading.Thread(target=_listen, args=listening, daemon=True).start()

  def leave(self) -> None:
    """Announces that this process ends because its work is done."""
    self._leaving = True
    _send(self._sockets, "leave")


def _send(connections: Mapping[int, socket.socket], message: str) -> None:
  """Sends a line to all who still listen."""
  for connection in connections.values():
    with contextlib.suppress(OSError):
      connection.sendall(f"{message}\n".encode())


def _listen(
  connection: socket.socket, index: int, report: Callable[[int], None]
) -> None:
  """Reports the process at the other end, or the one that it says is lost."""
  with contextlib.suppress(OSError), connection.makefile() as messages:
    for word, *rest in map(str.split, messages):
      if word == "leave":
        return
      if word == "lost":
        return report(int(rest[0]))
  report(index)


def _accept_all(cluster: Cluster, timeout: float) -> dict[int, socket.socket]:
  """Returns the connections of process 0, once every process has called."""
  port = int(cluster.coordinator.rpartition(":")[2])
  try:
    server = socket.create_server(("", port), backlog=cluster.count)
  except OSError as error:
    raise UserError(
      f"process 0 cannot listen on port {port} ({error.strerror}); another "
      "run may be using it"
    ) from error
  deadline = time.monotonic() + timeout
  connections: dict[int, socket.socket] = {}
  with server:
    while len(connections) < cluster.count - 1:
      if (left := deadline - time.monotonic()) <= 0:
        break
      server.settimeout(left)
      with contextlib.suppress(OSError):
        connection, _ = server.accept()
        word = _read_line(connection, timeout=10)
        if word.isdigit() and 0 < int(word) < cluster.count:
          connections[int(word)] = connection
  missing = sorted(set(range(1, cluster.count)) - connections.keys())
  verdict = ",".join(map(str, missing)) or "complete"
  _send(connections, verdict)
  if missing:
    raise _missing_error(verdict, cluster, timeout)
  return connections


def _connect(cluster: Cluster, timeout: float) -> socket.socket:
  """Returns the connection to process 0, once it knows that all have come."""
  host, _, port = cluster.coordinator.rpartition(":")
  address = host.strip("[]"), int(port)
  deadline = time.monotonic() + timeout
  while time.monotonic() < deadline:
    with contextlib.suppress(OSError):
      connection = socket.create_connection(address, timeout=5)
      connection.sendall(f"{cluster.index}\n".encode())
      verdict = _read_line(connection, timeout + 10)
      if verdict == "complete":
        return connection
      if verdict:
        raise _missing_error(verdict, cluster, timeout)
    time.sleep(0.2)
  raise UserError(
    f"process {cluster.index} of {cluster.count}: process 0 did not come up at "
    f"{cluster.coordinator} within {timeout:g} s; look at its log"
  )


def _read_line(connection: socket.socket, timeout: float) -> str:
  """Reads one line, and nothing of the messages that follow it."""
  connection.settimeout(timeout)
  line = b""
  while (byte := connection.recv(1)) not in (b"", b"\n"):
    line += byte
  return line.decode("ascii", "replace")


def _missing_error(missing: str, cluster: Cluster, timeout: float) -> UserError:
  return UserError(
    f"process {cluster.index} of {cluster.count}: process {missing} did not "
    f"come up within {timeout:g} s; look at the log of each"
  )


def _probe_when_silent(connection: socket.socket, heartbeat: float) -> None:
  """Lets the system close a connection whose host does not answer any more."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  pause = max(1, int(heartbeat / 8))
  values = {"KEEPIDLE": 4 * pause, "KEEPINTVL": pause, "KEEPCNT": 4}
  for name, value in values.items():
    if option := getattr(socket, f"TCP_{name}", None):
      connection.setsockopt(socket.IPPROTO_TCP, option, value)
