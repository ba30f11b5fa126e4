"""Files and folders for tests."""

import gzip
import json


def write_files(folder, files):
    """Writes files below `folder` and returns it.

    Args:
        folder: `pathlib.Path`.
        files: {relative path: bytes, str, or plain data that is written as JSON}. Text and JSON are
            gzip-compressed if the path ends in .gz; bytes are written unchanged.
    """
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(data, bytes):
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            data = text.encode("utf-8")
            data = gzip.compress(data, mtime=0) if name.endswith(".gz") else data
        path.write_bytes(data)
    return folder
