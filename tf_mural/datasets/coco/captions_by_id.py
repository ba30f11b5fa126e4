"""Reads captions that refer to images of MS-COCO by id, from JSON, JSONL or TSV."""

import re

from tf_mural.datasets import bounded_read
from tf_mural.datasets.coco import source_files
from tf_mural.errors import UserError

IMAGES = ("file_path", "image_id", "cocoid", "image", "file_name", "filename", "id")
TEXTS = ("text", "texts", "caption", "captions")
# 391895, "391895", "000000391895.jpg", "val2014/COCO_val2014_000000391895.jpg"
_IMAGE_ID = re.compile(r"(?:.*/)?(?:COCO_[a-z]+\d{4}_)?(\d{1,12})(?:\.jpg)?")


def iter_captions(file, keys=TEXTS):
    """Yields (image id, text) of a `SourceFile`, in order; blank texts are "".

    The suffix of the file name determines the format:

        TSV     image <tab> text, with or without a header of one of IMAGES and one of TEXTS
        JSONL   one object per line: {"image_id": 391895, "text": "..."}; "text" may be a list
        JSON    a list of such objects, or {"annotations": a list of such objects},
                or {"391895": "...", "42": ["...", "..."]}

    Args:
        file: `SourceFile`.
        keys: possible keys of a text, by priority. The first key that occurs in any object is used
            for all objects.

    Raises:
        UserError: the file has another format, or a row lacks its image or text.
    """
    if file.name.endswith((".tsv", ".txt")):
        yield from _iter_table(file)
    elif file.name.endswith(".jsonl"):
        lines = enumerate(bounded_read.split_lines(source_files.read_bytes(file), file), 1)
        lines = [(number, line) for number, line in lines if line.strip()]
        items = [source_files.parse_json(line, f"{file}, line {number}") for number, line in lines]
        yield from _iter_objects(items, f"{file}, line", [number for number, _ in lines], keys)
    elif file.name.endswith(".json"):
        data = source_files.read_json(file)
        if isinstance(data, dict) and "annotations" not in data:
            yield from _iter_mapping(data, file)
            return
        items = data["annotations"] if isinstance(data, dict) else data
        if not isinstance(items, list):
            raise UserError(f"{file}: expected a list of captions, got {str(items)[:40]!r}")
        yield from _iter_objects(items, f"{file}, item", range(1, len(items) + 1), keys)
    else:
        raise UserError(f"{file}: expected a file that ends in .tsv, .json or .jsonl")


def _iter_mapping(data, file):
    if not any(_IMAGE_ID.fullmatch(image) for image in data):
        raise UserError(
            f"{file}: expected annotations, or texts by the ids of their images, got the keys "
            f"{', '.join(list(data)[:5]) or '(none)'}"
        )
    for image, value in data.items():
        location = f"{file}, {image!r}"
        for text in _parse_texts(value, location):
            yield _parse_image_id(image, location), text


def _iter_objects(items, prefix, numbers, keys):
    """Yields the captions of a list of objects; messages name an object by `prefix` and number."""
    for number, item in zip(numbers, items, strict=True):
        if not isinstance(item, dict):
            raise UserError(f"{prefix} {number}: expected an object, got {str(item)[:40]!r}")
    used_keys = {name for item in items for name in item}
    key = next((key for key in keys if key in used_keys), " or ".join(keys))
    for number, item in zip(numbers, items, strict=True):
        location = f"{prefix} {number}"
        image_key = next((name for name in IMAGES if name in item), None)
        if image_key is None or key not in item:
            raise UserError(
                f"{location}: expected an object with {IMAGES[1]} and {key}, got the keys "
                f"{', '.join(item) or '(none)'}"
            )
        image_id = _parse_image_id(item[image_key], location)
        for text in _parse_texts(item[key], location):
            yield image_id, text


def _iter_table(file):
    lines = bounded_read.split_lines(source_files.read_bytes(file), file)
    for number, line in enumerate(lines, 1):
        location = f"{file}, line {number}"
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2:
            raise UserError(
                f"{location}: expected image<tab>text, got {len(cells)} columns: {line[:60]!r}"
            )
        if number == 1 and cells[0] in IMAGES and cells[1] in TEXTS:
            continue
        yield _parse_image_id(cells[0], location), cells[1]


def _parse_image_id(image, location):
    if isinstance(image, int) and not isinstance(image, bool):
        return image
    match = _IMAGE_ID.fullmatch(image) if isinstance(image, str) else None
    if match is None:
        raise UserError(
            f"{location}: expected the id of an image, such as 391895, or its file, got {image!r}"
        )
    return int(match[1])


def _parse_texts(value, location):
    """Returns the stripped texts of a value; a missing text or an empty list becomes [""]."""
    texts = [""] if value is None or value == [] else value
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{location}: expected a text or a list of texts, got {str(value)[:40]!r}")
    return [text.strip() for text in texts]
