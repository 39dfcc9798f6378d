"""EMAs of the parameters: their update, snapshots, reconstruction, loading."""
