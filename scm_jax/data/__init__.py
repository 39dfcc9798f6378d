"""Images from where they are stored to the batches of a training step."""
