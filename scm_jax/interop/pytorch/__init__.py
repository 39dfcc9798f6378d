"""What an export ships for PyTorch: files of its own, copied as they are.

`unet_trigflow.py` and `pipeline.py` import neither this package nor JAX, and
nothing here imports them.
"""

import pathlib

FOLDER = pathlib.Path(__file__).parent
UNET, PIPELINE = FOLDER / "unet_trigflow.py", FOLDER / "pipeline.py"
