"""The Python files that an export ships for PyTorch, copied as they are."""
