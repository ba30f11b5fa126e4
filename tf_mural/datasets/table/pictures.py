"""Pictures named by a table: found, kept inside their folder, and proved to decode."""

import io
import os

from tf_mural.base import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # what the input pipeline decodes


def load(folder, name, where):
    """The bytes of a picture.

    Args:
        folder: the folder that the picture must lie in.
        name: its path, relative to the folder.
        where: names the row, for messages.

    Returns:
        (bytes, None), or (None, reason) where it cannot be used.

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
        with open(path, "rb") as file:
            data = file.read()
    except PermissionError:
        return None, "image may not be read"
    except (OSError, ValueError):  # ValueError: a path with a zero byte in it.
        return None, "image missing"
    reason = problem(data)
    return (None, reason) if reason else (data, None)


def problem(data):
    """Why encoded bytes are no usable picture, in a few words, or None if they are one."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading images needs Pillow: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in FORMATS:
                return f"image format is none of {', '.join(FORMATS)}"
            image.draft("RGB", (1, 1))  # The whole JPEG is read, but an eighth of its size made.
            image.load()
    except Image.DecompressionBombError:
        return "image too large"
    except (OSError, SyntaxError, ValueError, EOFError, IndexError):
        return "image does not decode"
    return None
