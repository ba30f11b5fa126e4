"""Reads whole files (plain, gzip, or members of a zip) with a size limit, and Parquet files.

The limit is needed because a file of a few kilobytes may unpack to many gigabytes. All failures are
raised as `UserError` with the name of the file.
"""

import contextlib
import gzip
import lzma
import tarfile
import zipfile
import zlib

from tf_mural.errors import UserError

# Maximum size of an unpacked file: six times the size of the largest official file.
MAX_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
UNPACK_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # raised by zipfile for encrypted members and unknown compression methods
)


class BrokenParquetError(UserError):
    """A Parquet file that cannot be read, for example because it was truncated before its footer.

    Attributes:
        reason: message of pyarrow.
    """

    def __init__(self, path, reason):
        super().__init__(f"{path} is cut short or no Parquet file that can be read: {reason}")
        self.reason = reason


def read_bytes(path):
    """Returns the bytes of a file, decompressed if its name ends in ".gz".

    Raises:
        UserError: see `file_errors`, or the file is larger than `MAX_BYTES`.
    """
    with file_errors(path), gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        return read_stream(file, path)


def read_zip_member(path, name):
    """Returns the bytes of a member of a zip. Raises UserError like `read_bytes`."""
    with file_errors(path), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return read_stream(file, f"{name} of {path}")


def read_stream(file, where):
    """Returns the remaining bytes of a binary file.

    Args:
        file: binary file.
        where: name of the file for messages.

    Raises:
        UserError: more than `MAX_BYTES` bytes remain.
    """
    chunks, size = [], 0
    while chunk := file.read(_CHUNK_BYTES):
        size += len(chunk)
        check_size(size, where)
        chunks.append(chunk)
    return b"".join(chunks)


def check_size(size, where):
    """Raises UserError if a file is larger than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise UserError(
            f"{where} has {size:,} bytes or more, unpacked; expected at most {MAX_BYTES:,}, so it "
            "is another file; download it again"
        )


@contextlib.contextmanager
def file_errors(where):
    """Context manager that turns errors of reading into a UserError with the name `where`."""
    try:
        yield
    except UNPACK_ERRORS as error:
        # The message of tarfile has one more line for each compression method.
        reason = str(error).partition(":\n")[0]
        raise UserError(f"{where} does not unpack ({reason}); download it again") from error
    except FileNotFoundError:
        raise UserError(f"{where} is missing; download it again") from None
    except IsADirectoryError:
        raise UserError(f"{where} is a folder; expected a file; move it away") from None
    except PermissionError:
        raise UserError(f"{where} may not be read; change its permissions with chmod") from None


# --- text -----------------------------------------------------------------------------------------


def read_lines(path):
    """Returns the lines of a text file without surrounding white space; decompresses .gz files.

    Raises:
        UserError: see `read_bytes`, or the file is not UTF-8.
    """
    return [line.strip() for line in split_lines(read_bytes(path), path)]


def split_lines(data, path):
    """Splits the bytes of a text file into lines.

    Only line feeds end a line. `str.splitlines` is not used, because it also splits at other
    characters, which some texts contain.

    Args:
        data: bytes of the file.
        path: name of the file for messages.

    Returns:
        A list of strings.

    Raises:
        UserError: the bytes are not UTF-8.
    """
    lines = decode_utf8(data, path).split("\n")
    return lines if lines[-1] else lines[:-1]


def decode_utf8(data, path):
    """Decodes bytes as UTF-8 with an optional byte order mark.

    Raises:
        UserError: the bytes are not UTF-8; the message names `path` and the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        received = data[error.start : error.end]
        raise UserError(f"{path}, line {line}: expected UTF-8, got {received!r}") from error


@contextlib.contextmanager
def open_parquet(path):
    """Context manager that opens a Parquet file, and reports errors of reading it.

    Args:
        path: path of the file.

    Yields:
        `pyarrow.parquet.ParquetFile`.

    Raises:
        UserError: pyarrow is not installed.
        BrokenParquetError: the file is truncated or not a Parquet file, or has a value that Python
            cannot represent. Errors of the file system are not changed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file  # Times that Python cannot represent raise a ValueError or OverflowError.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, UserError) or getattr(error, "errno", None) is not None:
            raise
        check_download(path)
        raise BrokenParquetError(path, str(error).partition("\n")[0]) from error


def check_download(path):
    """Raises UserError if a file is a web page, a message of a server, or a pointer of Git LFS.

    Such files are stored under the name of a data file if a data set needs a login, or if a
    repository was cloned without Git LFS.
    """
    with file_errors(path), open(path, "rb") as file:
        head = file.read(512).lstrip()
    if head.startswith(b"version https://git-lfs.github.com"):
        raise UserError(f"{path} is a pointer of Git LFS, not the file: run `git lfs pull`")
    lower = head.lower()
    is_page = lower.startswith((b"<!doctype", b"<html")) or lower.startswith(b'{"error"')
    if is_page or lower.startswith((b"access to", b"invalid username", b"unauthorized")):
        raise UserError(
            f"{path} is a web page or a message, not data: the data set needs a login; log in, "
            "accept its terms on its home page, and download the file again"
        )
