"""Training: from a config to a workdir."""
