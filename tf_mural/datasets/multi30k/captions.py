"""The English captions of Flickr30K: its token file, the table of Kaggle, or Karpathy's JSON."""

import json
import re

from tf_mural.datasets import text_lines
from tf_mural.errors import UserError

_TOKEN = re.compile(r"(?P<name>[^#\t]+)#(?P<number>\d+)\t(?P<text>.*)")
# One line of the published table lacks its second bar.
_TABLE = re.compile(r"(?P<name>[^|]+?)\s*\|\s*(?P<number>\d+)\s*\|?\s*(?P<text>.*)")
_TABLE_HEAD = re.compile(r"image_name\s*\|\s*comment_number\s*\|\s*comment")


def read(path, names):
    """The captions of some images.

    Args:
        path: results_20130124.token, results.csv or dataset_flickr30k.json, or gzip of one.
        names: file names of the images.

    Returns:
        {name: captions in the order of their numbers}, of those images that have some.

    Raises:
        UserError: the file is none of the three, or has captions of none of the images.
    """
    plain = path.removesuffix(".gz")
    found = _of_json(path) if plain.endswith(".json") else _of_lines(path)
    wanted = set(names)
    captions = {}
    for name, number, text in found:
        if name in wanted:
            captions.setdefault(name, []).append((number, text))
    if not captions:
        raise UserError(f"{path} has captions of none of the images, such as {names[0]}")
    return {name: [text for _, text in sorted(some)] for name, some in captions.items()}


def _of_lines(path):
    content = text_lines.read(path)
    is_table = bool(content) and _TABLE_HEAD.fullmatch(content[0]) is not None
    pattern = _TABLE if is_table else _TOKEN
    for number, line in enumerate(content[is_table:], 1 + is_table):
        match = pattern.fullmatch(line)
        if match is None:
            expected = "name| number| caption" if is_table else "name#number<tab>caption"
            raise UserError(f"{path}, line {number}: expected {expected}, got {line[:60]!r}")
        yield match["name"], int(match["number"]), match["text"]


def _of_json(path):
    try:
        images = json.loads("\n".join(text_lines.read(path)))["images"]
        for image in images:
            for number, sentence in enumerate(image["sentences"]):
                yield image["filename"], number, sentence["raw"].strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected images with a filename and sentences that have a raw text, as in "
            f"dataset_flickr30k.json; {type(error).__name__}: {error}"
        ) from error
