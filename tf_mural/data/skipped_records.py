"""Counts the records that are skipped during training and enforces a limit."""

import collections
import dataclasses
import os
import threading

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError

CHANGED = "a record was changed while it was read"
UNPARSED = "a record has another format, though its checksum matches"
_MAX_LOCATIONS = 1000  # maximum number of records that are counted individually, not per shard
_MAX_LISTED = 5  # maximum number of records that a message lists
_MIN_UNKNOWN = 8  # minimum number of texts without a known token for a language error


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
        location: shard, number and first byte of the record.
        shard: path of the shard of the record.
        reason: short description of the problem.
        unknown_language: language of a text without a known token; "" for other problems.
    """

    location: str
    shard: str
    reason: str
    unknown_language: str = ""


class SkippedRecords:
    """Counts the records that the input pipeline skips, over all sources of a process.

    Args:
        limit: maximum share of skipped records in the drawn examples. If fewer than 1,000 examples
            were drawn, the number of skipped records is divided by 1,000.
        folders: folders of the records, for messages.
        vocabulary: vocabulary file, for messages.

    Attributes:
        drawn: number of examples drawn from all sources, including those of prefetched batches.
        replaced_slots: number of examples whose slot had a record that did not fit the source, so
            that another record was drawn, see `block_sampling.BlockSampler`.
        skipped: {location of a record, or path of a shard: {reason: number of draws}}.
        error: the error that ended the reading, or None. `tf.data` would report this error
            inside a traceback.
    """

    def __init__(self, limit=0.01, folders=(), vocabulary="the vocabulary"):
        self.limit, self._folders, self._vocabulary = limit, folders, vocabulary
        self._lock = threading.Lock()
        self.drawn, self.replaced_slots, self.skipped, self.error = 0, 0, {}, None
        self._shards = collections.Counter()
        self._language_counts, self._unknown = {}, collections.Counter()

    def count_drawn(self, builder, languages, replaced_slots=0):
        """Counts drawn examples and the languages of their texts.

        Args:
            builder: `ExampleBuilder` of the source.
            languages: (b, text fields), positions in `builder.language_codes`.
            replaced_slots: number of these examples that are counted as `replaced_slots`.
        """
        counts = np.bincount(languages.ravel(), minlength=len(builder.language_codes))
        with self._lock:
            self.drawn += len(languages)
            self.replaced_slots += replaced_slots
            self._language_counts[builder] = self._language_counts.get(builder, 0) + counts

    def skip(self, bad_record):
        """Counts a `BadRecord` as skipped."""
        with self._lock:
            is_full = len(self.skipped) >= _MAX_LOCATIONS
            use_shard = is_full and bad_record.location not in self.skipped
            key = bad_record.shard if use_shard else bad_record.location
            reasons = self.skipped.setdefault(key, {})
            reasons[bad_record.reason] = reasons.get(bad_record.reason, 0) + 1
            self._shards[_short_name(bad_record.shard)] += 1
            if bad_record.unknown_language:
                self._unknown[bad_record.unknown_language] += 1

    def fail(self, error):
        """Stores the first error that ends the reading, and returns it."""
        self.error = self.error or error
        return self.error

    def exhausted(self, attempts, last):
        """Returns the UserError for a row without a usable record after all attempts.

        Args:
            attempts: number of records tried.
            last: `BadRecord` of the last attempt.
        """
        return _unknown_language_error(self._languages(), self._vocabulary) or UserError(
            f"{attempts} records in a row cannot be used, the last one {last.location}: "
            f"{last.reason}; convert the data set again"
        )

    def check(self, all_gather_object=lambda value: [value]):
        """Sums the counts over all processes and enforces the limit.

        Args:
            all_gather_object: callable that takes plain data of this process and returns the list
                of the data of all processes; see `distributed.ProcessGroup`.

        Returns:
            {"skipped_records": total, "skipped_records/SET/SHARD": count} for shards with skipped
            records; and {"replaced_slots": total} if it is not 0.

        Raises:
            UserError: too many records were skipped (the message lists the first of them), or
                reading ended with an error in any process. All processes raise the same error.
        """
        state = {
            "error": (str(self.error), getattr(self.error, "exit_code", 2)) if self.error else None,
            "drawn": self.drawn,
            "replaced": self.replaced_slots,
            "shards": dict(self._shards),
            "languages": self._languages(),
            "first": [f"{location}: {', '.join(why)}" for location, why in self._first()],
            "locations": len(self.skipped),
        }
        states = all_gather_object(state)
        if errors := [state["error"] for state in states if state["error"]]:
            message, exit_code = errors[0]
            error = UserError(message)
            error.exit_code = exit_code
            raise error
        languages = {}
        for state in states:
            for code, counts in state["languages"].items():
                languages[code] = np.add(languages.get(code, 0), counts).tolist()
        if error := _unknown_language_error(languages, self._vocabulary):
            raise error
        shards = sum((collections.Counter(s["shards"]) for s in states), collections.Counter())
        total = sum(shards.values())
        drawn = sum(state["drawn"] for state in states)
        if total > self.limit * max(drawn, 1000):
            first = [entry for state in states for entry in state["first"]][:_MAX_LISTED]
            others = sum(state["locations"] for state in states) - len(first)
            raise UserError(
                f"{total} of the {drawn} records drawn so far cannot be used, above the limit of "
                f"{self.limit:.2%}: {'; '.join(first)}{f' and {others} more' if others else ''}. "
                "Convert the data set again, or raise `config.max_bad_records`"
            )
        by_shard = {f"skipped_records/{shard}": shards[shard] for shard in sorted(shards)}
        replaced = sum(state["replaced"] for state in states)
        slots = {"replaced_slots": replaced} if replaced else {}
        return {"skipped_records": total, **by_shard, **slots}

    def total(self, all_gather_object):
        """Returns `skipped` summed over all processes; see `check` for the argument."""
        total = {}
        for skipped in all_gather_object(self.skipped):
            for location, reasons in skipped.items():
                counts = total.setdefault(location, collections.Counter())
                counts.update(reasons)
        return {location: dict(counts) for location, counts in total.items()}

    def explain(self, error):
        """Returns the error that caused an error of `tf.data`, or the error of `tf.data` itself."""
        # TensorFlow quotes the bytes that it could not parse; if they are not UTF-8, Python raises
        # a UnicodeDecodeError.
        unparsed = isinstance(error, UnicodeDecodeError) or "Could not parse example" in str(error)
        for message, applies in ((UNPARSED, unparsed), (CHANGED, CHANGED in str(error))):
            if applies and self.error is None:
                folders = " or ".join(self._folders)
                return UserError(f"{message}, in {folders}; convert the data set again")
        return self.error or error

    def _first(self):
        with self._lock:
            first = list(self.skipped.items())[:_MAX_LISTED]
            return [(location, list(reasons)) for location, reasons in first]

    def _languages(self):
        """Returns {language: [number of texts without a known token, number of texts drawn]}.

        Languages whose texts all contain a known token are omitted.
        """
        with self._lock:
            drawn = collections.Counter()
            for builder, counts in self._language_counts.items():
                for code, count in zip(builder.language_codes, counts.tolist(), strict=True):
                    drawn[code] += count
            return {code: [count, drawn[code]] for code, count in self._unknown.items()}


def _short_name(shard):
    """Returns the name of a shard in logs: "scenes/train/records-00000-of-00004"."""
    *_, dataset, split, file = file_io.absolute(shard).split(os.sep)
    return "/".join((dataset, split, os.path.splitext(file)[0]))


def _unknown_language_error(languages, vocabulary):
    """Returns the UserError for a language that the vocabulary does not cover, or None."""
    for code, (unknown, drawn) in languages.items():
        if unknown >= _MIN_UNKNOWN and 2 * unknown > drawn:
            return UserError(
                f"{unknown} of the {drawn} texts in {code!r} drawn so far have no token that "
                f"{vocabulary} knows, maybe because the vocabulary lacks the script. Use a "
                "vocabulary that covers the language (`config.vocabulary`; tools/build_vocab.py "
                "trains one), or remove the language from the sources "
                "(`config.sources.NAME.languages`)"
            )
    return None
