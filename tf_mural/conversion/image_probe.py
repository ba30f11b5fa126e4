"""What must be known of encoded images, by Pillow."""

import io

from tf_mural.datasets.image_files import ERRORS, pillow

_GREY = 256  # pixels a side that are enough for a perceptual hash


def size(data):
    """(width, height) of an encoded image by its header, or a string: why there is none."""
    image_module = pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            return image.size
    except image_module.DecompressionBombError:
        return "image too large"
    except ERRORS:
        return "image does not decode"


def grey(data):
    """The image of encoded bytes in grey, or a string: why there is none.

    Large JPEGs come smaller, since they are decoded faster so.
    """
    image_module = pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            image.draft("L", (_GREY, _GREY))
            if image.mode in ("P", "PA", "LA", "RGBA"):
                image = image.convert("RGBA")  # What is transparent lies on white.
                white = image_module.new("RGBA", image.size, "white")
                image = image_module.alpha_composite(white, image)
            return image.convert("L")
    except image_module.DecompressionBombError:
        return "image too large"
    except ERRORS:
        return "image does not decode"
