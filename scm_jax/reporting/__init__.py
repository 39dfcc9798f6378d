"""Charts and one page from the reports of any set of runs."""
