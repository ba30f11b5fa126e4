"""Index of a list of captions: maps the name of an image to its lines in the file.

In memory, a list of 12 million rows would take gigabytes. The index takes 16 bytes per row: a
64-bit hash of the name of the image (its URL), by which rows are sorted, and the offset of the
line. A line is read from the file when its image is converted. The full names are then compared;
equal hashes of different names therefore cause no errors.
"""

import array
import functools
import os

import numpy as np

from tf_mural.datasets.crawl import caption_formats
from tf_mural.errors import UserError

_CHECKED_LINES = 100
_MAX_LINE_BYTES = 16 << 20


class CaptionIndex:
    """The index of one list. A context manager that keeps the file open.

    Args:
        path: path of the list.
        format: a key of `caption_formats.FORMATS`.
        by_number: whether images are named by the numbers of their rows, from 0.

    Attributes:
        format: `caption_formats.ListFormat`.
        hashes: (n,) int64, sorted, hashes of the names of images.
        offsets: (n,) uint64, byte offset of the line of each hash.
        invalid: (m,) uint64, byte offsets of lines that do not have the format.
    """

    def __init__(self, path, format, by_number=False):
        status = os.stat(path)
        self.format = caption_formats.FORMATS[format]
        arrays = _build_index(path, format, by_number, status.st_size, status.st_mtime_ns)
        self.hashes, self.offsets, self.invalid = arrays
        self._by_number = by_number
        self._path = path

    def __enter__(self):
        self._file = open(self._path, "rb")
        return self

    def __exit__(self, *_):
        self._file.close()

    def find(self, name):
        """Returns (position of the first row in `hashes`, number of rows) of an image name."""
        key = hash(name)
        start = int(np.searchsorted(self.hashes, key))
        end = start
        while end < len(self.hashes) and self.hashes[end] == key:
            end += 1
        return start, end - start

    def lines(self, name):
        """Returns the lines of an image in the order of the list."""
        start, count = self.find(name)
        lines = [self.read_line(int(offset)) for offset in self.offsets[start : start + count]]
        if self._by_number:
            return lines
        return [line for line in lines if self.format.name(line) == name]

    def read_line(self, offset):
        """Returns the line at a byte offset as bytes without its line end."""
        self._file.seek(offset)
        return _strip_line(self._file.readline(_MAX_LINE_BYTES))


def check_list(path, format):
    """Checks the first lines of a list.

    Raises:
        UserError: the file does not exist, is empty or has another format.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} is no file; download it again")
    expected = caption_formats.FORMATS[format]
    with open(path, "rb") as file:
        lines = [_strip_line(file.readline(_MAX_LINE_BYTES)) for _ in range(_CHECKED_LINES)]
    lines = [line for line in lines if line]
    if lines and caption_formats.is_header(lines[0]):
        lines = lines[1:]
    if not lines:
        raise UserError(f"{path} is empty; download it again")
    if any(expected.name(line) for line in lines):
        return
    received = lines[0][:80].decode(errors="replace")
    message = f"{path}: expected lines of {expected.description}, got {received!r}"
    others = [name for name, other in caption_formats.FORMATS.items() if other.name(lines[0])]
    raise UserError(f"{message}; it looks like that of {others[0]}" if others else message)


@functools.lru_cache(maxsize=2)  # The units of a process share one index.
def _build_index(path, format, by_number, size, modified):
    """Returns (hashes, offsets, invalid). `size` and `modified` are part of the cache key."""
    name_of = caption_formats.FORMATS[format].name
    hashes, offsets, invalid = array.array("q"), array.array("Q"), array.array("Q")
    offset = number = 0
    with open(path, "rb") as file:
        while data := file.readline(_MAX_LINE_BYTES):
            line = _strip_line(data)
            if line and not (offset == 0 and caption_formats.is_header(line)):
                name = name_of(line)
                if name is None:
                    invalid.append(offset)
                else:
                    hashes.append(hash(b"%d" % number if by_number else name))
                    offsets.append(offset)
                number += 1
            offset += len(data)
    order = np.argsort(np.asarray(hashes), kind="stable")
    return np.asarray(hashes)[order], np.asarray(offsets)[order], np.asarray(invalid)


def _strip_line(line):
    return line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
