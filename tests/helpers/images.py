"""Small images for tests, as arrays and as bytes of image files."""

import io

import numpy as np
from PIL import Image


def encode(image, format="PNG", **options):
    """Encodes an image.

    Args:
        image: `PIL.Image.Image`, or uint8 array (h, w) or (h, w, 3).
        format: name of a format of Pillow.
        **options: options of Pillow's encoder.

    Returns:
        bytes.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain_image(color="red", format="JPEG", mode="RGB", size=(6, 4)):
    """Returns the bytes of an image of a single color; `size` is (width, height)."""
    return encode(Image.new("RGB", size, color).convert(mode), format)


def gray_image(value, size=4, format="PNG"):
    """Returns the bytes of a square RGB image whose pixels all have the same value."""
    return encode(np.full((size, size, 3), value, np.uint8), format)


def random_pixels(seed=0, height=40, width=30, channels=3):
    """Returns uint8 noise (height, width, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def blurred_noise(seed, width=256, height=256):
    """Returns a `PIL.Image.Image` of smooth random colors that differs clearly between seeds."""
    return Image.fromarray(random_pixels(seed, 6, 6)).resize((width, height), Image.BICUBIC)
