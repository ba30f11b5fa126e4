"""Where in a list of captions the rows of an image are.

A list of 12 million rows has gigabytes. What is held of a row is a 64-bit hash of the name of its
image (its url) and the place of its line, 16 bytes in all, sorted; the line itself is read from the
file when its image comes. A line's own name is compared then, so that equal hashes do no harm.
"""

import array
import functools
import os

import numpy as np

from tf_mural.datasets.crawl import rows
from tf_mural.errors import UserError

_FIRST = 100  # lines that are looked at before anything is read
_LONGEST = 16 << 20


class Index:
    """The rows of one list. Use as a context: it holds the file open.

    Attributes:
        form: `rows.Form`.
        hashes: (n,) int64, sorted, of the names of images.
        offsets: (n,) uint64, where in the file the line of each is.
        wrong: (m,) uint64, where lines are that are no rows.
    """

    def __init__(self, path, form, by_number=False):
        status = os.stat(path)
        self.form = rows.FORMS[form]
        arrays = _arrays(path, form, by_number, status.st_size, status.st_mtime_ns)
        self.hashes, self.offsets, self.wrong = arrays
        self._by_number = by_number
        self._path = path

    def __enter__(self):
        self._file = open(self._path, "rb")
        return self

    def __exit__(self, *_):
        self._file.close()

    def position(self, name):
        """The first position in `hashes` of the rows of a name, and how many there are."""
        key = hash(name)
        start = int(np.searchsorted(self.hashes, key))
        end = start
        while end < len(self.hashes) and self.hashes[end] == key:
            end += 1
        return start, end - start

    def lines(self, name):
        """The lines of the rows of an image, in the order of the list."""
        start, count = self.position(name)
        found = [self.line(int(offset)) for offset in self.offsets[start : start + count]]
        if self._by_number:
            return found
        return [line for line in found if self.form.name(line) == name]

    def line(self, offset):
        """The line at a place, without its end."""
        self._file.seek(offset)
        return _clean(self._file.readline(_LONGEST))


def check(path, form):
    """Looks at the first lines. Raises UserError if the file is missing or of another kind."""
    if not os.path.isfile(path):
        raise UserError(f"{path} is no file; download it again")
    chosen = rows.FORMS[form]
    with open(path, "rb") as file:
        lines = [_clean(file.readline(_LONGEST)) for _ in range(_FIRST)]
    lines = [line for line in lines if line]
    if lines and rows.is_header(lines[0]):
        lines = lines[1:]
    if not lines:
        raise UserError(f"{path} is empty; download it again")
    if any(chosen.name(line) for line in lines):
        return
    got = lines[0][:80].decode(errors="replace")
    message = f"{path}: expected lines of {chosen.expected}, got {got!r}"
    others = [name for name, other in rows.FORMS.items() if other.name(lines[0])]
    raise UserError(f"{message}; it looks like that of {others[0]}" if others else message)


@functools.lru_cache(maxsize=2)  # The units that a process reads share a list.
def _arrays(path, form, by_number, size, changed):
    name_of = rows.FORMS[form].name
    hashes, offsets, wrong = array.array("q"), array.array("Q"), array.array("Q")
    offset = number = 0
    with open(path, "rb") as file:
        while line := file.readline(_LONGEST):
            clean = _clean(line)
            if clean and not (offset == 0 and rows.is_header(clean)):
                name = name_of(clean)
                if name is None:
                    wrong.append(offset)
                else:
                    hashes.append(hash(b"%d" % number if by_number else name))
                    offsets.append(offset)
                number += 1
            offset += len(line)
    order = np.argsort(np.asarray(hashes), kind="stable")
    return np.asarray(hashes)[order], np.asarray(offsets)[order], np.asarray(wrong)


def _clean(line):
    return line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
