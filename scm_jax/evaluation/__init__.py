"""Scores trained networks: joins models, data and metrics into a report."""
