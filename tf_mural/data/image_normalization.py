"""Converts image files and Pillow images to upright 8-bit RGB images without transparency.

TensorFlow ignores the orientation in EXIF data and drops transparency. Many photographs from phones
would be rotated by 90 degrees, and the transparent background of a logo would become black. All
code that reads images of users therefore calls `normalize`: the conversion to records, the
`Embedder`, the index, and the search page. Image files that TensorFlow decodes correctly keep their
bytes. This module needs Pillow, but not TensorFlow.
"""

import functools
import io
from typing import NamedTuple

import numpy as np

from tf_mural.data import image_headers
from tf_mural.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError)  # Raised by Pillow.
# MPO is Pillow's name for a file of several JPEGs, which some cameras write.
PILLOW_FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP"}
_ORIENTATION = 0x0112  # the EXIF tag of the orientation; 1 means upright
# {orientation: method of Pillow that turns the image upright}
_TRANSPOSITIONS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# Rotated JPEGs with more pixels than this are stored as JPEGs, because PNG files would be several
# times as large. In smaller JPEGs, a second compression would change the pixels by more than 2
# levels.
_MAX_PNG_PIXELS = 512 * 512
_JPEG_QUALITY = 95

# Names of the changes that `normalize` makes. The ledger of a conversion contains these names.
ROTATED = "turned upright, as the EXIF orientation states"
FLATTENED = "transparency replaced by the background color"
REENCODED = "encoded again, because TensorFlow decodes this kind of file differently"
AMBIGUOUS_CMYK = "CMYK JPEG without Adobe's marker, so its colors are ambiguous: save it as RGB"


class UnreadableImage(UserError):
    """An image cannot be decoded, or the file does not determine its colors."""


class Normalized(NamedTuple):
    """The result of `normalize`.

    Attributes:
        data: bytes of an image file that TensorFlow decodes correctly.
        changes: tuple of the changes, some of `ROTATED`, `FLATTENED` and `REENCODED`; () if `data`
            is unchanged.
    """

    data: bytes
    changes: tuple


def normalize(data, background="white", lossless=False):
    """Returns an image file that TensorFlow decodes to upright 8-bit RGB pixels.

    The EXIF orientation is applied, also in PNG and WebP files. Transparent pixels are composited
    on a background color. Only the first frame of an animation is used. The bytes are returned
    unchanged if TensorFlow decodes them to these pixels; for most JPEG and PNG files, the headers
    decide this. In this comparison, the mean absolute difference of a JPEG may be up to 2 levels of
    256, because TensorFlow and Pillow use different JPEG decoders. All other files are encoded
    again: rotated JPEGs with more than 512 x 512 pixels as JPEG of quality 95 without chroma
    subsampling, all others as PNG.

    Args:
        data: bytes of a JPEG, PNG, GIF, BMP or WebP file.
        background: color of transparent areas, see `parse_color`.
        lossless: whether large rotated JPEGs are also encoded as PNG.

    Returns:
        `Normalized`.

    Raises:
        UnreadableImage: the file does not decode, has another format, is too large, or is a CMYK
            JPEG without Adobe's marker. Without the marker, no field of the file states whether 0
            or 255 means "no ink", and decoders disagree.
    """
    if image_headers.decodes_alike(data):
        return Normalized(data, ())
    image_module = import_pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            if image.format not in PILLOW_FORMATS:
                raise UnreadableImage(f"image format is none of {', '.join(FORMATS)}")
            image.load()
            rgb, changes = to_rgb(image, background)
            if not changes and _tensorflow_decodes(data, image):
                return Normalized(data, ())
            large = rgb.width * rgb.height > _MAX_PNG_PIXELS
            as_jpeg = image.format in ("JPEG", "MPO") and large and not lossless
            encoded = _encode(rgb, as_jpeg, fast=lossless)
    except image_module.DecompressionBombError as error:
        raise UnreadableImage("image too large") from error
    except DECODE_ERRORS as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage("image does not decode") from error
    return Normalized(encoded, changes or (REENCODED,))


def to_rgb(image, background="white"):
    """Converts a Pillow image to upright pixels of mode "RGB" or "L".

    Args:
        image: Pillow image of any mode. The orientation in its EXIF data is applied.
        background: see `normalize`.

    Returns:
        (Pillow image, tuple of the changes `ROTATED` and `FLATTENED`).

    Raises:
        UnreadableImage: the colors are ambiguous, or integer or float pixels are not in [0, 255].
    """
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        raise UnreadableImage(AMBIGUOUS_CMYK)
    image, changes = upright(image)
    rgba = _with_alpha(image)
    if rgba is not None and rgba.getchannel("A").getextrema()[0] < 255:
        canvas = import_pillow().new("RGBA", image.size, parse_color(background))
        flat = import_pillow().alpha_composite(canvas, rgba)
        return flat.convert("RGB"), (*changes, FLATTENED)
    if rgba is not None:
        return rgba.convert("RGB"), changes
    return _opaque(image), changes


