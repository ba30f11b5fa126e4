"""Files that are read as a whole: plain, gzip, or in a zip. What cannot be read is one clear error.

A few kilobytes may unpack to any number of gigabytes, so that there is an end to what is read.
"""

import contextlib
import gzip
import lzma
import tarfile
import zipfile
import zlib

from tf_mural.errors import UserError

MOST_BYTES = 1 << 30  # of a file, unpacked; the largest that is read so has a sixth of it
_CHUNK = 1 << 20
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # a zip that is encrypted, or packed in a way that Python does not know
)


def read(path):
    """The bytes of a file; gzip if its name ends so. Raises UserError: see `errors`."""
    with errors(path), gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        return all_of(file, path)


def of_zip(path, name):
    """The bytes of a file in a zip. Raises UserError: see `errors`."""
    with errors(path), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return all_of(file, f"{name} of {path}")


def all_of(file, where):
    """What a binary file still holds. Raises UserError if it is more than `MOST_BYTES`."""
    parts, size = [], 0
    while data := file.read(_CHUNK):
        size += len(data)
        demand_size(size, where)
        parts.append(data)
    return b"".join(parts)


def demand_size(size, where):
    """Raises UserError if a file is much larger than any that is read as a whole."""
    if size > MOST_BYTES:
        raise UserError(
            f"{where} has {size:,} bytes or more, unpacked; expected at most {MOST_BYTES:,}, so it "
            "is another file; download it again"
        )


@contextlib.contextmanager
def errors(where):
    """Turns what goes wrong with a file or an archive into a UserError that names it."""
    try:
        yield
    except BROKEN as error:
        why = str(error).partition(":\n")[0]  # tarfile lists each packing that it is not
        raise UserError(f"{where} does not unpack ({why}); download it again") from error
    except FileNotFoundError:
        raise UserError(f"{where} is missing; download it again") from None
    except IsADirectoryError:
        raise UserError(f"{where} is a folder; expected a file; move it away") from None
    except PermissionError:
        raise UserError(f"{where} may not be read; give yourself the right to, by chmod") from None
