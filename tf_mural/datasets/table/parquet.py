"""Tables in Parquet, such as those of Hugging Face's datasets, which contain the images.

An image is a struct of its bytes and its path, or only the bytes. Two rows have the same image if
the bytes are equal; the path is often only a file name without its folder, and need not be unique.
"""

import contextlib
import dataclasses
import hashlib

import numpy as np

from tf_mural.datasets.bounded_read import open_parquet

_BATCH_ROWS = 64
_SAMPLES = 100


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
    """An image in a cell.

    Attributes:
        data: bytes of the image file.
        path: its path in the original data set, or "".
    """

    data: bytes = dataclasses.field(repr=False)
    path: str = ""

    def __str__(self):
        """Returns a hash of the bytes, by which rows are grouped."""
        return hashlib.sha256(self.data).hexdigest()[:32]

    @property
    def id(self):
        """The path with a part of the hash, or the hash; a unique name of the image."""
        return f"{self.path}:{str(self)[:8]}" if self.path else str(self)


@dataclasses.dataclass(frozen=True)
class ParquetTable:
    """A Parquet file with the interface of `rows.Table`; a row is a dict as in JSON.

    Attributes:
        path: path of the file.
        columns: names of the columns.
        image_columns: names of the columns that contain the bytes of images.
        starts: first row of each row group, and the number of all rows.
    """

    path: str
    columns: tuple[str, ...]
    image_columns: tuple[str, ...]
    starts: tuple[int, ...]
    json = True
    has_header = True

    @classmethod
    def open(cls, path):
        """Opens a file and reads its footer.

        Raises:
            UserError: pyarrow is not installed, or the file is truncated or not a Parquet file.
        """
        with open_parquet(path) as file:
            schema = file.schema_arrow
            images = tuple(field.name for field in schema if _is_image(field.type))
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            starts = (0, *np.cumsum(counts).tolist())
            return cls(path, tuple(schema.names), images, starts)

    def samples(self):
        """Returns the first rows without the columns of images."""
        names = [name for name in self.columns if name not in self.image_columns]
        with open_parquet(self.path) as file:
            batch = next(file.iter_batches(_SAMPLES, columns=names), None)
            return batch.to_pylist() if batch is not None else []

    def spans(self):
        """Yields (number from 1, index, row) of each row."""
        index = 0
        with open_parquet(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield index + 1, index, row
                    index += 1

    def row(self, data, line=None):
        """Returns a row of `spans` with its images as `EmbeddedImage`."""
        return {
            name: _to_image(value) if name in self.image_columns else value
            for name, value in data.items()
        }

    def end(self, start, data):
        """Returns the end of a row that starts at `start`."""
        return start + 1

    @contextlib.contextmanager
    def opened(self):
        """Context manager that yields a callable (start, end, line) -> row."""
        with open_parquet(self.path) as file:
            group = rows = None

            def read(start, end, line):
                nonlocal group, rows
                number = int(np.searchsorted(self.starts, start, side="right")) - 1
                if number != group:
                    rows = None  # At most one row group is in memory.
                    group, rows = number, file.read_row_group(number)
                return self.row(rows.slice(start - self.starts[number], 1).to_pylist()[0])

            yield read

    def place(self, line):
        """Returns the name of a row for messages."""
        return f"row {line}"


def _is_image(kind):
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        names = {field.name: field.type for field in kind}
        return "bytes" in names and _is_binary(names["bytes"])
    return _is_binary(kind)


def _is_binary(kind):
    import pyarrow.types

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _to_image(value):
    """Returns the `EmbeddedImage` of a cell, the path of an image without bytes, or None."""
    if isinstance(value, dict):
        path = value.get("path") or ""
        return EmbeddedImage(value["bytes"], path) if value["bytes"] else path or None
    return EmbeddedImage(value) if value else None
