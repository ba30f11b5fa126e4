"""Converts data sets that are defined by lists of records."""

import importlib.util
import sys
import types

import pytest

from tf_mural import conversion
from tf_mural.conversion import FilterConfig
from tf_mural.data.records import RecordSet

needs_imagehash = pytest.mark.skipif(
    importlib.util.find_spec("imagehash") is None,
    reason="perceptual hashes need an optional package, ImageHash",
)


class CorpusConverter:
    """Converts lists of units, which are lists of `Record` and `Skipped`, in this process.

    A unit may also contain an exception. Reading raises this exception after the items that precede
    it in the unit.

    Args:
        folder: folder of the record sets.

    Attributes:
        lines: progress lines of the last conversion.
        units_read: numbers of the units that the last conversion read, in order.
        manifest: manifest of the last conversion that the method `ids` started.
        module: the module of the data set.
    """

    def __init__(self, folder):
        self.folder = folder
        self.lines = []
        self.units_read = []
        self.module = types.ModuleType("corpus_of_a_test")
        self.module.AUGMENTATIONS = ()
        self.module.plan = lambda raw_dir, split: list(range(len(self.units)))
        self.module.read = self._read
        sys.modules[self.module.__name__] = self.module

    def convert(self, units, out="out", part=None, overwrite=False, **filters):
        """Converts units to the record set `<out>/train`.

        Args:
            units: list of units.
            out: name of the folder of the record sets.
            part, overwrite: as for `conversion.convert`.
            **filters: fields of `FilterConfig`.

        Returns:
            The manifest; None if other parts of the conversion are not finished.
        """
        self.units, self.lines, self.units_read = units, [], []
        return conversion.convert(
            self.module,
            "corpus",
            None,
            self.folder / out,
            "train",
            processes=1,
            overwrite=overwrite,
            progress=self.lines.append,
            filters=FilterConfig(**filters),
            part=part,
        )

    def ids(self, units, **options):
        """Returns the ids of the records that `convert` keeps, in order."""
        self.manifest = self.convert(units, **options)
        return [record.id for record in self.records(options.get("out", "out"))]

    def records(self, out="out"):
        """Returns the records of a record set."""
        return list(RecordSet.open(self.folder / out / "train"))

    def dropped(self):
        """Returns two {reason: count}: records and texts dropped in the last call of `ids`."""
        ledger = self.manifest["ledger"]
        assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
        return ledger["dropped"], ledger["dropped_texts"]

    def _read(self, number):
        self.units_read.append(number)
        for item in self.units[number]:
            if isinstance(item, BaseException):
                raise item
            yield item


def read_files(folder):
    """Returns {name: bytes} of the files in a folder, sorted by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def visible_names(folder):
    """Returns the sorted names in a folder that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def build_folders(folder):
    """Returns the sorted paths of unfinished record sets in a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".tmp")
