"""Adds the folder configs to what is built; pyproject.toml has the rest."""

from setuptools import setup
from setuptools.command import build_py

SHIPPED = "scm_jax.shipped.configs"


class BuildPy(build_py.build_py):
  """Builds the package with the configs in scm_jax/shipped/configs.

  An editable installation finds them where they are: see
  scm_jax/cli/config_files.py.
  """

  def finalize_options(self) -> None:
    """Adds the folder as a package of the distribution."""
    super().finalize_options()
    if not self.editable_mode:
      self.packages = [*self.packages, SHIPPED]
      self.package_dir = {**self.package_dir, SHIPPED: "configs"}


setup(cmdclass={"build_py": BuildPy})
