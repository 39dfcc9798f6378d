"""Objectives: each a pure function of a network function and a batch."""
