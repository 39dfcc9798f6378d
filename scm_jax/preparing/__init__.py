"""Datasets made from images as they are found, for `scm-jax prepare`."""
