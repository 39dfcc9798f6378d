"""`python -m scm_jax TASK` is the console script `scm-jax TASK`."""

import sys

from scm_jax.cli import main

if __name__ == "__main__":
  sys.exit(main.main())
