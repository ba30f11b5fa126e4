"""The English captions of Flickr30K: its token file, the CSV of Kaggle, or the JSON of Karpathy."""

import json
import re

from tf_mural.datasets import bounded_read
from tf_mural.errors import UserError

_TOKEN_LINE = re.compile(r"(?P<name>[^#\t]+)#(?P<number>\d+)\t(?P<text>.*)")
# One line of the published CSV lacks its second separator.
_CSV_LINE = re.compile(r"(?P<name>[^|]+?)\s*\|\s*(?P<number>\d+)\s*\|?\s*(?P<text>.*)")
_CSV_HEADER = re.compile(r"image_name\s*\|\s*comment_number\s*\|\s*comment")


def load_captions(path, names):
    """Loads the captions of some images.

    Args:
        path: path of results_20130124.token, results.csv or dataset_flickr30k.json, which may be
            gzip-compressed.
        names: file names of the images.

    Returns:
        {file name: captions in the order of their numbers}; images without captions are omitted.

    Raises:
        UserError: the file has another format, or captions of none of the images.
    """
    is_json = path.removesuffix(".gz").endswith(".json")
    entries = _iter_json(path) if is_json else _iter_lines(path)
    selected = set(names)
    captions = {}
    for name, number, text in entries:
        if name in selected:
            captions.setdefault(name, []).append((number, text))
    if not captions:
        raise UserError(f"{path} has captions of none of the images, such as {names[0]}")
    return {name: [text for _, text in sorted(pairs)] for name, pairs in captions.items()}


def _iter_lines(path):
    lines = bounded_read.read_lines(path)
    is_csv = bool(lines) and _CSV_HEADER.fullmatch(lines[0]) is not None
    pattern = _CSV_LINE if is_csv else _TOKEN_LINE
    for number, line in enumerate(lines[is_csv:], 1 + is_csv):
        match = pattern.fullmatch(line)
        if match is None:
            expected = "name| number| caption" if is_csv else "name#number<tab>caption"
            raise UserError(f"{path}, line {number}: expected {expected}, got {line[:60]!r}")
        yield match["name"], int(match["number"]), match["text"]


def _iter_json(path):
    text = "\n".join(bounded_read.read_lines(path))
    try:
        images = json.loads(text)["images"]
        for image in images:
            for number, sentence in enumerate(image["sentences"]):
                yield image["filename"], number, sentence["raw"].strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected images with a filename and sentences that have a raw text, as in "
            f"dataset_flickr30k.json; {type(error).__name__}: {error}"
        ) from error
