"""Which of the waiting requests is next."""

import pytest

from scm_jax.errors import UserError
from scm_jax.serving import schedule
from scm_jax.serving.schedule import Queue


def anything(job):
  return True


def all_of(queue, fits=anything):
  """The jobs in the order in which they are taken."""
  taken = []
  while (job := queue.take(fits)) is not None:
    taken.append(job)
  return taken


def test_the_newest_of_a_view_takes_the_place_of_the_one_before():
  queue = Queue()
  assert queue.put("a", "grid", 1) is None
  assert queue.put("a", "walk", 2) is None
  assert queue.put("b", "grid", 3) is None
  assert queue.put("a", "grid", 4) == 1
  assert sorted(all_of(queue)) == [2, 3, 4]


def test_clients_take_turns_however_many_jobs_one_has():
  queue = Queue()
  for view in range(5):
    queue.put("greedy", view, ("greedy", view))
  queue.put("late", 0, ("late", 0))
  order = all_of(queue)
  assert order[:3] == [("greedy", 0), ("late", 0), ("greedy", 1)]
  assert len(order) == 6


def test_a_client_that_asks_again_at_once_does_not_overtake():
  queue = Queue()
  for client in "abc":
    queue.put(client, 0, client)
  served = []
  for _ in range(9):
    job = queue.take(anything)
    served.append(job)
    queue.put(job, 0, job)
  assert served == list("abc") * 3


def test_what_does_not_fit_waits():
  queue = Queue()
  for number in range(6):
    queue.put(number % 2, number, number)
  assert sorted(all_of(queue, lambda job: job > 3)) == [4, 5]
  assert sorted(all_of(queue)) == [0, 1, 2, 3]


def test_jobs_of_a_client_that_left_are_gone():
  queue = Queue()
  queue.put("a", 0, 1)
  queue.put("b", 0, 2)
  assert queue.remove("a") == [1]
  assert queue.remove("a") == []
  assert queue.clear() == [2]
  assert queue.take(anything) is None


def test_only_so_much_may_wait():
  queue = Queue()
  for view in range(schedule.VIEWS):
    queue.put("a", view, view)
  assert queue.put("a", 0, -1) == 0
  with pytest.raises(UserError):
    queue.put("a", "one more", 0)
  for client in range(schedule.CLIENTS - 1):
    queue.put(client, 0, 0)
  with pytest.raises(UserError):
    queue.put("one more", 0, 0)
