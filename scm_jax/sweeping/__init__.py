"""Many runs of one config: points, launching, scoring, one table."""
