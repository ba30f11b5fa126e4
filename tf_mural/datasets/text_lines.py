"""Text files of one line a text, packed or not."""

from tf_mural.datasets import bounded_read
from tf_mural.errors import UserError


def read(path):
    """The lines of a file without blanks around them; gzip if its name ends so.

    Raises:
        UserError: the file is missing, cut short, broken, no file, far too large, or not UTF-8.
    """
    return [line.strip() for line in split(bounded_read.read(path), path)]


def split(data, path):
    """The lines in the bytes of a file that `path` names. Raises UserError if they are not UTF-8.

    They are parted by line feeds alone: some texts hold other characters that Python takes for line
    ends.
    """
    found = decoded(data, path).split("\n")
    return found if found[-1] else found[:-1]


def decoded(data, path):
    """The text in the bytes of a file that `path` names. Raises UserError if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = data[error.start : error.end]
        raise UserError(f"{path}, line {line}: expected UTF-8, got {found!r}") from error
