"""Windows of blocks: the draws of one record set that is too large to be shuffled as a whole."""

import collections
import dataclasses
import threading

import numpy as np
import tensorflow as tf

from tf_mural.data import sampling
from tf_mural.errors import UserError

# The bits of a number of a draw from this bit on count its replacements, see
# `BlockSampler.fallback_distance`.
ATTEMPT_BIT = 58
_WINDOWS_IN_MEMORY = 2  # of each set: a batch may begin in a window and end in the next one
_MAX_SEARCHED = 64  # number of windows in which a record that fits the source is looked for


@dataclasses.dataclass(frozen=True)
class _Window:
    """The records of a window.

    Attributes:
        blocks: list of the `Block`, which remain in memory with the window.
        records: int64 (n,), number of each record in the set.
        order: int64 (n,), position in `records` of each slot.
        has: bool (n, L), whether each record has a text in each language of the sampler.
        fits: bool (n,), whether each record fits the source; damaged records are regarded as
            fitting, so that they are drawn and counted as damaged.
        usable: int64, positions of the records that fit and are not damaged.
    """

    blocks: list
    records: np.ndarray
    order: np.ndarray
    has: np.ndarray
    fits: np.ndarray
    usable: np.ndarray


class BlockSet:
    """Draws the records of one set in windows; see `block_sampling.BlockSampler`.

    Attributes:
        key: int64 (2,), seed of the set.
        units: number of draws of an epoch, which is the number of records.
    """

    def __init__(
        self,
        record_set,
        window_blocks,
        text_fields,
        languages,
        min_languages,
        visits_combinations,
        with_image,
        with_vectors,
    ):
        self._set, self._blocks = record_set, record_set.blocks
        self._text_fields, self._languages = text_fields, languages
        self._min_languages, self._visits_combinations = min_languages, visits_combinations
        self._with_image, self._with_vectors = with_image, tuple(with_vectors)
        self.key, self.units = None, len(record_set)
        self._num_windows = -(-len(self._blocks) // window_blocks)
        counts = self._blocks.language_records(len(record_set.languages))
        column = {code: i for i, code in enumerate(record_set.languages)}
        self._language_records = np.array(
            [counts[column[code]] if code in column else 0 for code in languages], np.int64
        )
        self._candidates = self._candidate_blocks([column[c] for c in languages if c in column])
        self._epochs, self._windows = _Cache(2), _Cache(_WINDOWS_IN_MEMORY)
        self._other_windows = _Cache(1)  # for windows without a record that fits

    def _candidate_blocks(self, columns):
        """Returns whether each block may contain a record that fits the source, bool (b,).

        Raises:
            UserError: no block does.
        """
        folder, language_rows = self._set.folder, self._blocks.languages
        is_drawn = np.zeros(len(self._set.languages), bool)
        is_drawn[columns] = True
        drawn = language_rows["block"][is_drawn[language_rows["language"]]]
        possible = np.bincount(drawn, minlength=len(self._blocks)) >= self._min_languages
        codes = ", ".join(self._languages)
        if not possible.any():
            raise UserError(
                f"{folder}: no record has {max(self._min_languages, 1)} of the languages {codes}; "
                f"it has {', '.join(self._set.languages) or 'no texts'}"
            )
        if self._with_image:
            possible &= self._blocks.rows["images"] > 0
            if not possible.any():
                raise UserError(
                    f"{folder}: no record with the languages {codes} has an image; use other "
                    "records, or a source without an image field"
                )
        for name in self._with_vectors:
            if not self._set.vectors[name]["rows"]:
                raise UserError(
                    f"{folder}: no record has a row of the vectors {name!r}; use other records, or "
                    "a source without a field of these vectors"
                )
        return possible

    def resolve(self, count, uniform, draws):
        """Returns record indices (b,) and positions in the languages (b, text_fields).

        Args:
            count: int64 (b,), number of earlier draws of this set.
            uniform: (b, 2), random numbers that choose the combination and the order of a pair.
            draws: int64 (b,), numbers of the draws.
        """
        record = np.empty(len(count), np.int64)
        language = np.empty((len(count), self._text_fields), np.int64)
        choice = sampling.uniform(derived_key(self.key, -1), draws, 1)[:, 0]
        for epoch, number, rows, slot in self._slots(count):
            window = self._window(epoch, number)
            position, source = window.order[slot], window
            replaced = (draws[rows] >> ATTEMPT_BIT > 0) | ~window.fits[position]
            records, has = window.records[position], window.has[position]
            if replaced.any():
                source = self._usable_window(epoch, number)
                taken = source.usable[(choice[rows] * len(source.usable)).astype(np.int64)]
                records = np.where(replaced, source.records[taken], records)
                has = np.where(replaced[:, None], source.has[taken], has)
            combinations = sampling.count_combinations(has.sum(axis=1), self._text_fields)
            combination = (uniform[rows, 0] * combinations).astype(np.int64)
            if self._visits_combinations:
                first = sampling.uniform(derived_key(self.key, -2), records, 1)[:, 0]
                turn = (first * combinations).astype(np.int64) + epoch
                turn %= np.maximum(combinations, 1)
                combination = np.where(replaced, combination, turn)
            record[rows] = records
            language[rows] = sampling.pick_languages(
                has, combination, uniform[rows, 1] < 0.5, self._text_fields
            )
        return record, language

    def replaced_slots(self, count):
        """Returns the number of draws whose slot has a record that does not fit the source."""
        total = 0
        for epoch, number, _, slot in self._slots(count):
            window = self._window(epoch, number)
            total += int((~window.fits[window.order[slot]]).sum())
        return total

    def language_records(self):
        """Returns the number of records with a text in each language, int64 (L,)."""
        return self._language_records

    def expected_languages(self):
        """Returns the expected number of texts of each language in a draw, float64 (L,)."""
        total = max(int(self._language_records.sum()), 1)
        return self._language_records * (self._text_fields / total)

    def records_with(self, language):
        """Returns the records of the first window with a text in a language, int64 (k,)."""
        window = self._window(0, 0)
        return window.records[
            np.intersect1d(window.usable, np.flatnonzero(window.has[:, language]))
        ]

    def _slots(self, count):
        """Yields (epoch, window, rows, slots in the window) of the draws in each window."""
        epochs, position = np.divmod(count, self.units)
        for epoch in np.unique(epochs).tolist():
            rows = np.flatnonzero(epochs == epoch)
            _, _, starts = self._epoch(epoch)
            windows = np.searchsorted(starts, position[rows], side="right") - 1
            for number in np.unique(windows).tolist():
                part = rows[windows == number]
                yield epoch, number, part, position[part] - starts[number]

    def _epoch(self, epoch):
        """Returns the permuted blocks of an epoch, and the bounds of its windows.

        Returns:
            (blocks int32 (b,), position of the first block of each window int64 (w + 1,), number of
            records before each window int64 (w + 1,)).
        """

        def make():
            blocks = permutation(derived_key(self.key, epoch), len(self._blocks))
            bounds = np.arange(self._num_windows + 1) * len(blocks) // self._num_windows
            ends = np.cumsum(self._blocks.rows["records"][blocks], dtype=np.int64)
            return blocks.astype(np.int32), bounds, np.concatenate([[0], ends])[bounds]

        return self._epochs.get(epoch, make)

    def _window(self, epoch, number):
        return self._windows.get((epoch, number), lambda: self._read_window(epoch, number))

    def _usable_window(self, epoch, number):
        """Returns the first window from `number` on with a record that fits the source."""
        window = self._window(epoch, number)
        if len(window.usable):
            return window
        blocks, bounds, _ = self._epoch(epoch)
        may_fit = np.logical_or.reduceat(self._candidates[blocks], bounds[:-1])
        following = (number + 1 + np.arange(self._num_windows)) % self._num_windows
        for other in following[may_fit[following]][:_MAX_SEARCHED].tolist():
            window = self._other_windows.get(
                (epoch, other), lambda other=other: self._read_window(epoch, other)
            )
            if len(window.usable):
                return window
        raise UserError(
            f"{self._set.folder}: no usable record in {_MAX_SEARCHED} windows fits the source, "
            f"which needs {max(self._min_languages, 1)} of the languages "
            f"{', '.join(self._languages) or '(none)'}{' and an image' * self._with_image}: "
            "convert a record set that contains only such records"
        )

    def _read_window(self, epoch, number):
        blocks, bounds, _ = self._epoch(epoch)
        numbers = blocks[bounds[number] : bounds[number + 1]]
        loaded = self._set.load_blocks(numbers)
        first = self._blocks.first_record[numbers]
        records = [n + np.arange(len(b.payloads)) for n, b in zip(first, loaded, strict=True)]
        examined = map(self._examine, numbers.tolist(), loaded)
        has, fits = (np.concatenate(column) for column in zip(*examined, strict=True))
        damaged = [np.isin(np.arange(len(b.payloads)), list(b.damaged)) for b in loaded]
        order = permutation(derived_key(self.key, epoch, number), len(fits))
        usable = np.flatnonzero(fits & ~np.concatenate(damaged))
        return _Window(loaded, np.concatenate(records), order, has, fits, usable)

    def _examine(self, number, block):
        """Returns `has` and `fits` of the records of a block, see `_Window`."""
        names = ["images"] * self._with_image + [f"vectors/{name}" for name in self._with_vectors]
        has = self._indexed_languages(number)
        if names or has is None:
            ragged = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
            with tf.device("CPU"):
                features = dict.fromkeys(["languages", *names], ragged)
                parsed = tf.io.parse_example(block.payloads, features)
            has = self._parsed_languages(parsed["languages"])
        fits = has.sum(axis=1) >= self._min_languages
        for name in names:
            fits &= parsed[name].row_lengths().numpy() > 0
        damaged = list(block.damaged)
        has[damaged], fits[damaged] = True, True
        return has, fits

    def _indexed_languages(self, number):
        """Returns `has` if all records of a block have the same languages; otherwise None."""
        row = self._blocks.rows[number]
        first, count = int(row["first_language"]), int(row["records"])
        language_rows = self._blocks.languages[first : first + int(row["languages"])]
        if not np.array_equal(language_rows["records"], np.full(len(language_rows), count)):
            return None
        codes = {self._set.languages[language] for language in language_rows["language"]}
        return np.tile([code in codes for code in self._languages], (count, 1)).astype(bool)

    def _parsed_languages(self, parsed):
        """Returns `has`; `parsed` is a ragged string (n, None) of the languages of the texts."""
        with tf.device("CPU"):
            codes, known = (
                tf.strings.to_hash_bucket_fast(values, 1 << 62).numpy()
                for values in (parsed.values, tf.constant(self._languages, tf.string))
            )
            row = parsed.value_rowids().numpy()
        has = np.zeros((int(parsed.nrows()), len(known)), bool)
        if len(known):
            ascending = np.argsort(known)
            column = ascending[np.minimum(np.searchsorted(known[ascending], codes), len(known) - 1)]
            matches = known[column] == codes
            has[row[matches], column[matches]] = True
        return has


class _Cache:
    """Keeps the values that were used last; each value is made by one thread."""

    def __init__(self, size):
        self._size, self._lock = size, threading.Lock()
        self._entries = collections.OrderedDict()

    def get(self, key, make):
        """Returns the value of a key, which the callable `make` returns if it is not in memory."""
        with self._lock:
            entry = self._entries.setdefault(key, {"lock": threading.Lock()})
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
        with entry["lock"]:
            if "value" not in entry:
                entry["value"] = make()
            return entry["value"]


def derived_key(key, *parts):
    """Returns a seed, int64 (2,), that is a hash of another seed and of integers."""
    for part in parts:
        numbers = sampling.uniform(key, np.array([part], np.int64), 2)[0]
        key = (numbers * float(1 << 53)).astype(np.int64)
    return key


def permutation(key, count):
    """Returns a permutation of `count` numbers, int64 (count,), which depends on the seed."""
    numbers = np.arange(count, dtype=np.int64)
    bits = int(count).bit_length()
    # Sorting distinct integers is faster than a stable `argsort`, and equal on all machines.
    hashes = (sampling.uniform(key, numbers, 1)[:, 0] * float(1 << (62 - bits))).astype(np.int64)
    return np.sort(hashes << bits | numbers) & ((1 << bits) - 1)
