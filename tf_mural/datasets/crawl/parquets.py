"""Parquet as img2dataset writes it: a row for each link, with or without the image itself.

Its format `parquet` has the bytes in a column jpg, png or webp. Beside the files of the other
formats it has no such column, and says what became of each link.
"""

import contextlib

from tf_mural.data.records import Dropped
from tf_mural.datasets.crawl import sample
from tf_mural.errors import UserError

_ROWS, _ROWS_WITHOUT_IMAGES = 64, 1 << 14  # read at once
_TOLD = ("key", "url", "caption", "txt", "status", "error_message")


class Broken(Exception):
    """The file cannot be read as Parquet: img2dataset writes its end last."""


def samples(path, images=True):
    """Yields each `Sample` of a file, `image` None for what was not downloaded.

    Yields `Dropped` where it is cut short, since nothing of it can be read then.

    Args:
        path: of the file.
        images: whether to read the images; their bytes are None if not.
    """
    try:
        yield from rows(path, images)
    except Broken as error:
        yield Dropped("parquet is cut short or broken", f"{path}: {error}")


def rows(path, images):
    """The same, but raises `Broken`."""
    with _opened(path) as file:
        names = set(file.schema_arrow.names)
        kinds = [kind for kind in sample.IMAGES if kind in names and images]
        columns = [name for name in (*_TOLD, *kinds) if name in names]
        count = _ROWS if kinds else _ROWS_WITHOUT_IMAGES
        number = 0
        for batch in file.iter_batches(count, columns=columns):
            for row in batch.to_pylist():
                yield _sample(row, kinds, number)
                number += 1


def has_images(path):
    """Whether a file has a column of images. Raises `Broken`."""
    with _opened(path) as file:
        return not set(sample.IMAGES).isdisjoint(file.schema_arrow.names)


def _sample(row, kinds, number):
    said = {name: value for name, value in row.items() if name in _TOLD and isinstance(value, str)}
    return sample.Sample(
        key=said.get("key", f"{number:09d}"),
        image=next((row[kind] for kind in kinds if row[kind]), None),
        text=said.get("txt") or said.get("caption"),
        url=said.get("url"),
        status=said.get("status"),
        error=said.get("error_message"),
    )


@contextlib.contextmanager
def _opened(path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Broken(error) from error
