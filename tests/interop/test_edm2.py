"""Reading EDM2's pickles: what they hold, and what they may not do."""

import io
import os
import pickle
import tracemalloc
import types

import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.interop import edm2, state_dict, unpickling


@pytest.fixture
def content(forgery, small, draw_params):
  """`content(**changed)` returns parameters and the object of a file."""

  def make(encoder=None, **changed):
    params = draw_params(small()) | changed
    ema = forgery.network(params, small())
    return params, forgery.snapshot(ema, encoder or forgery.pixels())

  return make


@pytest.fixture
def read(tmp_path):
  """`read(data)` reads bytes as a network pickle."""

  def run(data: bytes) -> edm2.Pickle:
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    return edm2.read(path)

  return run


@pytest.fixture
def refused(read):
  """`refused(data)` returns the line that says why data are refused."""

  def run(data: bytes) -> str:
    with pytest.raises(UserError) as info:
      read(data)
    text = str(info.value)
    assert "\n" not in text and "network.pkl" in text
    return text

  return run


@pytest.mark.parametrize("writer", ["plain", "legacy_archive", "zip_archive"])
def test_tensors(writer, forgery, content, read):
  params, data = content()
  pickle_ = read(getattr(forgery, writer)(data))
  assert pickle_.tensors.keys() == params.keys()
  for name, array in params.items():
    found = pickle_.tensors[name]
    assert found.dtype == np.float32 and found.shape == array.shape
    np.testing.assert_array_equal(found, array.astype(np.float32))
  assert (pickle_.channels_per_head, pickle_.sigma_d) == (8, 0.5)
  sizes = {"size": 8, "channels": 1, "num_classes": 10}
  assert pickle_.data == sizes | {"kind": "images", "mean": 0.0, "std": 0.5}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_latents(protocol, forgery, content, read):
  _, data = content(forgery.latents())
  told = read(forgery.plain(data, protocol)).data
  assert told["kind"] == "latents"
  assert told["mean"] == (5.81, 3.25, 0.12, -2.15)
  assert told["std"] == (4.17, 4.62, 3.71, 3.28)


def test_strides_and_types(forgery, content, read):
  array = np.arange(24, dtype=np.float64).reshape(4, 6).T
  params, data = content(**{"unet.odd": array})
  found = read(forgery.plain(data)).tensors
  np.testing.assert_array_equal(found["unet.odd"], array)


@pytest.fixture
def tripwire(forgery, tmp_path):
  """Returns a call of `os.system` that makes a file, and a check for it."""
  path = tmp_path / "executed"
  call = forgery.Reduces(os.system, f"touch {path}")
  return types.SimpleNamespace(call=call, executed=path.exists)


def test_the_tripwire_works(tripwire):
  pickle.loads(pickle.dumps(tripwire.call))
  assert tripwire.executed()


def test_a_call_is_refused_by_name(tripwire, forgery, content, refused):
  _, data = content()
  for place in ("ema", "extra"):
    hostile = forgery.EasyDict(data) | {place: tripwire.call}
    assert "names posix.system" in refused(forgery.plain(hostile))
  assert not tripwire.executed()


@pytest.mark.parametrize("archive", ["legacy_archive", "zip_archive"])
def test_a_call_inside_a_storage(archive, tripwire, forgery, refused):
  inner = getattr(forgery, archive)(tripwire.call)
  outer = forgery.plain({"ema": forgery.Reduces(forgery.FROM_BYTES, inner)})
  assert "names posix.system" in refused(outer)
  # Nor are EDM2's own constructors admitted there.
  nested = getattr(forgery, archive)(forgery.pixels())
  outer = forgery.plain({"ema": forgery.Reduces(forgery.FROM_BYTES, nested)})
  assert "names torch_utils.persistence" in refused(outer)
  assert not tripwire.executed()


def test_source_code_is_never_executed(forgery, content, read):
  """The source code in these files would end the process."""
  _, data = content()
  written = forgery.plain(data)
  assert written.count(forgery.SOURCE.encode()) >= 1
  assert read(written).data["num_classes"] == 10


