"""What reading for training met: records that were skipped, and when it is too much."""

import collections
import dataclasses
import os
import threading

import numpy as np

from tf_mural.errors import UserError

CHANGED = "a record was changed while it was read"
UNPARSED = "a record is not of this package, though its checksum fits"
_PLACES = 1000  # records that are counted one by one; further ones by their shard
_NAMED = 5  # records that a message names
_SILENT = 8  # texts of a language without a known token, before it is called unknown


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A record that makes no row.

    Attributes:
        place: its shard, number and first byte.
        shard: path of its shard.
        reason: a few words.
        unknown: language of its text, where no token of that is known.
    """

    place: str
    shard: str
    reason: str
    unknown: str = ""


class Health:
    """Counts what reading for training skips. One object serves all sources of a process.

    Args:
        limit: share of the examples drawn that may be skipped; of a thousand if fewer were drawn.
        folders: of the records, for messages.
        vocabulary: its file, for messages.

    Attributes:
        drawn: examples from all sources so far, those of batches to come as well.
        skipped: {place of a record: {reason: how often it was drawn}}.
        error: the UserError that ended the reading, which `tf.data` would bury in a traceback.
    """

    def __init__(self, limit=0.01, folders=(), vocabulary="the vocabulary"):
        self.limit, self._folders, self._vocabulary = limit, folders, vocabulary
        self._lock = threading.Lock()
        self.drawn, self.skipped, self.error = 0, {}, None
        self._shards = collections.Counter()
        self._texts, self._unknown = {}, collections.Counter()

    def drew(self, rows, language):
        """Counts examples, and the languages (b, n) of their texts: positions in `rows.codes`."""
        counts = np.bincount(language.ravel(), minlength=len(rows.codes))
        with self._lock:
            self.drawn += len(language)
            self._texts[rows] = self._texts.get(rows, 0) + counts

    def skip(self, unusable):
        """Counts an `Unusable`."""
        with self._lock:
            full = len(self.skipped) >= _PLACES and unusable.place not in self.skipped
            place = unusable.shard if full else unusable.place
            reasons = self.skipped.setdefault(place, {})
            reasons[unusable.reason] = reasons.get(unusable.reason, 0) + 1
            self._shards[_short(unusable.shard)] += 1
            if unusable.unknown:
                self._unknown[unusable.unknown] += 1

    def end(self, error):
        """Keeps the first error that ends the reading, and returns that."""
        self.error = self.error or error
        return self.error

    def hopeless(self, attempts, last):
        """The UserError of a row that nothing fills."""
        return _unknown_language(self._languages(), self._vocabulary) or UserError(
            f"{attempts} records in a row cannot be used, the last one {last.place}: "
            f"{last.reason}; convert the data set again"
        )

    def check(self, exchange=lambda value: [value]):
        """What was skipped so far, over all processes.

        Args:
            exchange: function of plain data to that of all processes.

        Returns:
            {"skipped_records": n, "skipped_records/SET/SHARD": n of each shard that has some}.

        Raises:
            UserError: too many were skipped; names the records. Or what ended the reading. All
                processes raise it.
        """
        told = {
            "error": str(self.error) if self.error else None,
            "drawn": self.drawn,
            "shards": dict(self._shards),
            "languages": self._languages(),
            "first": [f"{place}: {', '.join(why)}" for place, why in self._first()],
            "places": len(self.skipped),
        }
        everywhere = exchange(told)
        if errors := [one["error"] for one in everywhere if one["error"]]:
            raise UserError(errors[0])
        languages = {}
        for one in everywhere:
            for code, counts in one["languages"].items():
                languages[code] = np.add(languages.get(code, 0), counts).tolist()
        if error := _unknown_language(languages, self._vocabulary):
            raise error
        shards = sum((collections.Counter(one["shards"]) for one in everywhere), start=_none())
        total = sum(shards.values())
        drawn = sum(one["drawn"] for one in everywhere)
        if total > self.limit * max(drawn, 1000):
            first = [place for one in everywhere for place in one["first"]][:_NAMED]
            others = sum(one["places"] for one in everywhere) - len(first)
            raise UserError(
                f"{total} of the {drawn} records drawn so far cannot be used, above the limit of "
                f"{self.limit:.2%}: {'; '.join(first)}{f' and {others} more' if others else ''}. "
                "Convert the data set again, or raise --config.max_bad_records"
            )
        by_shard = {f"skipped_records/{shard}": shards[shard] for shard in sorted(shards)}
        return {"skipped_records": total, **by_shard}

    def total(self, exchange):
        """`skipped` over all processes; `exchange` as in `check`."""
        total = {}
        for skipped in exchange(self.skipped):
            for place, reasons in skipped.items():
                counts = total.setdefault(place, collections.Counter())
                counts.update(reasons)
        return {place: dict(counts) for place, counts in total.items()}

    def explain(self, error):
        """The UserError that an error of `tf.data` stems from, or the error itself."""
        # TensorFlow quotes the bytes that it could not parse, which are no text either.
        damaged = isinstance(error, UnicodeDecodeError) or "Could not parse example" in str(error)
        for symptom, is_it in ((UNPARSED, damaged), (CHANGED, CHANGED in str(error))):
            if is_it and self.error is None:
                folders = " or ".join(self._folders)
                return UserError(f"{symptom}, in {folders}; convert the data set again")
        return self.error or error

    def _first(self):
        with self._lock:
            return [(place, list(why)) for place, why in list(self.skipped.items())[:_NAMED]]

    def _languages(self):
        """{language: [texts without a known token, texts drawn]}, of those that have some."""
        with self._lock:
            drawn = collections.Counter()
            for rows, counts in self._texts.items():
                for code, count in zip(rows.codes, counts.tolist(), strict=True):
                    drawn[code] += count
            return {code: [count, drawn[code]] for code, count in self._unknown.items()}


def _none():
    return collections.Counter()


def _short(shard):
    """A shard's name in logs: "scenes/train/records-00000-of-00004"."""
    *_, dataset, split, file = os.path.abspath(shard).split(os.sep)
    return "/".join((dataset, split, os.path.splitext(file)[0]))


def _unknown_language(languages, vocabulary):
    """The UserError of a language whose texts the vocabulary does not know, or None."""
    for code, (unknown, drawn) in languages.items():
        if unknown >= _SILENT and 2 * unknown > drawn:
            return UserError(
                f"{unknown} of the {drawn} texts in {code!r} drawn so far have no token that "
                f"{vocabulary} knows: is its script missing there? Take a vocabulary of that "
                "language too (--config.vocabulary; tools/build_vocab.py trains one), or leave it "
                "out of the languages of the sources (--config.sources.NAME.languages)"
            )
    return None
