"""Formats of lists of captions: a line gives the name of an image and its texts."""

import dataclasses
import json
import os
from collections.abc import Callable

from tf_mural import languages
from tf_mural.data.records import Skipped

_URL_KEYS = ("url", "image_url", "img_url")
_ID_KEYS = ("image_id", "img_id", "id", "key", "image", "img_fname")
_CAPTION_KEYS = ("caption", "captions")
# Published lists have no header, but users add one of these headers for img2dataset.
_HEADERS = {b"caption\turl", b"url\tcaption"}
_URL_PREFIXES = (b"http://", b"https://", b"//")


@dataclasses.dataclass(frozen=True)
class ListFormat:
    """Format of a list of captions.

    Attributes:
        description: form of a line, for messages.
        name: callable that maps a line to the name of its image as bytes, or to None if it is not a
            line of this format.
        texts: callable that maps a line to (language, text) pairs, and to a `Skipped` for each text
            that cannot be used. Raises ValueError if the line is not UTF-8.
    """

    description: str
    name: Callable
    texts: Callable


def is_header(line):
    """Returns whether the first line of a list is a header."""
    return line.strip().lower() in _HEADERS


def image_id(name):
    """Returns the id of an image from its file name or key: without folders and extension."""
    return os.path.splitext(os.path.basename(name))[0]


def _column_functions(url, caption):
    """Returns the functions `name` and `texts` of a list with two columns."""

    def name(line):
        cells = line.split(b"\t")
        if len(cells) != 2 or not (link := cells[url].strip()).lower().startswith(_URL_PREFIXES):
            return None
        return link

    def texts(line):
        return (("en", line.split(b"\t")[caption].decode().strip()),)

    return name, texts


def _linked_url(line):
    cells = line.split(b"\t")
    is_linked = len(cells) > 1 and cells[1].lower().startswith(_URL_PREFIXES)
    return cells[1].strip() if is_linked else None


def _linked_id(line):
    return (("id", line.split(b"\t")[0].decode()),)


def _object_name(line):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not any(isinstance(row.get(k), dict) for k in _CAPTION_KEYS):
        return None
    for key in (*_URL_KEYS, *_ID_KEYS):
        value = row.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return (str(value) if key in _URL_KEYS else image_id(str(value))).encode()
    return None


def _object_texts(line):
    row = json.loads(line)
    captions = next(row[key] for key in _CAPTION_KEYS if isinstance(row.get(key), dict))
    texts = []
    for name, values in captions.items():
        language = languages.find(name)
        for text in values if isinstance(values, list) else [values]:
            if language is None:
                example = f"{name!r}{languages.hint(name)}"
                texts.append(Skipped("not a language code", example, text_only=True))
            elif text is not None and not isinstance(text, str):
                texts.append(Skipped("text is not a string", repr(text)[:80], text_only=True))
            elif text and text.strip():
                texts.append((language.code, text.strip()))
    return tuple(texts)


FORMATS = {
    "cc3m": ListFormat("caption<tab>url", *_column_functions(url=1, caption=0)),
    "cc12m": ListFormat("url<tab>caption", *_column_functions(url=0, caption=1)),
    # UC2 publishes lists of image links in this format.
    "ids": ListFormat("id<tab>url<tab>...", _linked_url, _linked_id),
    "jsonl": ListFormat(
        '{"url" or "image_id": ..., "caption": {"en": text, ...}}', _object_name, _object_texts
    ),
}
