"""A folder such as ImageNet's: mixed sizes and modes, two files that are bad.

    wanted = photographs.write(folder, classes=3, each=10)

Other tests may use it from a few images to a few hundred.
"""

import io
import json
import pathlib
import zipfile

import numpy as np
from PIL import Image

SIZES = ((40, 30), (33, 70), (16, 16), (100, 64), (20, 21), (65, 48))
# Modes in which files are stored, and the suffix of each.
STORED = (
  ("RGB", "JPEG"),
  ("L", "JPEG"),
  ("CMYK", "JPEG"),
  ("P", "png"),
  ("RGBA", "png"),
  ("rotated", "JPEG"),
  ("LA", "png"),
  ("I;16", "png"),
  ("1", "png"),
)
TRUNCATED = "n00/truncated.JPEG"
NOT_AN_IMAGE = "n01/text.JPEG"


def scene(number: int) -> Image.Image:
  """A smooth RGB picture of its own colours and size."""
  width, height = SIZES[number % len(SIZES)]
  rng = np.random.default_rng(number)
  coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
  return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def encode(image: Image.Image, mode: str, suffix: str) -> bytes:
  """The picture as a file of that mode."""
  file = io.BytesIO()
  extra = {}
  if mode == "rotated":
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    extra["exif"] = exif
  elif mode == "RGBA":
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
  elif mode == "I;16":
    grey = np.asarray(image.convert("L"), np.uint16) * 257
    image = Image.fromarray(grey)
  else:
    image = image.convert(mode)
  image.save(file, {"JPEG": "JPEG", "png": "PNG"}[suffix], **extra)
  return file.getvalue()


def make(
  classes: int = 3, each: int = 10, bad: bool = True
) -> dict[str, bytes]:
  """Files by their names, `n00/000.JPEG` and so on."""
  files = {}
  for number in range(classes * each):
    mode, suffix = STORED[number % len(STORED)]
    name = f"n{number // each:02}/{number % each:03}.{suffix}"
    files[name] = encode(scene(number), mode, suffix)
  if bad:
    whole = encode(scene(3), "RGB", "JPEG")
    files[TRUNCATED] = whole[: len(whole) * 2 // 3]
    files[NOT_AN_IMAGE] = b"this is no image\n"
    files["n01/notes.txt"] = b"nor does this claim to be one\n"
  return files


def write(folder: pathlib.Path, **sizes) -> dict[str, bytes]:
  """Writes `make(**sizes)` below a folder, and returns it."""
  files = make(**sizes)
  for name, data in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
  return files


def write_zip(path: pathlib.Path, files: dict[str, bytes]) -> None:
  """Writes files into an archive, last name first."""
  with zipfile.ZipFile(path, "w") as archive:
    for name in sorted(files, reverse=True):
      archive.writestr(name, files[name])


def as_edm2(files: dict[str, bytes]) -> dict[str, bytes]:
  """The same images under EDM2's names, with its `dataset.json`."""
  classes = sorted({name.partition("/")[0] for name in files})
  renamed, labels = {}, []
  for number, name in enumerate(sorted(files)):
    new = f"{number // 1000:05}/img{number:08}{pathlib.Path(name).suffix}"
    renamed[new] = files[name]
    labels.append([new, classes.index(name.partition("/")[0])])
  renamed["dataset.json"] = json.dumps({"labels": labels}).encode()
  return renamed
