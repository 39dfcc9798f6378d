"""The ONNX file draws the trainer's 1-step samples in ONNX Runtime."""

import logging
import sys

import numpy as np
import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import export

LABELS = np.array([0, 2, 3, 1, 0])  # 3 is "no label"


def relative(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture
def runtime():
  """ONNX Runtime, where the exporter's packages are installed too."""
  for package in ("torch", "onnx", "onnxscript"):
    pytest.importorskip(package)
  return pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, guidance",
  [("deep", 1.7), ("unlabelled-edm2", 1.0), ("dit", 1.7), ("dit-plain", 1.0)]
  + [("dit-sit", 1.0)],
)
def test_samples_agree_with_the_trainers(
  name, guidance, export_of, model_of, draw, runtime, caplog
):
  caplog.set_level(logging.INFO)
  folder = export_of(name, formats=("onnx",))
  assert not caplog.records  # the exporter logs every constant that it folds
  session = runtime.InferenceSession(str(folder / "onnx/sample_1.onnx"))
  model = model_of(name)
  c = model.network.config
  shape = 1, 5, c.resolution, c.resolution, c.in_channels
  noise = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  feed = {
    "noise": noise[0].transpose(0, 3, 1, 2),
    "label": LABELS,
    "guidance": np.full(5, guidance, np.float32),
  }
  takes = {put.name for put in session.get_inputs()}
  assert takes == {"noise"} | (
    ({"label"} if c.num_classes else set())
    | ({"guidance"} if c.guidance else set())
  )
  expected = draw(model, noise, LABELS, 1, guidance)
  for batch in (5, 2):
    part = {k: v[:batch] for k, v in feed.items() if k in takes}
    [data] = session.run(None, part)
    data = data.transpose(0, 2, 3, 1)
    assert relative(data, expected[:batch]) < 1e-4


def test_a_teacher_has_none(model_of, tmp_path):
  request = export.Request(formats=("onnx",), num=0)
  with pytest.raises(ConfigError, match="a diffusion model takes many"):
    export.write(
      model_of("teacher"), export.Origin({}, 0, ""), tmp_path / "x", request
    )
  assert not list(tmp_path.iterdir())


def test_without_the_exporter(model_of, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxscript", None)
  request = export.Request(formats=("onnx",), num=0)
  with pytest.raises(UserError, match=r"pip install 'scm-jax\[export\]'"):
    export.write(
      model_of("student"), export.Origin({}, 0, ""), tmp_path / "x", request
    )
  assert not list(tmp_path.iterdir())
