"""Finds the encodings and the delimiters of text tables, such as those of spreadsheets.

The encoding is UTF-8, or UTF-16 with a byte order mark. A table in another encoding does not name
its code page, and the same bytes stand for different letters in each code page. Windows-1252 is
assumed only if the texts are in languages of Western Europe and every letter belongs to such a
language; the ledger names the assumed code page. All other tables are refused without the option
`encoding`.
"""

import codecs
import csv
import functools
import io
import os
import re

from tf_mural.errors import UserError

DELIMITERS = {",": ",", ";": ";", "|": "|", "\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";"}
UTF8, WINDOWS = "utf-8", "cp1252"
# Decodes any bytes, so that the header of a table that is not in Windows-1252 can be read.
_BYTES = "latin-1"
_BOMS = {codecs.BOM_UTF8: UTF8, codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SAMPLE_BYTES, _SAMPLE_ROWS = 1 << 16, 50
_WESTERN = frozenset("af ca da de en es eu fi fo fr ga gl is it lb nb nl nn no oc pt sq sv".split())
# Code pages of Windows for languages with letters that Windows-1252 lacks.
_CODE_PAGES = {
    "cp1250": "bs cs hr hu pl ro sk sl sr-Latn",
    "cp1251": "be bg kk ky mk mn ru sr tg tt uk uz-Cyrl",
    "cp1253": "el",
    "cp1254": "az tr",
    "cp1255": "he yi",
    "cp1256": "ar fa ur",
    "cp1257": "et lt lv",
    "cp1258": "vi",
    "cp874": "th",
    "cp932": "ja",
    "cp936": "zh",
    "cp949": "ko",
    "cp950": "zh-Hant",
}
_LETTERS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿŒœŸ"
_SIGNS = "€‚„…‘’“”•–—™‰‹›†‡\xa0\xad¡¢£¥§©«®°±µ¶·¸´»¿²³¹×÷½¼¾ªº"
# Sequences that show that a table is in another code page: where that code page has a small letter,
# Windows-1252 has a sign or a capital letter.
_IMPLAUSIBLE = re.compile(
    "|".join(
        (
            rf"[^\x00-\x7f{_LETTERS}{_SIGNS}]",
            rf"\w[^\x00-\x7f{_LETTERS}\s\xad’´·ªº°½–—…“”«»‹›²³¹×]\w",  # a sign inside a word
            r"[a-zß-ÿ][“”„«»°²³½¼¾×‹›][a-zß-ÿ]",
            r"[a-zß-ÿ][À-ÖØ-ÞŸŒ]",  # a capital letter inside a word
            r"\w[„‚†‡]",  # an opening quote after a letter
            r"[A-Za-z][¡-¶¸-¿][a-z]",
        )
    )
)


def detect(path):
    """Returns (encoding, whether it is only assumed) of a text table.

    An assumed encoding must be passed to `check_assumed` when the languages are known.

    Raises:
        UserError: the table seems to be in UTF-16 without a byte order mark.
    """
    with open(path, "rb") as file:
        start = file.read(_SAMPLE_BYTES)
        for mark, encoding in _BOMS.items():
            if start.startswith(mark):
                return encoding, False
        if start.count(b"\0") > len(start) // 8:  # UTF-16 has a zero for each letter of ASCII.
            raise UserError(
                f"{path}: the table seems to be in UTF-16 without a byte order mark; name "
                "its encoding with the option encoding=utf-16-le or encoding=utf-16-be"
            )
        file.seek(0)
        decoder = codecs.getincrementaldecoder(UTF8)()
        try:
            while data := file.read(1 << 20):
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            pass
        else:
            return UTF8, False
        file.seek(0)
        return _assume(file.read())


def _assume(data):
    """Returns (encoding, True) of a table that is not UTF-8."""
    try:
        data.decode(WINDOWS)
    except UnicodeDecodeError:
        return _BYTES, True
    return WINDOWS, True


def _is_plausible(data, encoding):
    """Returns whether a table, decoded as Windows-1252, has only letters of Western Europe."""
    if encoding != WINDOWS or _has_utf8(data):
        return False
    return not _IMPLAUSIBLE.search(data.decode(WINDOWS))


def _has_utf8(data):
    """Returns whether any run of bytes above 127 is valid UTF-8."""
    for run in re.findall(rb"[\x80-\xff]{2,}", data):
        try:
            run.decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def raise_not_utf8(path, data, line=1, languages=(), example=WINDOWS):
    """Raises a UserError for a table with bytes that are not UTF-8.

    Args:
        path: path of the table.
        data: bytes from the given line on.
        line: number of the first line of `data`.
        languages: codes of the languages of the texts, which determine the suggested encoding.
        example: the encoding to suggest if the languages imply none.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        received = data[error.start : error.end]
    names = [name for name, codes in _CODE_PAGES.items() if set(codes.split()) & set(languages)]
    example = names[0] if len(names) == 1 else example
    used = f" (texts in {', '.join(languages)})" if languages else ""
    raise UserError(
        f"{path}, line {line}: expected UTF-8, got {received!r}{used}; save the table as UTF-8, or "
        f"name its encoding with the option encoding, such as encoding={example}"
    )


def check_assumed(path, encoding, languages):
    """Raises UserError if the assumed encoding is not Windows-1252, or may be wrong.

    Args:
        path: path of a table whose encoding is only assumed.
        encoding: the assumed encoding.
        languages: codes of the languages of its texts.
    """
    with open(path, "rb") as file:
        data = file.read()
    is_plausible = _is_plausible(data, encoding)
    if not (is_plausible and languages and _WESTERN.issuperset(languages)):
        example = WINDOWS if is_plausible else "cp1250"
        raise_not_utf8(path, data, 1, sorted(languages), example)


def check_name(encoding):
    """Raises UserError if Python does not know the encoding."""
    try:
        b"a".decode(encoding)
    except UnicodeDecodeError:
        pass  # A single byte is not valid UTF-16.
    except (LookupError, ValueError):  # "hex" does not encode text; "a\0b" is no name.
        raise UserError(
            f"unknown encoding {encoding!r} in the option encoding; expected a name such as "
            "cp1252, utf-16 or shift_jis"
        ) from None


def open_utf8(path, encoding):
    """Opens a text table as a binary file in UTF-8; a table in another encoding is converted."""
    if encoding == UTF8:
        return open(path, "rb")
    status = os.stat(path)
    return io.BytesIO(_read_as_utf8(path, encoding, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=2)  # Each unit of a table opens the table again.
def _read_as_utf8(path, encoding, size, modified):
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        received = data[error.start : error.start + 8]
        raise UserError(
            f"{path}: byte {error.start} is not {encoding}, got {received!r}; name another "
            "encoding with the option encoding, or save the table as UTF-8"
        ) from None


def find_delimiter(path, text, usual, quoted):
    """Returns the delimiter of a table: the usual one, or another delimiter if only that one fits.

    Args:
        path: path of the table, for the message.
        text: the first lines of the table.
        usual: delimiter that the extension of the file implies.
        quoted: whether quotes may enclose a cell.

    Raises:
        UserError: several delimiters fit.
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    fitting, regular = [], []
    for delimiter in (usual, *dict.fromkeys(DELIMITERS.values())):
        lines = io.StringIO(text, newline="")
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter, quoting=quoting) if row]
        except csv.Error:  # The reader of the rows reports this error.
            continue
        if not rows or len(rows[0]) < 2 or delimiter in fitting:
            continue
        fitting.append(delimiter)
        # The last row of the text may be incomplete.
        if all(len(row) == len(rows[0]) for row in rows[1:-1][:_SAMPLE_ROWS]):
            regular.append(delimiter)
    chosen = regular if len(fitting) > 1 and regular else fitting
    if not chosen or usual in chosen:
        return usual
    if len(chosen) > 1:
        header = text.partition("\n")[0].strip()
        listed = " or ".join(repr(delimiter) for delimiter in chosen)
        raise UserError(
            f"{path}: the header {header!r} may be divided at {listed}; choose with the option "
            "delimiter (comma, semicolon or tab)"
        )
    return chosen[0]
