"""The jobs of a conversion and the result file of each unit.

A job handles one unit or one range of keys, usually in a worker process. Jobs take plain data,
write files atomically and return a number. Jobs can therefore run on any executor whose workers
share a folder.
"""

import dataclasses
import importlib
import itertools
import json

import numpy as np

from tf_mural import file_io
from tf_mural.conversion import corpus_filters, record_filters
from tf_mural.conversion.corpus_filters import CORPUS_FILTERS
from tf_mural.conversion.decontamination import ExcludedRecordFilter
from tf_mural.conversion.hashes import INDEX_BITS, position
from tf_mural.conversion.image_probe import ImageNormalizer, ImageResizer
from tf_mural.conversion.ledger import Ledger
from tf_mural.data import records

_ARRAYS = ("offset", "length", "image_counts", "has_language", "extra_texts")
_VECTORS = "vectors/"  # followed by the name of vectors: the number of rows of each record


@dataclasses.dataclass(frozen=True)
class Task:
    """Arguments that all jobs of a conversion share.

    Attributes:
        module: name of the module of the data set.
        filters: `FilterConfig`.
        paths: `publish.BuildPaths`.
        vectors: {name: description} of the vectors of the records, see
            `records.describe_vectors`.
    """

    module: str
    filters: object
    paths: object
    vectors: dict = dataclasses.field(default_factory=dict)


def scan_unit(task, number, unit):
    """Runs pass 1 of a unit: spills the entries of the corpus filters.

    Args:
        task: `Task`.
        number: number of the unit.
        unit: a unit of the data set.

    Returns:
        The number of records read.
    """
    ledger = Ledger()
    filters = _build_filters(task, ledger)
    spills = {
        name: corpus_filters.SpillWriter(task.paths.spill_stem(number, name))
        for name in task.filters.corpus_filters
    }
    for record in _read_unit(task, unit, ledger, filters):
        record_position = position(number, ledger.read - 1)
        for name, spill in spills.items():
            for key, value in CORPUS_FILTERS[name].keys(record, task.filters):
                spill.add(key, value, record_position)
    for spill in spills.values():
        spill.flush()
    scan = {
        "read": ledger.read,
        "entries": {name: spill.count for name, spill in spills.items()},
        "files": {name: len(spill.files) for name, spill in spills.items()},
    }
    path = task.paths.scan(number)
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        file.write(json.dumps(scan).encode())
    return ledger.read


def resolve_filters(task, name, number, start, end, files):
    """Resolves a corpus filter for one range of keys: writes the drop list.

    Args:
        task: `Task`.
        name: name of the corpus filter.
        number: number of the range of keys [start, end).
        start, end: integers in [0, 2^64].
        files: paths of the spill files of all units.

    Returns:
        The number of entries read.
    """
    entries = corpus_filters.read_range(files, start, end, width=3)
    dropped = np.stack(CORPUS_FILTERS[name].select(*entries.T, task.filters), axis=1)
    corpus_filters.save_sorted(task.paths.drop_list(name, number), dropped)
    return len(entries)


def write_unit(task, number, unit, read=None, ranges=None):
    """Runs pass 2 of a unit: writes the shards, then the result file.

    Args:
        task: `Task`.
        number: number of the unit.
        unit: a unit of the data set.
        read: number of records that pass 1 read, or None if there was no pass 1.
        ranges: {name of a corpus filter: its number of ranges of keys}.

    Returns:
        The number of records read.

    Raises:
        UserError: a record is invalid, or the input differs from that of pass 1.
    """
    ledger, shards = Ledger(), []
    filters = _build_filters(task, ledger) + _load_drop_lists(task, number, ranges or {})
    if task.filters.resize is not None:
        filters.append(ImageResizer(task.filters))
    kept = _read_unit(task, unit, ledger, filters)
    for chunk in _split(kept, task.filters.shard_records):
        shards.append(
            records.write_shard(task.paths.shard(number, len(shards)), chunk, task.vectors)
        )
    ledger.close(sum(shard.records for shard in shards), read)
    save_result(task.paths.result(number), shards, ledger)
    return ledger.read


def _read_unit(task, unit, ledger, filters):
    """Yields the records of a unit that pass all filters, and counts the dropped ones."""
    dataset = importlib.import_module(task.module)
    valid = ledger.filter(dataset.read(unit), task.vectors)
    return _apply(filters, valid, ledger)


