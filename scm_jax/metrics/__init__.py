"""Scores of generated images: features, distances, reports and pictures."""
