"""Pictures as data sets have them: proved to decode, and such that TensorFlow decodes them rightly.

All converters take pictures by `load` and `usable`, so that what is a picture is one question.
"""

import functools
import io
import os
import stat
import zlib

from tf_mural.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP")
ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError)  # of images that do not decode
MOST_BYTES = 256 << 20  # of one picture, encoded
# Pillow has a name of its own for a JPEG that further ones follow, as some cameras write it.
_NAMES = {"JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP"}


def load(folder, name, where):
    """The bytes of a picture.

    Args:
        folder: the folder that the picture must lie in.
        name: its path, relative to the folder.
        where: names the row, for messages.

    Returns:
        (bytes, None), or (None, reason) where it cannot be used; see `usable`.

    Raises:
        UserError: the path leaves the folder.
    """
    folder = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(folder, name))
    if os.path.commonpath([folder, path]) != folder:
        raise UserError(
            f"{where}: the image {name!r} lies outside {folder}; "
            "set image_dir to the folder that holds all images"
        )
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # A pipe would be waited for.
            return None, "image missing"
        if status.st_size > MOST_BYTES:
            return None, "image too large"
        with open(path, "rb") as file:
            data = file.read()
    except PermissionError:
        return None, "image may not be read"
    except (OSError, ValueError):  # ValueError: a path with a zero byte in it.
        return None, "image missing"
    return usable(data)


def usable(data):
    """A picture that the input pipeline decodes to the right pixels.

    Args:
        data: encoded bytes.

    Returns:
        (bytes, None): the same bytes, or a PNG of the same pixels where TensorFlow cannot read them
        or reads them wrongly: WebP with transparency or movement (all WebP is taken alike), BMP
        with a palette, packed or of 16 bits a pixel, GIF without its last byte. Or (None, reason),
        the reason in a few words.
    """
    if len(data) > MOST_BYTES:
        return None, "image too large"
    image_module = pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            if image.format not in _NAMES:
                return None, f"image format is none of {', '.join(FORMATS)}"
            image.draft("RGB", (1, 1))  # The whole JPEG is read, but an eighth of its size made.
            image.load()
            if image.format == "PNG" and not _is_whole(data):
                return None, "image does not decode"
            if _as_it_stands(data, image):
                return data, None
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "PNG")
    except image_module.DecompressionBombError:
        return None, "image too large"
    except ERRORS:
        return None, "image does not decode"
    return buffer.getvalue(), None


def _as_it_stands(data, image):
    """Whether TensorFlow gives the pixels of a picture that Pillow has read."""
    if image.format == "GIF":
        return data.endswith(b";")
    if image.format != "BMP":
        return image.format != "WEBP"
    # It takes the indices of a palette for shades of grey.
    header, bits, packing = data[14:18], data[28:30], data[30:34]
    header, bits, packing = (int.from_bytes(one, "little") for one in (header, bits, packing))
    return header >= 40 and packing == 0 and (bits in (24, 32) or (bits == 8 and image.mode == "L"))


def _is_whole(png):
    """Whether a PNG has its last chunk, and the checksums of those that count: Pillow goes on."""
    place, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(png[place : place + 4]), png[place + 4 : place + 8]
        end = place + 8 + size
        checksum = png[end : end + 4]
        if len(checksum) < 4:
            return False
        critical = kind[:1].isupper()
        if critical and zlib.crc32(png[place + 4 : end]) != int.from_bytes(checksum):
            return False
        place = end + 4
    return True


@functools.cache
def pillow():
    """Pillow's module `Image`, silent on large images. Raises UserError where it is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading images needs Pillow: pip install pillow") from error
    import warnings

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image
