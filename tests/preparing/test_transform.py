"""Image files of every mode as pixels, and the square from their middle."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from scm_jax.preparing import index, transform


def png(image: Image.Image, **extra) -> bytes:
  file = io.BytesIO()
  image.save(file, "PNG", **extra)
  return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "I;16"])
def test_uniform_images_keep_their_colour(mode):
  grey = Image.new("L", (5, 4), 255 if mode == "1" else 77)
  if mode == "I;16":
    image = Image.fromarray(np.asarray(grey, np.uint16) * 257)
  else:
    colours = grey.convert("RGB")
    image = colours.quantize() if mode == "P" else colours.convert(mode)
  for channels in (1, 3):
    found, notes = transform.decode(png(image), channels)
    colour = np.asarray(grey)[0, 0]
    np.testing.assert_allclose(np.asarray(found), colour, atol=1)
    assert np.asarray(found).shape == (4, 5) + (3,) * (channels == 3)
    wanted = "RGB" if channels == 3 else "L"
    assert (mode in notes) == (mode != wanted)


def test_cmyk(photographs):
  scene = photographs.scene(0)
  data = photographs.encode(scene, "CMYK", "JPEG")
  found, notes = transform.decode(data, 3)
  error = np.asarray(found, float) - np.asarray(scene, float)
  assert notes == ("CMYK",)
  assert np.abs(error).mean() < 4  # JPEG's loss; inverted it would be 80


@pytest.mark.parametrize("channels", [1, 3])
def test_cielab(channels):
  file = io.BytesIO()
  Image.new("RGB", (5, 4), (77, 77, 77)).convert("LAB").save(file, "TIFF")
  found, notes = transform.decode(file.getvalue(), channels)
  assert notes == ("LAB",)
  np.testing.assert_allclose(np.asarray(found), 77, atol=2)


def test_orientation(photographs):
  scene = photographs.scene(0)  # 40 wide, 30 high
  data = photographs.encode(scene, "rotated", "JPEG")
  turned, notes = transform.decode(data, 3)
  assert (turned.size, notes) == ((30, 40), ("rotated",))
  error = np.asarray(turned, float) - np.rot90(np.asarray(scene, float), -1)
  assert np.abs(error).mean() < 4
  stored, notes = transform.decode(data, 3, "adm")
  assert (stored.size, notes) == ((40, 30), ())


def test_damaged_tags_cost_no_image(photographs):
  """The maker is a fraction, which Pillow cannot write, and the image lies."""
  tags = ((0x10F, 5, 1, 38), (0x112, 3, 1, 6))
  tiff = b"II*\0" + struct.pack("<IH", 8, 2)
  tiff += b"".join(struct.pack("<HHII", *tag) for tag in tags)
  tiff += struct.pack("<III", 0, 1, 2)
  file = io.BytesIO()
  photographs.scene(0).save(file, "JPEG", exif=b"Exif\0\0" + tiff)
  image, notes = transform.decode(file.getvalue(), 3)
  assert (image.size, notes) == ((30, 40), ("rotated",))


def test_every_orientation(photographs):
  """As Pillow turns images whose tags are sound."""
  for number in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = number
    data = png(photographs.scene(0), exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found, _ = transform.decode(data, 3)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_sixteen_bits_with_a_transparent_level_are_scaled():
  levels = np.array([[0, 100 * 257, 254 * 257]], np.uint16)
  data = png(Image.fromarray(levels), transparency=5)
  found, _ = transform.decode(data, 1)
  assert np.asarray(found).tolist() == [[0, 100, 254]]


def test_what_is_stored_has_pixels_alone():
  class Files:
    def read(self, key):
      image = Image.new("RGB", (16, 16), (1, 2, 3))
      return png(image, transparency=(1, 2, 3), icc_profile=b"colours"), None

  how = transform.Transform("png", 16, 3, "adm")
  made = transform.prepare(Files(), how, index.Item("a.png", 0))
  with Image.open(io.BytesIO(made.data)) as stored:
    stored.load()
    assert stored.info == {}


def test_transparency():
  image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
  image.putpixel((1, 0), (10, 20, 30, 0))
  found, notes = transform.decode(png(image), 3)
  assert [found.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255,) * 3]
  assert notes == ("RGBA", "transparent")
  found, notes = transform.decode(png(image), 3, "adm")
  assert found.getpixel((1, 0)) == (10, 20, 30)
  palette = Image.new("P", (2, 1), 0)
  palette.putpalette([9, 9, 9, 50, 60, 70])
  palette.putpixel((1, 0), 1)
  found, _ = transform.decode(png(palette, transparency=0), 3)
  assert found.getpixel((0, 0)) == (255,) * 3
  assert found.getpixel((1, 0)) == (50, 60, 70)


@pytest.mark.parametrize(
  "data, reason",
  [
    (b"", "not an image"),
    (b"hello", "not an image"),
    (png(Image.effect_noise((50, 50), 9))[:-999], "truncated"),
  ],
)
def test_unreadable(data, reason):
  with pytest.raises(index.UnreadableError, match=reason) as error:
    transform.decode(data, 3)
  assert " at 0x" not in str(error.value)


def test_halving_averages_blocks():
  rng = np.random.default_rng(0)
  array = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
  found = np.asarray(transform.centre_crop(Image.fromarray(array), 8), float)
  means = array.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
  assert np.abs(found - means).max() <= 2  # rounded twice along each axis


def test_images_of_the_size_stay():
  rng = np.random.default_rng(0)
  array = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
  found = np.asarray(transform.centre_crop(Image.fromarray(array), 16))
  np.testing.assert_array_equal(found, array)


def test_crop_takes_the_middle():
  # A ramp along x: what is cut must have its middle in the middle.
  ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))
  found = np.asarray(transform.centre_crop(Image.fromarray(ramp), 40), float)
  np.testing.assert_array_equal(found, ramp[:, 40:80])
  half = np.asarray(transform.centre_crop(Image.fromarray(ramp), 20), float)
  assert abs(half.mean() - ramp.mean()) <= 1
  for size in ((1, 1), (1, 30), (7, 3), (301, 40)):
    image = Image.new("L", size, 9)
    assert transform.centre_crop(image, 20).size == (20, 20)