@pytest.mark.parametrize(
  "module, name",
  [
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("torch.storage", "load"),
    ("torch_utils.persistence", "import_hook"),
    ("numpy.core.multiarray", "fromfile"),
    ("collections", "namedtuple"),
  ],
)
def test_other_names_are_refused(module, name, refused):
  data = f"c{module}\n{name}\n(S'1'\ntR.".encode()
  assert f"it names {module}.{name}," in refused(data)


def test_constructors_cannot_be_changed(refused):
  """A pickle may not set attributes of the functions that it names."""
  function = b"ctorch._utils\n_rebuild_tensor_v2\n"
  changed = function + b"}S'function'\nI1\nsb."
  refused(changed)
  slots = function + b"(N}S'function'\nI1\nstb."
  refused(slots)
  kind = b"ctorch.nn.modules.container\nModuleDict\n"
  for state in (b"}S'class_name'\nS'x'\nsb.", b"(N}S'state'\nI1\nstb."):
    refused(kind + state)


def test_a_large_index_of_the_memo_takes_no_memory():
  data = b"\x80\x02]r\x00\x00\x00\x01."  # an empty list, kept as no. 2**24
  tracemalloc.start()
  try:
    assert unpickling.load(io.BytesIO(data), {}) == []
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 2**20


def test_every_cut_is_noticed(forgery, content, refused):
  _, data = content()
  written = forgery.plain(data)
  for length in np.linspace(0, len(written) - 1, 60).astype(int):
    refused(written[:length])


@pytest.mark.parametrize("archive", ["legacy_archive", "zip_archive"])
def test_cut_archives_are_noticed(archive, forgery, content, refused):
  _, data = content()
  written = getattr(forgery, archive)(data)
  for length in np.linspace(8, len(written) - 1, 30).astype(int):
    refused(written[:length])


def view(forgery, *args):
  storage = forgery.tensor(np.zeros(5, np.float32))._typed_storage()
  return forgery.Reduces(forgery.REBUILD, storage, *args, False, {})


@pytest.mark.parametrize(
  "args",
  [
    (0, (7,), (1,)),
    (1, (6,), (1,)),
    (0, (2, 3), (3, 2)),
    (0, (1000, 1000), (0, 0)),
    (-1, (3,), (1,)),
    (0, (3,), (-1,)),
    (0, (3.0,), (1,)),
    (0, (3,), (1, 1)),
  ],
)
def test_views_beyond_their_storage(args, forgery, refused):
  said = refused(forgery.plain({"ema": view(forgery, *args)}))
  assert "tensor" in said


def test_views_that_share_a_storage(forgery):
  base = forgery.tensor(np.arange(12, dtype=np.float32).reshape(3, 4))
  file = io.BytesIO(forgery.plain({"a": base.T, "b": base[1:, ::2]}))
  found = unpickling.load(file, state_dict.ADMITTED)
  np.testing.assert_array_equal(found["a"], base.T.numpy())
  np.testing.assert_array_equal(found["b"], base[1:, ::2].numpy())


@pytest.mark.parametrize(
  "change, said",
  [
    (lambda f, data: {"net": 1}, "it holds no 'ema'"),
    (lambda f, data: [], "it holds no 'ema'"),
    (
      lambda f, data: f.snapshot(f.persistent("Dhariwal"), f.pixels()),
      "it has a Dhariwal in place of Precond",
    ),
    (
      lambda f, data: f.snapshot({"unet": 1}, f.pixels()),
      "it has a dict in place of Precond",
    ),
    (
      lambda f, data: f.snapshot(data["ema"], f.persistent("Mine")),
      "it has a Mine in place of StandardRGBEncoder or StabilityVAEEncoder",
    ),
  ],
)
def test_other_contents(change, said, forgery, content, refused):
  _, data = content()
  assert said in refused(forgery.plain(change(forgery, data)))


def test_a_module_that_contains_itself():
  module = unpickling.record_type("Block")()
  module.state = {"_modules": {"a": module, "b": module}}
  assert list(state_dict.modules(module)) == [("", module)]


def test_no_such_file(tmp_path):
  with pytest.raises(UserError, match="none.pkl: No such file"):
    edm2.read(tmp_path / "none.pkl")
