"""Reads JSON of captions in COCO's format as two tables: the images, and their captions.

    {"images": [{"id": 9, "file_name": "a.jpg"}], "annotations": [{"image_id": 9, "caption": ...}]}

Like other tables, the two tables are joined by the column "image_id". An annotation may have a key
"language".
"""

import dataclasses
import functools
import json
import os

from tf_mural.errors import UserError

PARTS = {"images": "image", "annotations": "caption"}
# The id of an annotation is not used, and "id" would be the language code of Indonesian.
_RENAMED = {"images": {"id": "image_id"}, "annotations": {"id": "annotation_id"}}
_SAMPLES = 100
_PEEK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class CocoTable:
    """The images or the captions of a JSON file, with the interface of `rows.Table`.

    Attributes:
        path: path of the file.
        part: a key of `PARTS`.
        columns: all keys of the objects.
    """

    path: str
    part: str
    columns: tuple[str, ...] = ()
    json = True
    has_header = True
    image_columns = ()

    @classmethod
    def open(cls, path):
        """Returns the two tables of a file.

        Raises:
            UserError: the file has another format.
        """
        tables = []
        for part, objects in _load(path).items():
            names = dict.fromkeys(name for row in objects if isinstance(row, dict) for name in row)
            tables.append(cls(path, part, tuple(names)))
        return tables

    def samples(self):
        """Returns the valid rows among the first rows."""
        return [row for row in self._rows()[:_SAMPLES] if isinstance(row, dict)]

    def spans(self):
        """Yields (number from 1, index, row) of each row."""
        for index, row in enumerate(self._rows()):
            yield index + 1, index, row

    def row(self, data, line=None):
        """Returns a row of `spans`, or a string with the reason if it is invalid."""
        return data if isinstance(data, dict) else "not a JSON object"

    def end(self, start, data):
        """Returns the end of a row that starts at `start`."""
        return start + 1

    def opened(self):
        """Returns a context manager that yields a callable (start, end, line) -> row."""
        return self

    def __enter__(self):
        rows = self._rows()
        return lambda start, end, line: self.row(rows[start])

    def __exit__(self, *_):
        pass

    def place(self, line):
        """Returns the name of a row for messages."""
        return f"{PARTS[self.part]} {line}"

    def _rows(self):
        return _load(self.path)[self.part]


def has_captions(path):
    """Returns whether the start and the end of a JSON file have the keys of COCO's captions."""
    with open(path, "rb") as file:
        start = file.read(_PEEK_BYTES)
        file.seek(max(os.path.getsize(path) - _PEEK_BYTES, 0))
        ends = start + file.read(_PEEK_BYTES)
    is_object = start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    keys = (b'"images"', b'"annotations"', b'"caption"')
    return is_object and b'"caption"' in ends and sum(key in ends for key in keys) >= 2


def _load(path):
    status = os.stat(path)
    return _load_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)  # Each unit of a table opens the file again.
def _load_version(path, size, modified):
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, got {error}") from None
    tables = {}
    for part, renamed in _RENAMED.items():
        objects = content.get(part) if isinstance(content, dict) else None
        if not isinstance(objects, list):
            keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise UserError(
                f"{path}: expected COCO's format with the lists images and annotations, got {keys}"
            )
        tables[part] = [_rename(row, renamed) for row in objects]
    return tables


def _rename(row, renamed):
    if not isinstance(row, dict):
        return row
    return {renamed.get(name, name): value for name, value in row.items()}
