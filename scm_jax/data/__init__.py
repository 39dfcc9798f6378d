"""Reads datasets from files and makes the batches of training steps."""
