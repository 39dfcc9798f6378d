"""Importing public weights; numpy reads them, nothing in them is executed."""
