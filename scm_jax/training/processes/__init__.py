"""Several processes as one training: detection, start, loss of a process."""
