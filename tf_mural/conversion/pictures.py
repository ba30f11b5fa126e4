"""What must be known of encoded images, by Pillow."""

import functools
import io

from tf_mural.base import UserError

_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError)
_GREY = 256  # pixels a side that are enough for a perceptual hash


def size(data):
    """(width, height) of an encoded image by its header, or a string: why there is none."""
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data)) as image:
            return image.size
    except pillow.DecompressionBombError:
        return "image too large"
    except _ERRORS:
        return "image does not decode"


def grey(data):
    """The image of encoded bytes in grey, or a string: why there is none.

    Large JPEGs come smaller, since they are decoded faster so.
    """
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data)) as image:
            image.draft("L", (_GREY, _GREY))
            if image.mode in ("P", "PA", "LA", "RGBA"):
                image = image.convert("RGBA")  # What is transparent lies on white.
                white = pillow.new("RGBA", image.size, "white")
                image = pillow.alpha_composite(white, image)
            return image.convert("L")
    except pillow.DecompressionBombError:
        return "image too large"
    except _ERRORS:
        return "image does not decode"


@functools.cache
def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading images needs Pillow: pip install pillow") from error
    import warnings

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image
