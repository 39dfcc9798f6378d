"""The published results that come with the package, and a user's own."""

from math import isnan

import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.reporting import published


@pytest.mark.parametrize("name", published.DATASETS)
def test_every_result_has_a_source_and_occurs_once(name):
  results = published.load(name)
  assert results.source.str.contains("arXiv:").all()
  assert results[["method", "fid", "nfe"]].notna().all(axis=None)
  assert not results.duplicated(["method", "nfe"]).any()
  assert results.fid.is_monotonic_increasing


def test_results_are_those_of_the_paper():
  results = published.load("imagenet512").set_index(["method", "nfe"])
  best = results.loc["sCD-XXL", 2]
  assert (best.fid, best.fdd, best.params_millions) == (1.88, 44.97, 1523.4)
  assert best.effective_compute == pytest.approx(3.0468)
  teacher = results.loc["EDM2-XXL", 126]
  assert teacher.fid == 1.81
  # The announcement's claim: less than a tenth of the sampling compute.
  assert best.effective_compute < teacher.effective_compute / 10
  assert best.fid / results.loc["TrigFlow teacher-XXL", 126].fid < 1.1


def test_without_parameters_there_is_no_compute():
  results = published.load("imagenet64").set_index("method")
  assert results.fid["DMD2"] == 1.28
  assert isnan(results.effective_compute["DMD2"])


def test_own_file(tmp_path):
  file = tmp_path / "mine.csv"
  file.write_text("method,nfe,params_millions,fid\nmine,2,100,3.5\nold,,,9\n")
  mine, old = published.load(str(file)).to_dict("records")
  assert (mine["method"], mine["effective_compute"]) == ("mine", 0.2)
  assert isnan(mine["fdd"])
  assert old["fid"] == 9.0 and isnan(old["effective_compute"])
  assert not len(published.load("none"))


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "not a CSV table"),
    ("method,nfe\nmine,2\n", "has no column 'fid'"),
    ("method,nfe,params_millions,fid\nmine,two,1,1\n", "line 2: nfe is 'two'"),
    ("method,nfe,params_millions,fid\nmine,2,1,-1\n", "fid is '-1'"),
  ],
)
def test_bad_files(tmp_path, text, said):
  file = tmp_path / "mine.csv"
  file.write_text(text)
  with pytest.raises(UserError, match=said):
    published.load(str(file))


def test_bad_names(tmp_path):
  with pytest.raises(ConfigError, match="did you mean 'imagenet512'"):
    published.load("imagnet512")
  with pytest.raises(UserError, match="cannot read .*: No such file"):
    published.load(str(tmp_path / "none.csv"))
