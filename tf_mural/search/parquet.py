"""Exports the embeddings of an index to a Parquet file, which vector databases import."""

import os

from tf_mural import file_io
from tf_mural.errors import UserError

PARQUET = "index.parquet"  # Default name of the file, in the folder of the index.
_ROWS_PER_GROUP = 4096
_INSTALL = "pip install -r requirements-convert.txt"


def export_parquet(index, path=None):
    """Writes the embeddings of an index to a Parquet file.

    The columns are "row" (int64, from 0), "id" (string: the id of the record, or the path of the
    image relative to the folder of the source), "path" (string: the path of the image; for a record
    set its path, "#" and the number of the record), "vector" (fixed-size list of float32) and
    "model" (string: the fingerprint of the model). The metadata of the schema contain the
    fingerprint and the path of the model as "tf_mural.model" and "tf_mural.model_path". Bytes of
    file names that are not valid UTF-8 are replaced by U+FFFD.

    Args:
        index: `Index`.
        path: path of the file, which must not exist. Default: index.parquet in the folder of the
            index; an earlier export in this folder is replaced.

    Returns:
        The path of the file.

    Raises:
        UserError: pyarrow is missing, the file exists, or its folder does not exist or cannot be
            written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"the export to Parquet needs pyarrow: {_INSTALL}") from error
    if path is None:
        path = os.path.join(index.folder, PARQUET)
    elif os.path.lexists(path):
        raise UserError(f"{path} already exists: remove it, or choose another file")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise UserError(f"the folder {parent} does not exist: create it, or choose another file")
    schema = _schema(pyarrow, index.manifest)
    try:
        with (
            file_io.atomic_write(path) as temporary,
            parquet.ParquetWriter(temporary, schema) as writer,
        ):
            for start in range(0, len(index), _ROWS_PER_GROUP):
                rows = range(start, min(start + _ROWS_PER_GROUP, len(index)))
                writer.write_table(_table(pyarrow, schema, index, rows))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be written: {reason}") from error
    return path


def _schema(pyarrow, manifest):
    fields = {
        "row": pyarrow.int64(),
        "id": pyarrow.string(),
        "path": pyarrow.string(),
        "vector": pyarrow.list_(pyarrow.float32(), manifest["width"]),
        "model": pyarrow.string(),
    }
    metadata = {f"tf_mural.{key}": manifest[key] for key in ("model", "model_path")}
    return pyarrow.schema(
        [pyarrow.field(*field, nullable=False) for field in fields.items()]
    ).with_metadata(metadata)


def _table(pyarrow, schema, index, rows):
    source, items = index.manifest["source"], [index.item(row) for row in rows]
    vectors = pyarrow.array(index.vectors(rows).reshape(-1))
    columns = {
        "row": pyarrow.array(rows, pyarrow.int64()),
        "id": [_valid(item["path"] if "path" in item else item["id"]) for item in items],
        "path": [_valid(_path(source, item)) for item in items],
        "vector": pyarrow.FixedSizeListArray.from_arrays(vectors, index.manifest["width"]),
        "model": [index.manifest["model"]] * len(items),
    }
    return pyarrow.table(columns, schema=schema)


def _path(source, item):
    if "path" in item:
        return os.path.join(source["folder"], item["path"])
    return f"{source['records']}#{item['record']}"


def _valid(text):
    """Returns a text without the surrogates that stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
