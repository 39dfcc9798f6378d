"""Which waiting job is next: the newest of each client, clients in turn."""

import collections
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from scm_jax.errors import UserError

VIEWS = 64  # jobs of one client that may wait
CLIENTS = 256  # clients that may wait

T = TypeVar("T")


class Queue(Generic[T]):
  """Waiting jobs of several clients.

  A client has views, such as the pictures of a page. A new job of a view takes
  the place of the one that waits. Clients take turns, however many jobs each
  of them has. It is not safe to use from several threads at once.
  """

  def __init__(self) -> None:
    # The client whose turn it is comes first, and so does its oldest view.
    self._clients: collections.OrderedDict[Hashable, dict[Hashable, T]] = (
      collections.OrderedDict()
    )

  def put(self, client: Hashable, view: Hashable, job: T) -> T | None:
    """Adds a job, and returns the one that it replaces.

    Raises:
      UserError: too many jobs wait.
    """
    if client not in self._clients and len(self._clients) >= CLIENTS:
      raise UserError("the server is busy with other clients; try again later")
    views = self._clients.setdefault(client, {})
    if view not in views and len(views) >= VIEWS:
      raise UserError(
        f"{VIEWS} requests of this client wait already; wait for one of them"
      )
    replaced = views.get(view)
    views[view] = job
    return replaced

  def take(self, fits: Callable[[T], bool]) -> T | None:
    """Removes and returns the next job that fits, and ends its client's turn.

    None if there is no such job.
    """
    for client, views in self._clients.items():
      for view, job in views.items():
        if fits(job):
          del views[view]
          self._clients.move_to_end(client)
          if not views:
            del self._clients[client]
          return job
    return None

  def withdraw(self, client: Hashable, view: Hashable) -> T | None:
    """Removes and returns the job of a view; None if none waits."""
    views = self._clients.get(client, {})
    job = views.pop(view, None)
    if not views:
      self._clients.pop(client, None)
    return job

  def remove(self, client: Hashable) -> list[T]:
    """Removes and returns all jobs of a client."""
    return list(self._clients.pop(client, {}).values())

  def clear(self) -> list[T]:
    """Removes and returns all jobs."""
    jobs = [job for views in self._clients.values() for job in views.values()]
    self._clients.clear()
    return jobs
