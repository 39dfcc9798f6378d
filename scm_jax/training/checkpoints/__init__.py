"""What a run keeps on disk: checkpoints, the best export, checksums."""
