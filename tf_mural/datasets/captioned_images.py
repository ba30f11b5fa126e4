"""Images with captions in several languages; shared by the converters of test sets.

A converter lists its images with their captions as `CaptionedImage`, and this module finds the
image files in folders, tar archives and zips, divides the images into units, and reads the units.
"""

import dataclasses
import hashlib
import itertools
import json
import os

from tf_mural import languages as language_codes
from tf_mural.data.records import Record, Skipped
from tf_mural.data.text_cleaning import is_blank
from tf_mural.datasets import bounded_read
from tf_mural.datasets.coco import image_store as coco_image_store
from tf_mural.datasets.coco.image_store import ImageStore
from tf_mural.datasets.multi30k import image_store
from tf_mural.errors import UserError

_IMAGES_PER_UNIT = 250


@dataclasses.dataclass(frozen=True)
class CaptionedImage:
    """An image and its captions.

    Attributes:
        id: id of the record.
        name: name of the image file.
        texts: pairs (language code, caption).
    """

    id: str
    name: str
    texts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some images and their captions.

    Attributes:
        locations: folders and archives of the image files; () for records without images.
        images: tuple of `CaptionedImage`.
        files: for each image its `archives.FileRange` in an archive, or None; () without images.
        parts: `InputParts` of the raw data, which the first unit of a conversion counts.
    """

    locations: tuple[str, ...]
    images: tuple[CaptionedImage, ...]
    files: tuple = ()
    parts: tuple = ()


def find_locations(raw_dir, images, bases, subfolders=("",), archive=""):
    """Returns the paths of the folders and archives that may contain images.

    Args:
        raw_dir: folder to which relative paths refer.
        images: folders, tar archives and zips from the option `images`, or () for the default ones.
        bases: default folders, relative to raw_dir.
        subfolders: folders below each base that may contain images.
        archive: name of the published archive, which is used if it lies in raw_dir; "" for none.

    Raises:
        UserError: a path of the option does not exist.
    """
    locations = []
    for base in images or bases:
        path = os.path.normpath(os.path.join(raw_dir, base))
        if images and os.path.isfile(path):
            locations.append(path)
        elif images and not os.path.isdir(path):
            raise UserError(f"{path}, which the option images names, is not a folder or an archive")
        folders = (os.path.join(path, name) if name else path for name in subfolders)
        locations += [folder for folder in folders if os.path.isdir(folder)]
    paths = [os.path.join(raw_dir, archive)] if archive and not images else []
    return tuple(dict.fromkeys(locations + [path for path in paths if os.path.isfile(path)]))


def plan_units(locations, images, advice, per_unit=_IMAGES_PER_UNIT, parts=()):
    """Divides images into units.

    Args:
        locations: result of `find_locations`; None for records without images.
        images: list of `CaptionedImage`.
        advice: end of the error message if no image exists: what the user should do.
        per_unit: maximum number of images of a unit. The images of a gzip form one unit, because a
            gzip is decompressed from its start for each unit.
        parts: see `Unit`.

    Returns:
        List of `Unit`.

    Raises:
        UserError: two images have the same id, or none of the image files exists.
    """
    seen = set()
    for image in images:
        if image.id in seen:
            raise UserError(
                f"the id {image.id!r} occurs twice: expected one image per id; download the "
                "captions again"
            )
        seen.add(image.id)
    files = [None] * len(images)
    if locations is not None:
        names = [image.name for image in images]
        all_locations, locations = locations, _select_locations(locations, names)
        if not locations:
            raise UserError(
                f"none of the {len(images):,} images, such as {names[0] if names else '(none)'}, "
                f"is in {' or '.join(all_locations) or 'the raw folder'}; {advice}"
            )
        files = files if _has_zip(locations) else image_store.find_in_archives(locations, names)
        if any(files):
            order = sorted(range(len(images)), key=lambda i: files[i].offset if files[i] else -1)
            images, files = [images[i] for i in order], [files[i] for i in order]
            per_unit = len(images) if image_store.any_gzip(locations) else per_unit
    starts = range(0, len(images), per_unit)
    return [
        Unit(
            locations or (),
            tuple(images[start : start + per_unit]),
            tuple(files[start : start + per_unit]),
            () if start else tuple(parts),
        )
        for start in starts
    ]


def read(unit):
    """Yields a `Record` or `Skipped` for each image, and `Skipped` for each blank caption.

    The `parts` of the unit come first.
    """
    yield from unit.parts
    for image, (data, reason) in zip(unit.images, _iter_images(unit), strict=False):
        yield from make_records(image, () if data is None else (data,), reason)


def _iter_images(unit):
    """Yields for each image of a unit (bytes, None), (None, reason), or (None, None) without it."""
    names = [image.name for image in unit.images]
    if not unit.locations:
        yield from itertools.repeat((None, None), len(names))
    elif _has_zip(unit.locations):
        with ImageStore(unit.locations) as store:
            yield from map(store.load, names)
    else:
        pairs = list(zip(names, unit.files, strict=True))
        yield from image_store.iter_images(unit.locations, pairs)


def _has_zip(locations):
    return any(location.endswith(".zip") for location in locations)


def _select_locations(locations, names):
    """Returns the locations to read from; () if they contain none of the named images."""
    if not _has_zip(locations):
        return locations if locations and image_store.any_exists(locations, names) else ()
    tars = [path for path in locations if os.path.isfile(path) and not path.endswith(".zip")]
    if tars:
        raise UserError(
            f"images in tars and in zips, such as {tars[0]}, cannot be read together: unpack one "
            "of them"
        )
    return coco_image_store.select_locations(locations, names)


def make_records(image, images, reason=None):
    """Yields the `Record` or `Skipped` of an image, and a `Skipped` for each blank caption.

    Args:
        image: `CaptionedImage`.
        images: images of the record, as bytes.
        reason: why the image cannot be used, or None.
    """
    if reason:
        yield Skipped(reason, image.name)
        return
    texts = tuple((code, text) for code, text in image.texts if not is_blank(text))
    for code, text in image.texts:
        if is_blank(text):
            yield Skipped("blank text", f"{image.name}, {code}", text_only=True)
    yield Record(image.id, images, texts) if texts else Skipped("no text", image.name)


def fingerprint(units):
    """Returns a hash of the captions, and of the sizes of the images."""
    digest = hashlib.sha256()
    for unit in units:
        for image in unit.images:
            digest.update(repr(image).encode(errors="backslashreplace"))
        if unit.locations:
            names = [image.name for image in unit.images]
            image_store.update_digest(digest, unit.locations, names)
    return digest.hexdigest()


# --- captions -------------------------------------------------------------------------------------


def choose_languages(available, languages, expected, where):
    """Returns the languages of a data set to convert.

    Args:
        available: codes of the languages in the raw data.
        languages: codes from the option `languages`, in any convention; None: all languages of the
            data set.
        expected: codes of all languages of the complete data set.
        where: name of the raw data, for error messages.

    Raises:
        UserError: a language is missing.
    """
    if languages is not None:
        chosen = language_codes.choose(languages, list(available), f"language (of {where})")
        return [code for code in available if code in chosen]
    missing = [code for code in expected if code not in available]
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} of {len(expected)} languages: {', '.join(missing)}; "
            "download them, or name the languages to convert with the option languages"
        )
    return list(available)


def json_lines(data, path):
    """Yields (line number from 1, object) of a file with one JSON object per line.

    Args:
        data: bytes of the file. Only line feeds end a line.
        path: name of the file for messages.

    Raises:
        UserError: the file is empty, or a line is not a JSON object in UTF-8.
    """
    lines = bounded_read.split_lines(data, path)
    if not lines:
        raise UserError(f"{path} is empty; download it again")
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, line {number}: expected a JSON object, got {line[:60]!r}; download the "
                "file again"
            )
        yield number, value


def read_image_names(path):
    """Returns the file names in a list of images, one per line.

    Raises:
        UserError: the file is empty, or a line is not a file name or repeats another line.
    """
    names, seen = bounded_read.read_lines(path), set()
    for number, name in enumerate(names, 1):
        if not name or os.path.basename(name) != name or name in seen:
            problem = "occurs a second time" if name in seen else "is not the file name of an image"
            raise UserError(f"{path}, line {number}: {name!r} {problem}; download it again")
        seen.add(name)
    if not names:
        raise UserError(f"{path} is empty; download it again")
    return names


def join_lines(names_path, caption_files):
    """Joins a list of images and the captions of several languages by line number.

    Args:
        names_path: file with one name of an image per line.
        caption_files: pairs (language, file with one caption per line).

    Returns:
        List of `CaptionedImage`.

    Raises:
        UserError: a file has another number of lines than the list of images; see also
            `read_image_names`.
    """
    names = read_image_names(names_path)
    columns = []
    for code, path in caption_files:
        lines = bounded_read.read_lines(path)
        if len(lines) != len(names):
            raise UserError(
                f"{path} has {len(lines):,} lines, but {os.path.basename(names_path)} names "
                f"{len(names):,} images; download both again"
            )
        columns.append([(code, text) for text in lines])
    return [
        CaptionedImage(os.path.splitext(name)[0], name, texts)
        for name, texts in zip(names, zip(*columns, strict=True), strict=True)
    ]
