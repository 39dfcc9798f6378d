"""What is checked and measured on the day that an accelerator is at hand.

`launch/accelerator.sh` runs it; docs/accelerators.md describes it. It needs
jax, flax, optax, orbax and chex, and for single parts what their entries name.
"""