def upright(image):
    """Applies the EXIF orientation of a Pillow image.

    Args:
        image: Pillow image. The orientation in XMP data is used only if EXIF data contain none.

    Returns:
        (Pillow image, (`ROTATED`,) or ()).
    """
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Damaged EXIF data raise errors of many types; the pixels may be intact.
        orientation = None
    if orientation not in _TRANSPOSITIONS:
        return image, ()
    method = getattr(import_pillow().Transpose, _TRANSPOSITIONS[orientation])
    return image.transpose(method), (ROTATED,)


def stored_images_note(folder, manifest):
    """Returns a sentence about the images of a record set that were not normalized, or "".

    Args:
        folder: folder of the record set.
        manifest: content of manifest.json. Conversions of this version write the key
            "changed_images" to the ledger.
    """
    ledger = manifest.get("ledger")
    if not manifest.get("images") or not ledger or "changed_images" in ledger:
        return ""
    return (
        f"{folder} was converted by an earlier version: its images are used as they are stored, "
        "without EXIF orientation and without transparency; to normalize them, convert the data "
        "again with overwrite"
    )


def parse_color(color):
    """Returns the integers (red, green, blue) of a color.

    Args:
        color: name of a color in CSS, or hexadecimal notation, such as "white" or "#ffcc00".

    Raises:
        UserError: the color is unknown.
    """
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(color)[:3]
    except (ValueError, AttributeError) as error:
        raise UserError(
            f'background is {color!r}, expected the name of a color, such as "white", or "#rrggbb"'
        ) from error


def _with_alpha(image):
    """Returns the image in mode "RGBA" if it has transparency, else None."""
    shade = image.info.get("transparency")
    if image.mode.startswith("I;16") and isinstance(shade, int):
        values = np.asarray(image)
        alpha = import_pillow().fromarray(np.where(values == shade, 0, 255).astype(np.uint8))
        rgba = _opaque(image).convert("RGBA")
        rgba.putalpha(alpha)
        return rgba
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    if shade is None or image.mode not in ("1", "L", "P", "RGB"):
        return None
    if isinstance(shade, tuple) and max(shade) > 255:
        # Pillow reduces pixels of 16 bits to their high byte, but not the transparent color.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in shade)
    return image.convert("RGBA")


def _opaque(image):
    """Converts a Pillow image without transparency to mode "RGB" or "L"."""
    if image.mode.startswith("I;16"):  # Pillow would clip values above 255.
        return import_pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        if low < 0 or high > 255:
            raise UnreadableImage(f"gray values from {low} to {high}, expected 0 to 255")
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _encode(image, as_jpeg, fast):
    buffer = io.BytesIO()
    if as_jpeg:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4", exif=b"")
    else:
        image.info = {}  # The orientation and the transparency no longer apply.
        image.save(buffer, "PNG", **({"compress_level": 1} if fast else {}))
    return buffer.getvalue()


def _tensorflow_decodes(data, image):
    """Returns whether TensorFlow decodes the bytes to the pixels of the Pillow image."""
    if image.format == "GIF":
        # TensorFlow fails without the last byte, omits the area around a small first frame, and
        # refuses pixels whose color is not in the palette.
        colors = image_headers.full_gif_frame_colors(data)
        return data.endswith(b";") and image.getextrema()[1] < colors
    if image.format in ("JPEG", "MPO"):
        return image_headers.is_usual_jpeg(data)
    if image.format != "BMP":
        return image.format == "PNG"
    # TensorFlow interprets the indices of a palette as shades of gray.
    fields = data[14:18], data[28:30], data[30:34]
    header, bits, compression = (int.from_bytes(field, "little") for field in fields)
    # TensorFlow refuses a BMP with bytes after its pixels, as Photoshop writes them.
    plain = header >= 40 and compression == 0 and len(data) == image_headers.bmp_size(data)
    return plain and (bits in (24, 32) or (bits == 8 and image.mode == "L"))


@functools.cache
def import_pillow():
    """Returns the module `PIL.Image` without warnings for large images.

    Raises:
        UserError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading images needs Pillow: pip install pillow") from error
    import warnings

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image
