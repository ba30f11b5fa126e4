"""Data sets out of lists of records, and pictures to tell apart, for tests of conversion."""

import importlib.util
import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from tf_mural import conversion
from tf_mural.conversion import Steps
from tf_mural.data.records import RecordSet

needs_imagehash = pytest.mark.skipif(
    importlib.util.find_spec("imagehash") is None,
    reason="perceptual hashes are of an optional package, ImageHash",
)


class Corpus:
    """Converts lists of units, which are lists of `Record` and `Dropped`, in this process."""

    def __init__(self, folder):
        self.folder = folder
        self.said = []
        self.read = []  # numbers of the units, as they are read
        self.module = types.ModuleType("corpus_of_a_test")
        self.module.AUGMENTATIONS = ()
        self.module.plan = lambda raw_dir, split: list(range(len(self.units)))
        self.module.read = self._read
        sys.modules[self.module.__name__] = self.module

    def convert(self, units, out="out", part=None, overwrite=False, engine="processes", **steps):
        """The manifest; `steps` are those of `Steps`."""
        self.units, self.said, self.read = units, [], []
        return conversion.convert(
            self.module,
            "corpus",
            None,
            self.folder / out,
            "train",
            processes=1 if engine == "processes" else None,
            overwrite=overwrite,
            progress=self.said.append,
            steps=Steps(**steps),
            part=part,
            engine=engine,
        )

    def ids(self, units, **how):
        """The ids of the records that are kept, in order."""
        self.manifest = self.convert(units, **how)
        return [record.id for record in self.records(how.get("out", "out"))]

    def records(self, out="out"):
        """The records of the set."""
        return list(RecordSet.open(self.folder / out / "train"))

    def dropped(self):
        """(records, texts) left out by the last `ids`: dicts from reason to count."""
        ledger = self.manifest["ledger"]
        assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
        return ledger["dropped"], ledger["dropped_texts"]

    def _read(self, number):
        self.read.append(number)
        for item in self.units[number]:
            if isinstance(item, BaseException):
                raise item
            yield item


def picture(seed, width=256, height=256):
    """A picture of soft spots, unlike that of another seed."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.BICUBIC)


def encoded(image, format="JPEG", **how):
    """The bytes of a picture."""
    out = io.BytesIO()
    image.save(out, format, **how)
    return out.getvalue()
