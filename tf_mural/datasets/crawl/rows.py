"""A line of a list of captions: which image it is of, and its texts."""

import dataclasses
import json
import os
from collections.abc import Callable

from tf_mural.data.records import is_language

_URLS = ("url", "image_url", "img_url")
_IDS = ("image_id", "img_id", "id", "key", "image", "img_fname")
_CAPTIONS = ("caption", "captions")
_HEADERS = {b"caption\turl", b"url\tcaption"}  # img2dataset asks for one; people put it in.
_LINKS = (b"http://", b"https://", b"//")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a list is written.

    Attributes:
        expected: a line of it, in words.
        name: from a line to the name of its image, bytes, or None where it is no line of the list.
        texts: from a line to pairs (language, text). Raises ValueError: it is not UTF-8.
    """

    expected: str
    name: Callable
    texts: Callable


def is_header(line):
    """Whether a first line names the columns."""
    return line.strip().lower() in _HEADERS


def id_of(name):
    """An image's id from the name of its file or its key: without folders and ending."""
    return os.path.splitext(os.path.basename(name))[0]


def _columns(url, caption):
    def name(line):
        cells = line.split(b"\t")
        if len(cells) != 2 or not (link := cells[url].strip()).lower().startswith(_LINKS):
            return None
        return link

    def texts(line):
        return (("en", line.split(b"\t")[caption].decode().strip()),)

    return name, texts


def _linked(line):
    cells = line.split(b"\t")
    return cells[1].strip() if len(cells) > 1 and cells[1].lower().startswith(_LINKS) else None


def _object_name(line):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not any(isinstance(row.get(k), dict) for k in _CAPTIONS):
        return None
    for key in (*_URLS, *_IDS):
        value = row.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return (str(value) if key in _URLS else id_of(str(value))).encode()
    return None


def _object_texts(line):
    row = json.loads(line)
    captions = next(row[key] for key in _CAPTIONS if isinstance(row.get(key), dict))
    found = []
    for code, some in captions.items():
        code = code.replace("_", "-")
        for text in some if isinstance(some, list) else [some]:
            if is_language(code) and isinstance(text, str) and text.strip():
                found.append((code, text.strip()))
    return tuple(found)


FORMS = {
    "cc3m": Form("caption<tab>url", *_columns(url=1, caption=0)),
    "cc12m": Form("url<tab>caption", *_columns(url=0, caption=1)),
    # UC2's lists of the links of its images: id, url, and what else.
    "ids": Form(
        "id<tab>url<tab>...", _linked, lambda line: (("id", line.split(b"\t")[0].decode()),)
    ),
    "jsonl": Form(
        '{"url" or "image_id": ..., "caption": {"en": text, ...}}', _object_name, _object_texts
    ),
}
