"""Datasets, from files to the batches of a training step."""
