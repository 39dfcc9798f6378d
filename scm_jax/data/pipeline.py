"""Makes training batches; the batch at step k is a function of (seed, k).

The elements form one infinite stream: the source, shuffled anew in each epoch.
Global batch k consists of the B elements kB..kB+B-1 of the stream, in order,
for any number of processes. Of n processes, each with b = B/n elements of a
batch, process p reads elements kB+pb..kB+pb+b-1, so that the parts of all
processes, one after the other, are the global batch. A run can therefore resume
at any step, with any number of processes, without a saved iterator.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from scm_jax.errors import ConfigError, UserError

Batch = dict[str, np.ndarray]


class Batches:
  """The stream of global batches; each process reads its part of them.

  `batches[k]` is the batch at step k: `image` [b, H, W, C], uint8 or, if the
  source holds latents, a float type with 2 C channels, and `label`, int32 [b].
  """

  def __init__(
    self,
    source: grain.sources.RandomAccessDataSource[Any],
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    flip: bool = False,
  ):
    """Lays out the stream; nothing is read yet.

    Args:
      source: the elements, of equal shapes, for example a list of dicts.
      batch_size: the global batch size B; it may exceed the source's length.
      seed: the number that fixes the order and the flips.
      process_index: this process's number p.
      process_count: the number of processes n, which divides B.
      flip: whether to mirror each element left-right with probability 1/2.

    Raises:
      ConfigError: B is not a positive multiple of n, or the seed is negative.
      UserError: there are no elements.
    """
    if not len(source):
      raise UserError("there are no elements to make batches of")
    if batch_size <= 0 or batch_size % process_count:
      raise ConfigError(
        f"config.batch_size={batch_size} cannot be divided among "
        f"{process_count} process(es); make it a positive multiple of that"
      )
    if seed < 0:
      raise ConfigError(f"config.seed={seed} is negative; make it 0 or more")
    if not 0 <= process_index < process_count:
      raise ValueError(f"{process_index=} is not in 0..{process_count - 1}")
    # Grain shuffles epoch e with its seed plus e, so runs with seeds close to
    # each other would see the same orders. SeedSequence spreads the seeds.
    order_seed, flip_seed = np.random.SeedSequence(seed).generate_state(2)
    stream = grain.MapDataset.source(source).map(_checked)
    stream = stream.shuffle(seed=int(order_seed)).repeat()
    if flip:  # before the slice, which would renumber the elements
      stream = stream.random_map(_random_flip, seed=int(flip_seed))
    # Slicing batches, not elements, gives each process consecutive elements.
    local_size = batch_size // process_count
    # Otherwise Grain counts the batches of an endless stream in floats.
    parts = stream.batch(local_size, drop_remainder=True, batch_fn=_stacked)
    self._batches = parts[process_index::process_count]

  def __getitem__(self, step: int) -> Batch:
    if step < 0:
      raise IndexError(f"there is no batch at step {step}")
    return self._batches[step]

  def iterate(self, start_step: int = 0) -> Iterator[Batch]:
    """Yields the batches from `start_step` on, without end."""
    # One thread reads ahead: more would contend for Python's lock.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(self._batches[start_step:].to_iter_dataset(options))


def _random_flip(element: dict[str, Any], rng: np.random.Generator) -> Any:
  if rng.random() < 0.5:
    return {**element, "image": element["image"][:, ::-1]}
  return element


def _checked(element: Any) -> Batch:
  """Returns an element's image and label; what it has besides is left out."""
  if not isinstance(element, Mapping) or "image" not in element:
    raise UserError(
      "every element must be a dict that has `image` and `label`; one is a "
      f"{type(element).__name__}"
    )
  label = np.asarray(element.get("label"))
  if label.ndim or not np.issubdtype(label.dtype, np.integer):
    found = f"one of {label.dtype} {list(label.shape)}"
    raise UserError(
      "every element needs a label, a whole number, and has "
      f"{'none' if label.dtype == object else found}; give each the label 0 if "
      "there are no classes"
    )
  return {"image": np.asarray(element["image"]), "label": label}


def _stacked(elements: Sequence[Batch]) -> Batch:
  """Returns a batch of elements, whose images must be alike."""
  images = [element["image"] for element in elements]
  kinds = sorted({f"{x.dtype} {list(x.shape)}" for x in images})
  if len(kinds) > 1:
    raise UserError(
      f"there are images of {' and of '.join(kinds)}; all must have the same "
      "type and shape"
    )
  label = np.stack([element["label"] for element in elements])
  return {"image": np.stack(images), "label": label.astype(np.int32)}
