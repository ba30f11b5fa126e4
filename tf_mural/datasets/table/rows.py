"""Rows of a text table: the position of each row in the file and its contents."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import re

from tf_mural.datasets.table import encodings
from tf_mural.errors import UserError, lookup

DELIMITERS = {"tsv": "\t", "csv": ",", "jsonl": None, "txt": "\t"}
QUOTING = {"minimal": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}
_BOM = b"\xef\xbb\xbf"
_SEPARATOR = re.compile(rb"sep=(.)\r?\n", re.IGNORECASE)  # a line of Excel before the header
_BRACKETS_AND_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')
_MAX_DEPTH = 100  # of JSON
_PEEK_BYTES = 1 << 16
_SAMPLES = 100  # number of rows by which columns are classified


@dataclasses.dataclass(frozen=True)
class Table:
    """A text table on disk.

    A row of a TSV or CSV is a dict {name of a column: list of its cells}, because several columns
    may have the same name. A row of a JSONL is its JSON object. An invalid row is a string with the
    reason.

    Attributes:
        path: path of the file.
        format: "tsv", "csv" or "jsonl".
        quoting: "minimal" or "none"; ignored for jsonl.
        columns: names in the header; for jsonl the keys of the first object.
        start: offset of the first row in bytes, after conversion of the file to UTF-8.
        delimiter: character between the cells, or None for jsonl.
        encoding: encoding of the file.
        is_assumed: whether the encoding is only assumed; see `encodings.check_assumed`.
    """

    path: str
    format: str
    quoting: str
    columns: tuple[str, ...] = ()
    start: int = 0
    delimiter: str | None = None
    encoding: str = encodings.UTF8
    is_assumed: bool = False
    image_columns = ()  # columns that contain images; the columns of a text table have only paths

    @classmethod
    def open(cls, path, format=None, quoting="minimal", delimiter=None, encoding=None):
        """Opens a table and reads its header.

        Args:
            path: path of the file.
            format: a key of `DELIMITERS`; by default the extension of the file.
            quoting: a key of `QUOTING`.
            delimiter: a key of `encodings.DELIMITERS`. Default: the delimiter of the format, or
                another delimiter if only that one divides the header.
            encoding: name of an encoding. Default: see `encodings`.

        Raises:
            UserError: the format, quoting, delimiter or encoding is unknown, the encoding or the
                delimiter cannot be found, or the table is empty.
        """
        format = format or path.rpartition(".")[2].lower()
        usual = lookup(DELIMITERS, format, f"format for {path} (the option format)")
        lookup(QUOTING, quoting, "quoting")
        is_assumed = False
        if encoding is not None:
            encodings.check_name(encoding)
        elif format == "jsonl":
            encoding = encodings.UTF8
        else:
            encoding, is_assumed = encodings.detect(path)
        with encodings.open_utf8(path, encoding) as file:
            text = file.read(_PEEK_BYTES)
        start = len(_BOM) if text.startswith(_BOM) else 0
        if usual and (match := _SEPARATOR.match(text, start)):
            start, usual = match.end(), match[1].decode()
        if delimiter is not None:
            usual = lookup(encodings.DELIMITERS, delimiter, "delimiter (the option delimiter)")
        elif usual and not match:
            text = text[start:].decode(errors="replace")
            usual = encodings.find_delimiter(path, text, usual, quoting != "none")
        table = cls(path, format, quoting, (), start, usual, encoding, is_assumed)
        first = next(table.spans(), None)
        if first is None:
            raise UserError(
                f"{path} is empty; expected " + ("objects" if table.json else "a header")
            )
        _, start, data = first
        if table.json:
            row = table.row(data, 1)
            if isinstance(row, str):
                raise UserError(f"{path}, line 1: expected a JSON object, got {data[:60]!r}")
            return dataclasses.replace(table, columns=tuple(row))
        columns = tuple(name.strip() for name in table._cells(data))
        if not any(columns):
            raise UserError(
                f"{path}, line 1: expected a header with the names of columns, got a blank line"
            )
        return dataclasses.replace(table, columns=columns, start=start + len(data))

    @property
    def json(self):
        """Whether the rows are JSON objects."""
        return self.format == "jsonl"

    @property
    def has_header(self):
        """Whether `columns` has all columns; not for JSON, because keys of objects are optional."""
        return not self.json

    def end(self, start, data):
        """Returns the end of a row that starts at `start`."""
        return start + len(data)

    @contextlib.contextmanager
    def opened(self):
        """Context manager that yields a callable (start, end, line) -> row."""
        with encodings.open_utf8(self.path, self.encoding) as file:

            def read(start, end, line):
                file.seek(start)
                return self.row(file.read(end - start), line)

            yield read

    def place(self, line):
        """Returns the name of a row for messages."""
        return f"line {line}"

    def samples(self):
        """Returns the valid rows among the first rows."""
        parsed = (
            self.row(data, line) for line, _, data in itertools.islice(self.spans(), _SAMPLES)
        )
        return [row for row in parsed if not isinstance(row, str)]

    def spans(self):
        """Yields (line number from 1, byte offset, bytes) of each row after the header.

        Raises:
            UserError: the bytes are not UTF-8, or a quote is not closed.
        """
        with encodings.open_utf8(self.path, self.encoding) as file:
            line = file.read(self.start).count(b"\n") + 1
            if self.json or self.quoting == "none":
                yield from _line_spans(file, line, self.start)
            else:
                yield from self._quoted_spans(file, line)

    def _quoted_spans(self, file, line):
        """Yields the spans of rows whose quoted cells may contain line ends.

        The csv module finds the end of each row by the number of lines that it consumes.
        """
        consumed = []  # lines that the parser has read since the previous row

        def lines():
            for data in file:
                consumed.append(data)
                yield self._decode(data, line + len(consumed) - 1)

        reader = csv.reader(lines(), delimiter=self.delimiter, strict=True)
        start = self.start
        while True:
            try:
                if next(reader, None) is None:
                    return
            except csv.Error as error:
                hint = "if the file is written without quotes, pass the option quoting=none"
                raise UserError(f"{self.path}, line {line}: {error}; {hint}") from error
            data = b"".join(consumed)
            yield line, start, data
            line, start = line + len(consumed), start + len(data)
            consumed.clear()

    def row(self, data, line=1):
        """Parses the bytes of one span.

        Returns:
            A dict, or a string with the reason if the row is invalid.
        """
        if not data.strip():
            return "blank row"
        if self.json:
            text = self._decode(data, line)
            if _is_deep(text):
                return "JSON is nested too deeply"
            try:
                value = json.loads(text)
            except ValueError:
                return "not JSON"
            return value if isinstance(value, dict) else "not a JSON object"
        cells = self._cells(data, line)
        if not any(cell.strip() for cell in cells):
            return "blank row"
        if len(cells) != len(self.columns):
            return "number of cells is not the header's"
        row = {}
        for column, cell in zip(self.columns, cells, strict=True):
            row.setdefault(column, []).append(cell)
        return row

    def _cells(self, data, line=1):
        text, delimiter = self._decode(data, line), self.delimiter
        if self.quoting == "none":
            return text.rstrip("\r\n").split(delimiter)
        return next(csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter), [])

    def _decode(self, data, line):
        try:
            return data.decode()
        except UnicodeDecodeError:
            encodings.raise_not_utf8(self.path, data, line)


def _is_deep(text):
    """Returns whether JSON is nested more deeply than `_MAX_DEPTH`.

    The limit of Python's parser depends on the functions that call it, and a row is parsed twice.
    """
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKETS_AND_STRINGS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > _MAX_DEPTH:
            return True
    return False


def _line_spans(file, line, start):
    for data in file:
        yield line, start, data
        line, start = line + 1, start + len(data)
