"""Text files of one line a text, packed or not."""

import gzip
import zlib

from tf_mural.base import UserError


def read(path):
    """The lines of a file without blanks around them; gzip if its name ends so.

    Raises:
        UserError: the file is missing, cut short, broken, or not UTF-8.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; download it again") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} does not unpack ({error}); download it again") from error
    return [line.strip() for line in split(data, path)]


def split(data, path):
    """The lines in the bytes of a file that `path` names. Raises UserError if they are not UTF-8.

    They are parted by line feeds alone: some texts hold other characters that Python takes for line
    ends.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = data[error.start : error.end]
        raise UserError(f"{path}, line {line}: expected UTF-8, got {found!r}") from error
    found = text.split("\n")
    return found if found[-1] else found[:-1]
