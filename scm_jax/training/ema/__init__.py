"""Moving averages of the parameters: updated, stored, reconstructed, loaded."""
