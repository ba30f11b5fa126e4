"""What one image of a crawl comes with, in whatever kind of file it lies."""

import json
from typing import NamedTuple

IMAGES = ("jpg", "jpeg", "png", "webp")
_META = ("caption", "url")


class Sample(NamedTuple):
    """One image, or what is known of one that could not be downloaded.

    Attributes:
        key: its name in its file.
        image: encoded bytes, or None.
        text: the caption that lies beside it, or None.
        url: where it came from, or None.
        status: what img2dataset says became of it ("success", "failed_to_download"), or None.
        error: what it says of a failure, or None.
        problem: why it cannot be used, in a few words, or None.
    """

    key: str
    image: bytes | None = None
    text: str | None = None
    url: str | None = None
    status: str | None = None
    error: str | None = None
    problem: str | None = None


def of_parts(key, parts):
    """The `Sample` of files that share a name.

    Args:
        key: the name.
        parts: dict from extension to bytes: an image, "txt" a caption, "json" an object which may
            have a caption and a url.
    """
    image = next((parts[kind] for kind in IMAGES if kind in parts), None)
    meta, problem = {}, None
    if "json" in parts:
        try:
            meta = json.loads(parts["json"])
        except (ValueError, RecursionError):  # of which UTF-8 errors are a kind
            problem = "json does not parse"
        meta = meta if isinstance(meta, dict) else {}
    caption, url = (value if isinstance(value := meta.get(k), str) else None for k in _META)
    key, url = _valid(key), None if url is None else _valid(url)
    if "txt" in parts:
        try:
            caption = parts["txt"].decode("utf-8-sig")
        except UnicodeDecodeError:
            problem = "caption is not UTF-8"
    return Sample(key, image, caption, url, problem=problem)


def _valid(name):
    """The same, with "?" for what is no Unicode: odd bytes in a tar, half a character in JSON."""
    return name.encode(errors="replace").decode()