def _apply(filters, valid, ledger):
    for record in valid:
        index = ledger.read - 1
        for record_filter in filters:
            record = record_filter(index, record, ledger.skip)
            if record is None:
                break
        else:
            yield record


def _build_filters(task, ledger):
    filters = [ImageNormalizer(task.filters, ledger.change_image)]
    filters += record_filters.build_record_filters(task.filters, task.vectors)
    if task.filters.exclude:
        path, distance = task.paths.excluded_hashes, task.filters.near_distance
        filters.append(ExcludedRecordFilter(path, distance))
    return filters


def _load_drop_lists(task, number, ranges):
    """Returns a `DropList` for a unit from each corpus filter."""
    drop_lists = []
    ends = position(number, 0), position(number + 1, 0)
    for name, count in ranges.items():
        files = [task.paths.drop_list(name, i) for i in range(count)]
        dropped = corpus_filters.read_range(files, *ends, width=2)
        indices = dropped[:, 0] & ((1 << INDEX_BITS) - 1)
        reason = CORPUS_FILTERS[name].reason(task.filters)
        drop_lists.append(corpus_filters.DropList(reason, indices, dropped[:, 1], task.vectors))
    return drop_lists


def _split(kept, size):
    """Yields iterators over at most `size` records each; a single one if `size` is None."""
    if size is None:
        yield kept
        return
    first = next(kept, None)
    if first is None:
        yield iter(())
    while first is not None:
        yield itertools.chain([first], itertools.islice(kept, size - 1))
        first = next(kept, None)


# --- result files ---------------------------------------------------------------------------------


def save_result(path, shards, ledger):
    """Writes the result of a unit: its list of `records.Shard` and its `Ledger`."""
    plain, arrays = [], {}
    for number, shard in enumerate(shards):
        fields = {field.name: getattr(shard, field.name) for field in dataclasses.fields(shard)}
        arrays |= {f"{name}-{number}": fields.pop(name) for name in _ARRAYS}
        counts = fields.pop("vector_counts")
        arrays |= {f"{_VECTORS}{name}-{number}": array for name, array in counts.items()}
        plain.append(fields)
    meta = json.dumps({"shards": plain, "ledger": vars(ledger)})
    with file_io.atomic_write(path, sync=False) as temporary, open(temporary, "wb") as file:
        np.savez(file, meta=np.array(meta), **arrays)


class UnitResult:
    """The result of one unit. The arrays of the shards are read from the file when needed.

    Attributes:
        ledger: `Ledger`.
        files: file names of the shards.
        sizes: size of each shard in bytes.
    """

    def __init__(self, path):
        self._path = path
        with np.load(path) as arrays:
            meta = json.loads(str(arrays["meta"]))
        self.ledger = Ledger()
        self.ledger.merge(Ledger(**meta["ledger"]))
        self._shards = meta["shards"]
        self.files = [shard["file"] for shard in self._shards]
        self.sizes = [shard["bytes"] for shard in self._shards]

    def shards(self):
        """Yields a `records.Shard` for each shard."""
        with np.load(self._path) as arrays:
            for number, fields in enumerate(self._shards):
                columns = {name: arrays[f"{name}-{number}"] for name in _ARRAYS}
                counts = {
                    key.removeprefix(_VECTORS).removesuffix(f"-{number}"): arrays[key]
                    for key in arrays.files
                    if key.startswith(_VECTORS) and key.endswith(f"-{number}")
                }
                yield records.Shard(**fields, **columns, vector_counts=counts)


class ShardSequence:
    """The shards of all units in order, under their final names.

    The arrays of at most one unit are in memory at a time.

    Args:
        results: list of `UnitResult`.
    """

    def __init__(self, results):
        self._results = results
        self._total = sum(len(result.files) for result in results)

    def names(self):
        """Yields (name in the build folder, final name, size in bytes) of each shard."""
        number = 0
        for result in self._results:
            for file, size in zip(result.files, result.sizes, strict=True):
                yield file, records.shard_name(number, self._total), size
                number += 1

    def __iter__(self):
        names = self.names()
        for result in self._results:
            for shard in result.shards():
                yield dataclasses.replace(shard, file=next(names)[1])
