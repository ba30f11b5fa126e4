"""Files and folders for tests."""

import gzip
import json


def write_files(folder, files):
    """Writes files below `folder` and returns it.

    Args:
        folder: `pathlib.Path`.
        files: {relative path: bytes, str, or plain data that is written as JSON}. A path that ends
            in .gz is compressed.
    """
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(data, bytes | str):
            data = json.dumps(data, ensure_ascii=False)
        if isinstance(data, str):
            data = data.encode("utf-8")
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return folder
