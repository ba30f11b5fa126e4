"""Rows of a text table: the position of each row in the file and its contents."""

import csv
import dataclasses
import glob
import io
import itertools
import json
import os
import re

from tf_mural.errors import UserError, lookup

DELIMITERS = {"tsv": "\t", "csv": ",", "jsonl": None}
QUOTING = {"minimal": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}
_BOM = b"\xef\xbb\xbf"
_SPLIT_WORDS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_SAMPLES = 100  # number of rows by which columns are classified


def find_files(raw_dir, file, split):
    """Returns the paths of the tables, and the names of the other tables of the folder.

    Args:
        raw_dir: a folder, or the table itself.
        file: name of the table in the folder, or a sequence of names, in which "{split}" stands for
            the split; None for all tables of the folder.
        split: name of the split.

    Raises:
        UserError: a table does not exist, or `file` is needed to choose between the tables of
            several splits.
    """
    if not raw_dir or not os.path.exists(raw_dir):
        raise UserError(f"expected raw_dir to be a table or its folder; {raw_dir!r} does not exist")
    if os.path.isfile(raw_dir):
        if file is not None:
            raise UserError(f"{raw_dir} is already a file; omit the option file={file!r}")
        return [raw_dir], []
    files = [name for name in os.listdir(raw_dir) if os.path.isfile(os.path.join(raw_dir, name))]
    tables = sorted(name for name in files if name.rpartition(".")[2].lower() in DELIMITERS)
    listed = ", ".join(tables) or "none"
    if file is None:
        if not tables or (len(tables) > 1 and any(map(_names_split, tables))):
            raise UserError(f"{raw_dir}: name the table with the option file; found: {listed}")
        names = tables
    else:
        names = [name.replace("{split}", split) for name in file_names(file)]
    for name in names:
        if not os.path.isfile(os.path.join(raw_dir, name)):
            path = os.path.join(raw_dir, name)
            raise UserError(f"{path} does not exist; tables in the folder: {listed}")
    others = [name for name in tables if name not in map(os.path.normpath, names)]
    return [os.path.join(raw_dir, name) for name in names], others


def file_names(file):
    """Returns the option `file` as a tuple of names; it may be one name, a sequence or None."""
    return (file,) if isinstance(file, str) else tuple(file or ())


def _names_split(name):
    words = re.findall("[a-z]+", name.rpartition(".")[0].lower())
    return not _SPLIT_WORDS.isdisjoint(words)


def splits_of_files(raw_dir, file):
    """Returns the splits for which a file with "{split}" in its name exists, sorted."""
    before, _, after = file.partition("{split}")
    pattern = re.compile(re.escape(before) + "(.+)" + re.escape(after))
    names = glob.glob(glob.escape(before) + "*" + glob.escape(after), root_dir=raw_dir)
    return tuple(sorted(pattern.fullmatch(name)[1] for name in names if pattern.fullmatch(name)))


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
        start: byte at which the rows begin.
    """

    path: str
    format: str
    quoting: str
    columns: tuple[str, ...] = ()
    start: int = 0

    @classmethod
    def open(cls, path, format=None, quoting="minimal"):
        """Opens a table and reads its header.

        Args:
            path: path of the file.
            format: a key of `DELIMITERS`; by default the extension of the file.
            quoting: a key of `QUOTING`.

        Raises:
            UserError: the format or quoting is unknown, or the table is empty.
        """
        format = format or path.rpartition(".")[2].lower()
        lookup(DELIMITERS, format, f"format for {path} (the option format)")
        lookup(QUOTING, quoting, "quoting")
        with open(path, "rb") as file:
            start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        table = cls(path, format, quoting, (), start)
        first = next(table.spans(), None)
        if first is None:
            raise UserError(
                f"{path} is empty; expected " + ("objects" if table.json else "a header")
            )
        _, start, data = first
        if table.json:
            row = table.row(data)
            if isinstance(row, str):
                raise UserError(f"{path}, line 1: expected a JSON object, got {data[:60]!r}")
            return dataclasses.replace(table, columns=tuple(row))
        columns = tuple(name.strip() for name in table._cells(data))
        return dataclasses.replace(table, columns=columns, start=start + len(data))

    @property
    def json(self):
        """Whether the rows are JSON objects."""
        return self.format == "jsonl"

    def samples(self):
        """Returns the valid ones of the first rows."""
        parsed = (
            self.row(data, line) for line, _, data in itertools.islice(self.spans(), _SAMPLES)
        )
        return [row for row in parsed if not isinstance(row, str)]

    def spans(self):
        """Yields (line number from 1, byte offset, bytes) of each row after the header.

        Raises:
            UserError: the bytes are not UTF-8, or a quote is not closed.
        """
        with open(self.path, "rb") as file:
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

        reader = csv.reader(lines(), delimiter=DELIMITERS[self.format], strict=True)
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

    def row(self, data, line=None):
        """Parses the bytes of one span.

        Returns:
            A dict, or a string with the reason if the row is invalid.
        """
        if not data.strip():
            return "blank row"
        if self.json:
            text = self._decode(data, line)
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
        text, delimiter = self._decode(data, line), DELIMITERS[self.format]
        if self.quoting == "none":
            return text.rstrip("\r\n").split(delimiter)
        return next(csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter), [])

    def _decode(self, data, line):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            received = data[error.start : error.end]
            raise UserError(
                f"{self.path}, line {line}: expected UTF-8, got {received!r}; save the table as "
                "UTF-8"
            ) from error


def _line_spans(file, line, start):
    for data in file:
        yield line, start, data
        line, start = line + 1, start + len(data)
