"""Lines between the processes of a run: who has come up, and who is gone.

Every process holds one TCP connection to process 0, over the port that JAX's
coordinator takes once all have come. JAX itself waits for the missing without
naming them, and for the dead until their heartbeats are overdue; a connection
of a process that has died closes at once.

What is said on it, a word a line: the index of the process that calls;
`complete`, or the indices that are missing; `leave` before an orderly end; and
`lost` with an index, from process 0 to all others.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from scm_jax.errors import UserError
from scm_jax.training.processes.cluster import Cluster


class Lines:
  """This process's connections: process 0's to all, the others' to it."""

  def __init__(self, here: Cluster, patience: float, heartbeat: float):
    """Waits until all have come up.

    Args:
      here: which process this is.
      patience: seconds to wait.
      heartbeat: seconds after which a host that has vanished without a word
        counts as lost.

    Raises:
      UserError: processes did not come up; all that did name them.
    """
    self._here, self._leaving = here, False
    if here.index:
      self._sockets = {0: _answer(here, patience)}
    else:
      self._sockets = _call(here, patience)
    for line in self._sockets.values():
      line.settimeout(None)
      _keep_alive(line, heartbeat)

  def watch(self, on_lost: Callable[[int], None]) -> None:
    """Calls `on_lost(index)`, once, when a process ends without `leave`."""
    first = threading.Lock()

    def tell(index: int) -> None:
      if self._leaving or not first.acquire(blocking=False):
        return
      if not self._here.index:
        self._say(f"lost {index}")
      on_lost(index)

    for index, line in self._sockets.items():
      thread = threading.Thread(
        target=_listen, args=(line, index, tell), daemon=True
      )
      thread.start()

  def leave(self) -> None:
    """Says that this process ends because it is done."""
    self._leaving = True
    self._say("leave")

  def _say(self, words: str) -> None:
    for line in self._sockets.values():
      with contextlib.suppress(OSError):
        line.sendall(f"{words}\n".encode())


def _listen(
  line: socket.socket, index: int, tell: Callable[[int], None]
) -> None:
  """Until the process at the other end leaves, or is lost."""
  with contextlib.suppress(OSError), line.makefile() as words:
    for word, *rest in map(str.split, words):
      if word == "leave":
        return
      if word == "lost":
        return tell(int(rest[0]))
  tell(index)


def _call(here: Cluster, patience: float) -> dict[int, socket.socket]:
  """Process 0's part of the roll call."""
  port = int(here.coordinator.rpartition(":")[2])
  try:
    server = socket.create_server(("", port), backlog=here.count)
  except OSError as error:
    raise UserError(
      f"process 0 cannot listen on port {port} ({error.strerror}); another "
      "run may be using it"
    ) from error
  deadline = time.monotonic() + patience
  lines: dict[int, socket.socket] = {}
  with server:
    while len(lines) < here.count - 1:
      left = deadline - time.monotonic()
      if left <= 0:
        break
      server.settimeout(left)
      with contextlib.suppress(OSError):
        line, _ = server.accept()
        word = _read_word(line, 10)
        if word.isdigit() and 0 < int(word) < here.count:
          lines[int(word)] = line
  absent = sorted(set(range(1, here.count)) - lines.keys())
  verdict = ",".join(map(str, absent)) or "complete"
  for line in lines.values():
    with contextlib.suppress(OSError):
      line.sendall(f"{verdict}\n".encode())
  if absent:
    raise UserError(_absent(verdict, here, patience))
  return lines


def _answer(here: Cluster, patience: float) -> socket.socket:
  """The other processes' part."""
  host, _, port = here.coordinator.rpartition(":")
  address = host.strip("[]"), int(port)
  deadline = time.monotonic() + patience
  while time.monotonic() < deadline:
    with contextlib.suppress(OSError):
      line = socket.create_connection(address, timeout=5)
      line.sendall(f"{here.index}\n".encode())
      verdict = _read_word(line, patience + 10)
      if verdict == "complete":
        return line
      if verdict:
        raise UserError(_absent(verdict, here, patience))
    time.sleep(0.2)
  raise UserError(
    f"process {here.index} of {here.count}: process 0 did not come up at "
    f"{here.coordinator} within {patience:g} s; look at its log"
  )


def _read_word(line: socket.socket, patience: float) -> str:
  """One line, and nothing of what follows it."""
  line.settimeout(patience)
  word = b""
  while (byte := line.recv(1)) not in (b"", b"\n"):
    word += byte
  return word.decode()


def _absent(indices: str, here: Cluster, patience: float) -> str:
  return (
    f"process {here.index} of {here.count}: process {indices} did not come up "
    f"within {patience:g} s; look at the log of each"
  )


def _keep_alive(line: socket.socket, heartbeat: float) -> None:
  """Lets the system ask a silent host whether it is still there."""
  line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  pause = max(1, int(heartbeat / 8))
  for name, value in (
    ("TCP_KEEPIDLE", 4 * pause),
    ("TCP_KEEPINTVL", pause),
    ("TCP_KEEPCNT", 4),
  ):
    if option := getattr(socket, name, None):
      line.setsockopt(socket.IPPROTO_TCP, option, value)
