"""Checks of random inputs: each input is converted or refused by a UserError, and all is counted.

A check takes a `random.Random` and a folder that contains the images of `fuzz_inputs.IMAGES`. The
check returns the number of inputs and the number of inputs that were refused or dropped.
"""

import contextlib
import functools
import io
import os
import random
import shutil
import tempfile
import unicodedata

import numpy as np
from PIL import Image

from helpers import fuzz_inputs, fuzz_readers
from helpers.image_cases import tensorflow_pixels
from helpers.images import plain_image
from tf_mural import file_io, languages
from tf_mural.conversion import image_probe
from tf_mural.conversion.filter_config import FilterConfig
from tf_mural.data import image_headers, image_normalization
from tf_mural.data.records import Record, is_language
from tf_mural.datasets import crawl, image_files
from tf_mural.datasets.crawl import sample_files
from tf_mural.datasets.table.grouping import ImageNames
from tf_mural.errors import UserError

_NAMES_PER_FOLDER = 12


@contextlib.contextmanager
def fuzz_folder():
    """Context manager: yields a folder, in memory if possible, with the images of tables."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for name in fuzz_inputs.IMAGES:
            os.makedirs(os.path.dirname(os.path.join(folder, "images", name)), exist_ok=True)
            with open(os.path.join(folder, "images", name), "wb") as file:
                file.write(plain_image("red", "PNG" if name.endswith("png") else "JPEG"))
        yield folder


def run(kind, count, seed):
    """Checks inputs of one kind until at least `count` are checked; returns (checked, refused).

    Raises:
        AssertionError: a check failed; the message has the seed and the number of the input.
    """
    checked = refused = number = 0
    with fuzz_folder() as folder:
        while checked < count:
            rng = random.Random(f"{seed} {kind} {number}")
            try:
                inputs, errors = CHECKS[kind](rng, folder)
            except Exception as error:
                raise AssertionError(
                    f"input {number} of the kind {kind} failed; to repeat it, run "
                    f"helpers.fuzzing.repeat({kind!r}, {number}, {seed!r}): {error!r}"
                ) from error
            checked, refused, number = checked + inputs, refused + errors, number + 1
    return checked, refused


def repeat(kind, number, seed):
    """Checks a single input again."""
    with fuzz_folder() as folder:
        return CHECKS[kind](random.Random(f"{seed} {kind} {number}"), folder)


# --- names ----------------------------------------------------------------------------------------


def check_names(rng, folder):
    """Names of images find their files in any Unicode form, and never leave their folder."""
    images = os.path.join(folder, "images")
    names, refused = ImageNames(images, ""), 0
    for _ in range(_NAMES_PER_FOLDER):
        known = rng.choice(fuzz_inputs.IMAGES)
        form = unicodedata.normalize(rng.choice(("NFC", "NFD")), known)
        variants = (form, form.replace("/", "\\"), f"./{form}", f"{form}#3", form.upper())
        name, is_known = rng.choice(variants), rng.random() < 0.5
        if not is_known:
            name = rng.choice(("", "/", "\\", "..")).join(
                rng.choice((*fuzz_inputs.STRINGS, known)) for _ in range(rng.randint(1, 3))
            )
        names.check(name)
        path = names.path(name)
        key = names.key(name)
        file_io.describe_similar(images, name)
        sample_files.parse_name(name)
        try:
            data, reason = image_files.load_image(images, path, "line 1")
        except UserError:
            refused += 1
            continue
        assert (data is None) != (reason is None)
        if is_known and name != form.upper():
            assert data is not None and key == os.path.normpath(known), (name, key)
    _check_folder_of_names(rng, folder)
    return _NAMES_PER_FOLDER, refused


def _check_folder_of_names(rng, folder):
    """All files of a folder are counted, whatever their names are."""
    raw, count = os.path.join(folder, "names"), 0
    os.makedirs(raw)
    try:
        for _ in range(rng.randint(1, 6)):
            base = fuzz_inputs.member_name(rng).replace("/", "_")
            path = os.path.join(raw, base)
            if not base.startswith(".") and not os.path.exists(path):
                fuzz_readers.write(path, fuzz_readers.member_data(rng, base))
                count += 1
        records, ledger = fuzz_readers.read(crawl, raw)
        if records is not None:
            assert ledger.parts["files"]["read"] == count
    finally:
        shutil.rmtree(raw)


def check_language(rng, folder):
    """A name of a language is found as one stored code, or is refused."""
    name = fuzz_inputs.language_name(rng)
    assert isinstance(languages.hint(name), str)
    language = languages.find(name)
    try:
        code = languages.canonicalize(name)
    except UserError:
        assert language is None
        return 1, 1
    assert language is None or language.code == code
    assert is_language(code) and languages.canonicalize(code) == code, (name, code)
    return 1, 0


# --- images ---------------------------------------------------------------------------------------


@functools.cache
def _image_files():
    return fuzz_inputs.image_files()


def check_image(rng, folder):
    """Any image file is normalized to an upright RGB file, or dropped."""
    data = rng.choice(_image_files())
    if rng.random() < 0.9:
        data = fuzz_inputs.damage(rng, data)
    image_headers.header_size(data)
    is_plain = image_headers.decodes_alike(data)
    valid, reason = image_files.validate_image(data)
    if reason:
        try:  # the Embedder normalizes images without this check
            image_normalization.normalize(data)
        except UserError:
            pass
        image_probe.image_size(data)
        return 1, 1
    changes = []
    normalize = image_probe.ImageNormalizer(FilterConfig(), lambda *change: changes.append(change))
    skipped = []
    record = normalize(0, Record("r", (valid,), (("en", "a"),)), skipped.append)
    if record is None:
        assert len(skipped) == 1
        return 1, 1
    assert bool(changes) == (record.images[0] != data) and not (is_plain and changes)
    with Image.open(io.BytesIO(record.images[0])) as image:
        pixels, left = image_normalization.to_rgb(image)
        assert not left and pixels.size == image.size
    gray = image_probe.to_grayscale(record.images[0])
    assert isinstance(gray, str) or np.asarray(gray).size
    return 1, 0


def check_decoded_image(rng, folder):
    """TensorFlow decodes each normalized image to the pixels of Pillow."""
    data, is_damaged = rng.choice(_image_files()), rng.random() < 0.7
    # Decoders differ in how they treat damaged pixels of GIFs and JPEGs.
    if is_damaged and data.startswith(b"\xff\xd8"):
        start = data.find(b"\xff\xda")
        data = fuzz_inputs.damage(rng, data[:start]) + data[start:]
    elif is_damaged and not data.startswith(b"GIF"):
        data = fuzz_inputs.damage(rng, data)
    if image_files.validate_image(data)[1]:
        return 1, 1
    try:
        result = image_normalization.normalize(data)
    except UserError:
        return 1, 1
    pixels = tensorflow_pixels(result.data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image_normalization.to_rgb(image)[0].convert("RGB")).astype(int)
    assert pixels.shape == expected.shape
    if not (is_damaged and data.startswith(b"\xff\xd8")):
        assert np.abs(pixels - expected).mean() <= 2
    return 1, 0


CHECKS = {
    "valid tables": fuzz_readers.check_valid_table,
    "tables": fuzz_readers.check_hostile_table,
    "valid tars": fuzz_readers.check_valid_tar,
    "tars": fuzz_readers.check_hostile_tar,
    "JSON captions": fuzz_readers.check_json,
    "COCO captions": fuzz_readers.check_coco,
    "parquet": fuzz_readers.check_parquet,
    "names": check_names,
    "languages": check_language,
    "images": check_image,
    "decoded images": check_decoded_image,
    "conversions": fuzz_readers.check_conversion,
}
