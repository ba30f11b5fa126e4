"""Validates image files.

All converters check images with `load_image` or `validate_image`, and therefore accept the same
images. The conversion then normalizes the images of every data set; see `image_normalization`.
"""

import io
import os
import stat
import zlib

from tf_mural import file_io
from tf_mural.data.image_normalization import (
    DECODE_ERRORS,
    FORMATS,
    PILLOW_FORMATS,
    import_pillow,
)
from tf_mural.errors import UserError

MAX_BYTES = 256 << 20  # Maximum size of an image file.


def load_image(folder, name, where):
    """Reads and validates an image file.

    If the file does not exist, the file with the same name in another Unicode form, or with "/"
    instead of a backslash, is read; see `file_io.find_name`.

    Args:
        folder: the folder that must contain the image.
        name: path of the image, relative to the folder.
        where: name of the row for messages.

    Returns:
        (bytes, None), or (None, reason) if the image cannot be used; see `validate_image`.

    Raises:
        UserError: the path leaves the folder.
    """
    folder = os.path.abspath(folder)
    path = _path_inside(folder, name, name, where)
    if not os.path.lexists(path):
        # This path is checked too, because a path with backslashes may also leave the folder.
        _path_inside(folder, name.replace("\\", "/"), name, where)
        similar, _ = file_io.find_name(folder, name)
        path = _path_inside(folder, similar or name, name, where)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe would block.
            return None, "image missing"
        if status.st_size > MAX_BYTES:
            return None, "image too large"
        with open(path, "rb") as file:
            data = file.read()
    except PermissionError:
        return None, "image may not be read"
    except (OSError, ValueError):  # ValueError: a path that contains a zero byte.
        return None, "image missing"
    return validate_image(data)


def _path_inside(folder, path, name, where):
    """Returns the absolute path of an image; raises a UserError if the path leaves the folder."""
    path = os.path.abspath(os.path.join(folder, path))
    if os.path.commonpath([folder, path]) != folder:
        raise UserError(
            f"{where}: the image {name!r} lies outside {folder}; "
            "set image_dir to the folder that holds all images"
        )
    return path


def validate_image(data):
    """Checks that an image file is complete and has one of the formats `FORMATS`.

    Args:
        data: bytes of the image file.

    Returns:
        (data, None), or (None, reason) if the image cannot be used; the reason is a short text.
    """
    if len(data) > MAX_BYTES:
        return None, "image too large"
    image_module = import_pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            if image.format not in PILLOW_FORMATS:
                return None, f"image format is none of {', '.join(FORMATS)}"
            image.draft("RGB", (1, 1))  # A JPEG is read completely, but decoded at 1/8 size.
            image.load()
            if image.format == "PNG" and not _is_complete_png(data):
                return None, "image does not decode"
    except image_module.DecompressionBombError:
        return None, "image too large"
    except DECODE_ERRORS:
        return None, "image does not decode"
    return data, None


def _is_complete_png(png):
    """Returns whether a PNG has its last chunk and valid checksums of its critical chunks.

    This check is necessary because Pillow also decodes damaged PNGs.
    """
    start, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(png[start : start + 4]), png[start + 4 : start + 8]
        end = start + 8 + size
        checksum = png[end : end + 4]
        if len(checksum) < 4:
            return False
        critical = kind[:1].isupper()
        if critical and zlib.crc32(png[start + 4 : end]) != int.from_bytes(checksum):
            return False
        start = end + 4
    return True
