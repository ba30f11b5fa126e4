"""Reads a record set and collects its statistics in a plain dict."""

import array
import collections
import itertools

import numpy as np

from tf_mural.data.records import ROLES, deserialize, vectors_problem
from tf_mural.errors import UserError
from tf_mural.reports.statistics import (
    DuplicateCounter,
    ImageStats,
    IntegerCounts,
    TextStats,
    VectorStats,
    histogram,
    quantiles,
)

# Maximum number of records of a batch, and approximate maximum size of a batch in bytes.
_MAX_BATCH, _MAX_BATCH_BYTES = 4096, 32 << 20
_SCORE_BINS = 20


class DatasetStats:
    """Statistics of a record set, collected from all its records or from a sample.

    Args:
        record_set: `data.records.RecordSet`.
        tokenizer: `data.tokenizers.Tokenizer`, or None to count no tokens.

    Attributes:
        num_read: Number of records read so far.
        num_requested: Number of records to read; smaller than the size of the set if a sample is
            read.
        is_random: Whether the records are drawn at random; otherwise they are read in order.
        images: `ImageStats`.
        texts: {language: `TextStats`}.
        duplicate_images, duplicate_texts: `DuplicateCounter`.
        roles: Counter of the roles of the texts, without captions.
        vectors: {name of vectors: `VectorStats`}.
    """

    def __init__(self, record_set, tokenizer=None):
        self.record_set, self.tokenizer = record_set, tokenizer
        self.num_read = self.num_requested = 0
        self.is_random = False
        self.texts = collections.defaultdict(TextStats)
        self.images = ImageStats()
        self.duplicate_images, self.duplicate_texts = DuplicateCounter(), DuplicateCounter()
        self.labels, self.scores = collections.Counter(), array.array("d")
        self.num_labelled, self.roles = 0, collections.Counter()
        self.vectors = {name: VectorStats() for name in record_set.vectors}

    def collect(self, limit=0, seed=0):
        """Reads the records, or a sample without repetition. Yields `num_read` after each batch.

        If the iteration is stopped early, only whole batches are counted. Each batch of a sample is
        spread over the whole set. Therefore the records of an interrupted sample are a random
        sample of the set.

        Args:
            limit: Maximum number of records; 0 for all.
            seed: Seed of the sample.

        Raises:
            UserError: A record is damaged.
        """
        total = len(self.record_set)
        self.num_requested = min(total, limit or total)
        size = batch_size(self.record_set)
        self.is_random = self.num_requested < total
        if not self.is_random:
            batches = (np.arange(i, min(i + size, total)) for i in range(0, total, size))
        else:
            sample = np.random.default_rng(seed).choice(total, self.num_requested, replace=False)
            sample.sort()
            num_batches = -(-self.num_requested // size)
            batches = (sample[batch::num_batches] for batch in range(num_batches))
        for batch in batches:
            self.add(batch)
            yield self.num_read

    def add(self, indices):
        """Reads and counts the records with the given indices."""
        texts = collections.defaultdict(list)
        serialized = self.record_set.read(indices, verify=True)
        for index, data in zip(indices.tolist(), serialized, strict=True):
            record = self._deserialize(index, data)
            for image in record.images:
                self.images.add(image)
                self.duplicate_images.add(index, image)
            for language, text in record.texts:
                texts[language].append(text)
                self.duplicate_texts.add(index, language.encode(), b"\0", text.encode())
            labels = {*record.labels, *(() if record.label is None else (record.label,))}
            self.labels.update(labels)
            self.num_labelled += bool(labels)
            self.roles.update(record.roles)
            for name, rows in record.vectors.items():
                self.vectors[name].add(rows)
            if record.score is not None:
                self.scores.append(record.score)
        for language, language_texts in texts.items():
            self.texts[language].add(language_texts)
        if self.tokenizer and texts:
            self._add_tokens(texts)
        self.num_read += len(indices)

    def _deserialize(self, index, data):
        problem = None
        try:
            record = deserialize(data)
            problem = vectors_problem(record, self.record_set.vectors)
        except ValueError as error:
            problem = str(error)
        if problem:
            location = self.record_set.location(index)
            raise UserError(f"{location} is damaged: {problem}; convert the data set again")
        return record

    def _add_tokens(self, texts):
        """Tokenizes all texts of a batch at once; texts: {language: list of str}."""
        pieces = self.tokenizer.pieces([text for group in texts.values() for text in group])
        lengths = pieces.row_lengths().numpy()
        ends = np.cumsum(lengths)
        is_unknown = pieces.flat_values.numpy() == self.tokenizer.vocabulary.index("[UNK]")
        # num_unknown[i] is the number of unknown pieces among the first i pieces.
        num_unknown = np.concatenate([[0], np.cumsum(is_unknown)])
        first = 0
        for language, language_texts in texts.items():
            rows = slice(first, first + len(language_texts))
            end = ends[rows.stop - 1]
            start = ends[first - 1] if first else 0
            max_pieces = self.tokenizer.max_tokens - 2  # [CLS] and [SEP] are not counted
            unknown = num_unknown[end] - num_unknown[start]
            self.texts[language].add_tokens(lengths[rows], unknown, max_pieces)
            first = rows.stop

    def summary(self):
        """Returns all statistics as a plain dict; a value is None if the set has no such data."""
        manifest = self.record_set.manifest
        totals = language_counts(self.record_set)
        languages = {
            code: totals[code] | self.texts.get(code, TextStats()).summary()
            for code in sorted(totals, key=lambda code: (-totals[code]["texts"], code))
        }
        all_texts = sum(self.texts.values(), TextStats())
        return {
            "folder": self.record_set.folder,
            "dataset": manifest["dataset"],
            "split": manifest["split"],
            "digest": self.record_set.digest,
            "records": len(self.record_set),
            "images": manifest["images"],
            "texts": manifest["texts"],
            "sampled_records": self.num_read,
            "sample": self._sample_kind(),
            "images_per_record": IntegerCounts(self.record_set.image_counts.tolist()).summary(),
            "languages": languages,
            "all_languages": all_texts.summary() if all_texts.characters.counts else None,
            "image_sizes": self.images.summary(),
            "labels": self._label_summary(manifest.get("classes")),
            "scores": self._score_summary(),
            "roles": {n: self.roles[i] for n, i in ROLES.items() if self.roles[i]} or None,
            "vectors": {
                name: description | self.vectors[name].summary()
                for name, description in self.record_set.vectors.items()
            }
            or None,
            "same_images": self.duplicate_images.summary(),
            "same_texts": self.duplicate_texts.summary(),
            "tokenizer": self.tokenizer
            and {name: getattr(self.tokenizer, name) for name in ("hash", "size", "max_tokens")},
        }

    def _sample_kind(self):
        if self.num_read == len(self.record_set):
            return "all"
        # If reading in order was interrupted, only the first records were read.
        return "random" if self.is_random else "first"

    def _label_summary(self, names):
        if not self.labels:
            return None
        # A class of the manifest without records has the count 0.
        counts = dict.fromkeys(range(len(names or ())), 0) | self.labels
        return {
            "records": self.num_labelled,
            "classes": len(counts),
            "per_class": quantiles(np.array(list(counts.values()))),
            "counts": {str(label): counts[label] for label in sorted(counts)},
            "names": list(names or ()),
        }

    def _score_summary(self):
        if not self.scores:
            return None
        scores = np.array(self.scores)
        return quantiles(scores) | histogram(scores, _SCORE_BINS)


def language_counts(record_set):
    """Returns {language: {"records", "images", "texts": number}} of a record set.

    The numbers are read from the index of the set; the records themselves are not read. "images" is
    the number of images of the records that have a text in the language.
    """
    counts = {}
    for column, (code, num_texts) in enumerate(record_set.language_counts.items()):
        has_language = record_set.has_language[:, column]
        num_images = int(record_set.image_counts[has_language].sum())
        num_records = int(has_language.sum())
        counts[code] = {"records": num_records, "images": num_images, "texts": num_texts}
    return counts


def batch_size(record_set):
    """Returns the number of records to read at once; the number is smaller for large records."""
    total = sum(shard["bytes"] for shard in record_set.manifest["shards"])
    return int(np.clip(_MAX_BATCH_BYTES * len(record_set) // max(1, total), 1, _MAX_BATCH))


def shared_records(all_stats):
    """Counts, for each pair of record sets, the records that share an image or text with the other.

    Only the records that were read are counted.

    Args:
        all_stats: List of `DatasetStats`.

    Returns:
        List of dicts, two per pair of sets with common images or texts:
            "records_of": folder of the first set;
            "in": folder of the second set;
            "images": number of records of the first set with an image that is in the second set;
            "texts": number of records of the first set with a text that is in the second set.
    """
    rows = []
    for stats, other in itertools.permutations(all_stats, 2):
        images = stats.duplicate_images.records_in(other.duplicate_images)
        texts = stats.duplicate_texts.records_in(other.duplicate_texts)
        if images or texts:
            folders = {"records_of": stats.record_set.folder, "in": other.record_set.folder}
            rows.append(folders | {"images": images, "texts": texts})
    return rows
