"""ImageNet in, FID out: a folder of photographs through every command.

On 1 and on 8 devices: the same dataset, training, samples and score, within
rounding.
"""

import json
import pathlib

import numpy as np
import pytest

CHAIN = pathlib.Path(__file__).with_name("imagenet_chain.py")


@pytest.fixture(scope="module", params=[1, 8])
def result(request, chains):
  return chains[request.param]


@pytest.fixture(scope="module")
def chains(
  photographs, autoencoder_folder, inception_file, python, tmp_path_factory
):
  folder = tmp_path_factory.mktemp("imagenet")
  photographs.write(folder / "photographs", classes=10, each=20)
  found = {}
  for devices in (1, 8):
    folders = folder / f"on_{devices}", folder / "photographs"
    argv = CHAIN, *folders, autoencoder_folder, inception_file
    said = python(*argv, JAX_NUM_CPU_DEVICES=str(devices))
    found[devices] = json.loads(said.rpartition("RESULT ")[2])
    assert found[devices]["devices"] == devices
  return found


@pytest.mark.slow
def test_every_command_does_its_part(result):
  assert len(result["losses"]) == 5 and np.isfinite(result["losses"]).all()
  images = np.asarray(result["samples"], np.uint8)
  assert images.shape == (8, 32, 32, 3) and images.std() > 1
  (run,) = result["runs"]
  # Three evaluations with and three without the label, as the config has it.
  assert run["num"] == 80 and (run["guidance"], run["nfe"]) == (1.4, 6)
  assert any("decoded latents, not real" in line for line in run["warnings"])
  assert run["fd"]["inception"] > 0


@pytest.mark.slow
def test_the_same_on_8_devices_as_on_1(chains):
  one, eight = chains[1], chains[8]
  assert len(one["dataset"]) > 10
  np.testing.assert_allclose(one["dataset"], eight["dataset"], rtol=1e-6)
  close = {"rtol": 1e-3, "atol": 1e-3}  # of bfloat16, summed in another order
  np.testing.assert_allclose(one["losses"], eight["losses"], **close)
  images = [np.asarray(c["samples"], np.int16) for c in (one, eight)]
  assert np.abs(images[0] - images[1]).max() <= 1  # a level of rounding
  scores = [c["runs"][0]["fd"]["inception"] for c in (one, eight)]
  assert scores[0] == pytest.approx(scores[1], rel=1e-3)
