"""Gives `errors.nearest` and `errors.hint` their former names."""

from scm_jax.errors import hint, nearest

__all__ = ["hint", "nearest"]
