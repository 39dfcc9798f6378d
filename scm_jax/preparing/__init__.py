"""Datasets made from images as they are found: `scm-jax prepare`."""
