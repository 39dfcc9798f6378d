"""The command line: one short module per task; flags and printing only."""
