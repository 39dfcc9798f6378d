"""Continuous-time consistency models (sCM) in JAX.

Import the rooms by name: `scm_jax.trigflow`, `scm_jax.networks`,
`scm_jax.objectives` and `scm_jax.samplers` need jax, flax and numpy alone;
everything above them needs the extra `scm-jax[train]`.
"""
