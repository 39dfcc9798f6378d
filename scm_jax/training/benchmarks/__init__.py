"""Measurements of the train step and of sampling."""
