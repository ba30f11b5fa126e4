"""`cifar100`: 60,000 pictures of 32x32 pixels in 100 classes.

Both forms of the home page that need no Matlab are read, and give the same records: the binary one,
and the pickles, of which nothing is run. The pictures become PNG, so no pixel changes. The label is
the fine one.

tensorflow-datasets has this corpus too; it would bring its own format and download for 20 lines.
"""

import dataclasses
import io
import os

import numpy as np

from tf_mural.data.records import Record
from tf_mural.datasets import text_lines
from tf_mural.datasets.classification import archives, unpickle
from tf_mural.errors import UserError, lookup

SPLITS = ("train", "test")
AUGMENTATIONS = ("crop", "flip")
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_ROW = 2 + _PIXELS  # coarse label, fine label, pixels
_FORMS = {
    "binary": ("cifar-100-binary.tar.gz", "cifar-100-binary", "train.bin"),
    "python": ("cifar-100-python.tar.gz", "cifar-100-python", "train"),
}
_RECORDS_PER_UNIT = 5000


@dataclasses.dataclass(frozen=True)
class Unit:
    """The pictures [start, end) of a split; `classes` is how many there are."""

    place: archives.Place
    form: str
    split: str
    start: int
    end: int
    classes: int


def plan(raw_dir: str, split: str):
    """Counts the pictures.

    Args:
        raw_dir: cifar-100-binary.tar.gz, cifar-100-python.tar.gz, a folder that holds one of them,
            or what they unpack to. Of both, the binary one is taken.
        split: train or test.

    Returns:
        List of `Unit`.

    Raises:
        UserError: files that are missing, broken or of another size, or a pickle of other things.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of cifar100")
    place, form = _find(raw_dir)
    classes = len(_names(place, form))
    if form == "binary":
        where, file = place.where(f"{split}.bin"), place.get(f"{split}.bin")
        if file is None:
            raise UserError(f"{where} is missing; download it again")
        count, rest = divmod(file.size, _ROW)
        if rest or not count:
            raise UserError(
                f"{where}: expected {_ROW:,} bytes a picture, got {file.size:,} bytes; "
                "download it again"
            )
    else:
        count = len(_pickled(place, split)[1])
    starts = range(0, count, _RECORDS_PER_UNIT)
    ends = (min(start + _RECORDS_PER_UNIT, count) for start in starts)
    pairs = zip(starts, ends, strict=True)
    return [Unit(place, form, split, start, end, classes) for start, end in pairs]


def read(unit):
    """Yields a `Record` for each picture of a unit. Raises UserError at a label without a name."""
    rows = _binary(unit) if unit.form == "binary" else _python(unit)
    for number, (label, pixels) in enumerate(rows, unit.start):
        if not 0 <= label < unit.classes:
            raise UserError(
                f"{unit.place.path}, {unit.split}, picture {number}: expected a label under "
                f"{unit.classes}, got {label}; download it again"
            )
        yield Record(f"{unit.split}/{number:05d}", (_png(pixels),), label=label)


def classes(raw_dir):
    """The names of the labels, in order."""
    return _names(*_find(raw_dir))


def fingerprint(raw_dir, split):
    """A hash of the archive, or of the split's file where it is unpacked."""
    place, form = _find(raw_dir)
    name = f"{split}.bin" if form == "binary" else split
    path = place.path if place.is_archive else place.where(name)
    if not os.path.isfile(path):
        raise UserError(f"{path} is missing; download it again")
    return archives.identity(path)


def _find(raw_dir):
    """(Place, form)."""
    if raw_dir and os.path.isfile(raw_dir):
        form = "python" if "python" in os.path.basename(raw_dir) else "binary"
        return archives.find(raw_dir, *_FORMS[form]), form
    for form, names in _FORMS.items():
        if place := archives.find(raw_dir, *names):
            return place, form
    listed = " or ".join(names[0] for names in _FORMS.values())
    raise UserError(
        f"expected {listed} in {raw_dir}; download it from "
        "https://www.cs.toronto.edu/~kriz/cifar.html"
    )


def _names(place, form):
    if form == "binary":
        name = "fine_label_names.txt"
        rows = text_lines.split(place.bytes(name), place.where(name))
        found = [row.strip() for row in rows if row.strip()]
    else:
        found = _field(_load(place, "meta"), b"fine_label_names", list, place.where("meta"))
        found = [name.decode() if isinstance(name, bytes) else name for name in found]
    if not found or len(set(found)) != len(found) or not all(isinstance(n, str) for n in found):
        raise UserError(f"{place.path}: the names of the fine labels are empty or repeat")
    return found


def _binary(unit):
    """Yields (label, (3, 32, 32) uint8)."""
    file = unit.place.get(f"{unit.split}.bin")
    with archives.opened(file.path) as stream:
        archives.pass_to(stream, (file.offset or 0) + unit.start * _ROW)
        for _ in range(unit.start, unit.end):
            row = stream.read(_ROW)
            if len(row) != _ROW:
                raise UserError(f"{unit.place.path} is cut short; download it again")
            yield row[1], np.frombuffer(row, np.uint8, offset=2).reshape(3, _SIDE, _SIDE)


def _python(unit):
    pixels, labels = _pickled(unit.place, unit.split)
    for number in range(unit.start, unit.end):
        yield labels[number], pixels[number].reshape(3, _SIDE, _SIDE)


def _pickled(place, split):
    """((n, 3072) uint8, n labels)."""
    where = place.where(split)
    data = _load(place, split)
    pixels = unpickle.matrix(_field(data, b"data", object, where), where)
    labels = _field(data, b"fine_labels", list, where)
    if pixels.shape != (len(labels), _PIXELS) or not labels:
        raise UserError(
            f"{where}: expected {_PIXELS:,} bytes and a label a picture, got {pixels.shape} bytes "
            f"and {len(labels):,} labels; download it again"
        )
    if not all(isinstance(label, int) for label in labels):
        raise UserError(f"{where}: expected labels that are whole numbers; download it again")
    return pixels, labels


def _load(place, name):
    return unpickle.load(io.BytesIO(place.bytes(name)), place.where(name))


def _field(data, key, kind, where):
    value = None
    if isinstance(data, dict):
        value = data.get(key, data.get(key.decode()))
    if value is None or not isinstance(value, kind):
        raise UserError(f"{where}: expected a dict with {key.decode()!r}; download it again")
    return value


def _png(pixels):
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("writing images needs Pillow: pip install pillow") from error
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
