"""Plain data with its own checksum, so that one wrong bit in the file is noticed."""

import hashlib
import json

from tf_mural import file_io


class Damaged(Exception):
    """What a file holds is not what was written. The message says what is wrong with it."""


def write(path, data):
    """Writes plain data and the checksum of it, whole or not at all."""
    file_io.write_json(path, {"sha256": _digest(data), "content": data})


def read(path):
    """The plain data of a file.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        sealed = json.loads(file_io.read_bytes(path).decode("utf-8"))
        data, told = sealed["content"], sealed["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} cannot be read ({error})") from None
    if _digest(data) != told:
        raise Damaged(f"{path} does not have the checksum that it states")
    return data


def _digest(data):
    text = json.dumps(data, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
