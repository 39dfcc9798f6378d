"""The published figures that come with the package, and a user's own."""

import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.reporting import published


@pytest.mark.parametrize("name", list(published.TITLES))
def test_every_figure_has_a_source_and_occurs_once(name):
  figures = published.load(name)
  assert all("arXiv:" in figure.source for figure in figures)
  assert all(figure.method and figure.fid and figure.nfe for figure in figures)
  keys = [(figure.method, figure.nfe) for figure in figures]
  assert len(set(keys)) == len(keys)


def test_figures_are_those_of_the_paper():
  figures = {(f.method, f.nfe): f for f in published.load("imagenet512")}
  best = figures["sCD-XXL", 2]
  assert (best.fid, best.fdd, best.params_millions) == (1.88, 44.97, 1523.4)
  assert best.compute == pytest.approx(3.0468)
  teacher = figures["EDM2-XXL", 126]
  assert teacher.fid == 1.81
  # The announcement's claim: less than a tenth of the sampling compute.
  assert best.compute < teacher.compute / 10
  assert best.fid / figures["TrigFlow teacher-XXL", 126].fid < 1.1


def test_without_parameters_there_is_no_compute():
  figure = next(f for f in published.load("imagenet64") if f.method == "DMD2")
  assert (figure.fid, figure.compute) == (1.28, None)


def test_own_file(tmp_path):
  file = tmp_path / "mine.csv"
  file.write_text("method,nfe,params_millions,fid\nmine,2,100,3.5\nold,,,9\n")
  mine, old = published.load(str(file))
  assert (mine.method, mine.compute, mine.fdd) == ("mine", 0.2, None)
  assert (old.fid, old.compute) == (9.0, None)
  assert published.load("none") == []


@pytest.mark.parametrize(
  ("text", "said"),
  [
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
