"""Texts that are joined to images of COCO by their numbers: JSON, JSONL and TSV."""

import re

from tf_mural.datasets import text_lines
from tf_mural.datasets.coco import files
from tf_mural.errors import UserError

IMAGES = ("file_path", "image_id", "cocoid", "image", "file_name", "filename", "id")
TEXTS = ("text", "texts", "caption", "captions")
# 391895, "391895", "000000391895.jpg", "val2014/COCO_val2014_000000391895.jpg"
_NUMBER = re.compile(r"(?:.*/)?(?:COCO_[a-z]+\d{4}_)?(\d{1,12})(?:\.jpg)?")


def read(file, keys=TEXTS):
    """Yields (image number, text) of a `files.File`, in order; blank texts are "".

    By the end of its name, the file is

        TSV     image <tab> text, with or without a line of IMAGES and TEXTS above
        JSONL   {"image_id": 391895, "text": "..."}, or a list of texts
        JSON    a list of such, or one in "annotations", or {"391895": "...", "42": ["...", "..."]}

    Args:
        file: where the texts are.
        keys: what a text may be called; the first of them that any object has is for all of them.

    Raises:
        UserError: the file is none of these, or a row lacks its image or text.
    """
    if file.name.endswith((".tsv", ".txt")):
        yield from _of_table(file)
    elif file.name.endswith(".jsonl"):
        rows = enumerate(text_lines.split(files.read(file), file), 1)
        rows = [(number, row) for number, row in rows if row.strip()]
        items = [files.parse_json(row, f"{file}, line {number}") for number, row in rows]
        yield from _of_objects(items, f"{file}, line", [number for number, _ in rows], keys)
    elif file.name.endswith(".json"):
        data = files.read_json(file)
        if isinstance(data, dict) and "annotations" not in data:
            yield from _of_mapping(data, file)
            return
        items = data["annotations"] if isinstance(data, dict) else data
        if not isinstance(items, list):
            raise UserError(f"{file}: expected a list of captions, got {str(items)[:40]!r}")
        yield from _of_objects(items, f"{file}, item", range(1, len(items) + 1), keys)
    else:
        raise UserError(f"{file}: expected a file that ends in .tsv, .json or .jsonl")


def _of_mapping(data, file):
    if not any(_NUMBER.fullmatch(image) for image in data):
        raise UserError(
            f"{file}: expected annotations, or texts by the numbers of their images, got the keys "
            f"{', '.join(list(data)[:5]) or '(none)'}"
        )
    for image, value in data.items():
        where = f"{file}, {image!r}"
        for text in _texts(value, where):
            yield _number(image, where), text


def _of_objects(items, place, numbers, keys):
    """The texts of a list of objects; `place` and a number name each in messages."""
    for number, item in zip(numbers, items, strict=True):
        if not isinstance(item, dict):
            where = f"{place} {number}"
            raise UserError(f"{where}: expected an object, got {str(item)[:40]!r}")
    used = {name for item in items for name in item}
    key = next((key for key in keys if key in used), " or ".join(keys))
    for number, item in zip(numbers, items, strict=True):
        where = f"{place} {number}"
        image = next((name for name in IMAGES if name in item), None)
        if image is None or key not in item:
            raise UserError(
                f"{where}: expected an object with {IMAGES[1]} and {key}, got the keys "
                f"{', '.join(item) or '(none)'}"
            )
        number = _number(item[image], where)
        for text in _texts(item[key], where):
            yield number, text


def _of_table(file):
    for number, row in enumerate(text_lines.split(files.read(file), file), 1):
        where = f"{file}, line {number}"
        cells = [cell.strip() for cell in row.split("\t")]
        if len(cells) != 2:
            raise UserError(
                f"{where}: expected image<tab>text, got {len(cells)} columns: {row[:60]!r}"
            )
        if number == 1 and cells[0] in IMAGES and cells[1] in TEXTS:
            continue
        yield _number(cells[0], where), cells[1]


def _number(image, where):
    if isinstance(image, int) and not isinstance(image, bool):
        return image
    match = _NUMBER.fullmatch(image) if isinstance(image, str) else None
    if match is None:
        raise UserError(
            f"{where}: expected the number of an image, such as 391895, or its file, got {image!r}"
        )
    return int(match[1])


def _texts(value, where):
    """The texts in a value, at least one; none at all is one blank."""
    found = [""] if value is None or value == [] else value
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise UserError(f"{where}: expected a text or a list of texts, got {str(value)[:40]!r}")
    return [text.strip() for text in found]
