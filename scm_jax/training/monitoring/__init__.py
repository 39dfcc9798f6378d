"""Watching a training: metrics, health, progress, profiles, signals."""
