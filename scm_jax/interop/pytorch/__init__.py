"""The Python files that an export ships for PyTorch, copied as they are.

`unet_trigflow.py` and `pipeline.py` import neither this package nor JAX, and
nothing in this package imports them.
"""

import pathlib

FOLDER = pathlib.Path(__file__).parent
UNET, PIPELINE = FOLDER / "unet_trigflow.py", FOLDER / "pipeline.py"
