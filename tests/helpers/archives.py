"""Tar and zip archives in memory."""

import io
import tarfile
import zipfile


def tar_bytes(files, mode="w:gz"):
    """Returns the bytes of a tar archive.

    Args:
        files: {name: bytes}; a name that ends in "/" is a folder.
        mode: mode of `tarfile.open`, such as "w:" for a tar without compression.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(files):
    """Returns the bytes of a compressed zip of {name: bytes or str}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()
