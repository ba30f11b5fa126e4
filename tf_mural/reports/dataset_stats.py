"""Walks through a record set and gathers its statistics into one plain dict."""

import array
import collections
import itertools

import numpy as np

from tf_mural.data.records import deserialize
from tf_mural.errors import UserError
from tf_mural.reports.statistics import Images, Repeats, Spread, Texts, histogram, quantiles

_BATCH, _BATCH_BYTES = 4096, 32 << 20  # records at once, and about how many bytes at most
_BINS = 20  # of a histogram of scores


class Statistics:
    """What is known of a set after some of its records.

    Args:
        record_set: `records.RecordSet`.
        tokenizer: `text.Tokenizer`, or None to count no tokens.

    Attributes:
        read: how many records have been counted.
        wanted: how many of the set are to be; less than all for a sample.
        at_random: whether they are drawn; otherwise they come in order.
        same_images, same_texts: `Repeats`.
    """

    def __init__(self, record_set, tokenizer=None):
        self.set, self.tokenizer = record_set, tokenizer
        self.read = self.wanted = 0
        self.at_random = False
        self.texts = collections.defaultdict(Texts)
        self.images = Images()
        self.same_images, self.same_texts = Repeats(), Repeats()
        self.labels, self.scores = collections.Counter(), array.array("d")

    def run(self, limit=0, seed=0):
        """Counts the records, or a sample of them without repeats. Yields after each batch.

        A walk that is left early has counted whole batches. Those of a sample are spread over the
        set, so that part of it is a sample too.

        Args:
            limit: records at most; 0 for all.
            seed: of the sample.

        Raises:
            UserError: a record is damaged.
        """
        total = len(self.set)
        self.wanted = min(total, limit or total)
        size = batch_size(self.set)
        self.at_random = self.wanted < total
        if not self.at_random:
            batches = (np.arange(i, min(i + size, total)) for i in range(0, total, size))
        else:
            chosen = np.random.default_rng(seed).choice(total, self.wanted, replace=False)
            chosen.sort()
            parts = -(-self.wanted // size)
            batches = (chosen[part::parts] for part in range(parts))
        for batch in batches:
            self.add(batch)
            yield self.read

    def add(self, indices):
        """Counts the records at these positions."""
        texts = collections.defaultdict(list)
        rows = self.set.read(indices, verify=True)
        for index, data in zip(indices.tolist(), rows, strict=True):
            try:
                record = deserialize(data)
            except ValueError as error:
                where = self.set.place(index)
                raise UserError(
                    f"{where} is damaged: {error}; convert the data set again"
                ) from error
            for image in record.images:
                self.images.add(image)
                self.same_images.add(index, image)
            for language, text in record.texts:
                texts[language].append(text)
                self.same_texts.add(index, language.encode(), b"\0", text.encode())
            if record.label is not None:
                self.labels[record.label] += 1
            if record.score is not None:
                self.scores.append(record.score)
        for language, found in texts.items():
            self.texts[language].add(found)
        if self.tokenizer and texts:
            self._add_tokens(texts)
        self.read += len(indices)

    def _add_tokens(self, texts):
        """Cuts all texts of a batch in one go."""
        pieces = self.tokenizer.pieces([text for found in texts.values() for text in found])
        lengths = pieces.row_lengths().numpy()
        ends = np.cumsum(lengths)
        unknown = pieces.flat_values.numpy() == self.tokenizer.vocabulary.index("[UNK]")
        before = np.concatenate([[0], np.cumsum(unknown)])  # [UNK]s among the first i pieces
        first = 0
        for language, found in texts.items():
            rows = slice(first, first + len(found))
            last = ends[rows.stop - 1]
            start = ends[first - 1] if first else 0
            room = self.tokenizer.max_tokens - 2  # [CLS] and [SEP] take two
            self.texts[language].add_tokens(lengths[rows], before[last] - before[start], room)
            first = rows.stop

    def summary(self):
        """All of it as a plain dict; what the set does not have is None."""
        manifest = self.set.manifest
        totals = language_counts(self.set)
        languages = {
            code: totals[code] | self.texts.get(code, Texts()).summary()
            for code in sorted(totals, key=lambda code: (-totals[code]["texts"], code))
        }
        everything = sum(self.texts.values(), Texts())
        return {
            "folder": self.set.folder,
            "dataset": manifest["dataset"],
            "split": manifest["split"],
            "digest": self.set.digest,
            "records": len(self.set),
            "images": manifest["images"],
            "texts": manifest["texts"],
            "sampled_records": self.read,
            "sample": self._sample(),
            "images_per_record": Spread(self.set.image_counts.tolist()).summary(),
            "languages": languages,
            "all_languages": everything.summary() if everything.characters.counts else None,
            "image_sizes": self.images.summary(),
            "labels": self._labels(manifest.get("classes")),
            "scores": self._scores(),
            "same_images": self.same_images.summary(),
            "same_texts": self.same_texts.summary(),
            "tokenizer": self.tokenizer
            and {name: getattr(self.tokenizer, name) for name in ("hash", "size", "max_tokens")},
        }

    def _sample(self):
        if self.read == len(self.set):
            return "all"
        return "random" if self.at_random else "first"  # a walk in order that was left early

    def _labels(self, names):
        if not self.labels:
            return None
        # A class of the manifest that no record has counts too, with none.
        counts = dict.fromkeys(range(len(names or ())), 0) | self.labels
        return {
            "records": self.labels.total(),
            "classes": len(counts),
            "per_class": quantiles(np.array(list(counts.values()))),
            "counts": {str(label): counts[label] for label in sorted(counts)},
            "names": list(names or ()),
        }

    def _scores(self):
        if not self.scores:
            return None
        scores = np.array(self.scores)
        return quantiles(scores) | histogram(scores, _BINS)


def language_counts(record_set):
    """{code: {"records", "images", "texts"}} of a whole set, from its index: nothing is read.

    Images are those of the records that have a text in the language.
    """
    counts = {}
    for column, (code, texts) in enumerate(record_set.language_counts.items()):
        has = record_set.has_language[:, column]
        images = int(record_set.image_counts[has].sum())
        counts[code] = {"records": int(has.sum()), "images": images, "texts": texts}
    return counts


def batch_size(record_set):
    """How many records to hold at once: few of those with large images."""
    total = sum(shard["bytes"] for shard in record_set.manifest["shards"])
    return int(np.clip(_BATCH_BYTES * len(record_set) // max(1, total), 1, _BATCH))


def shared(statistics):
    """What sets have in common, of the records that were read.

    Args:
        statistics: `Statistics` of several sets.

    Returns:
        Dicts, two a pair of sets that share anything: "records_of", "in" (folders), "images" and
        "texts" (how many records of the first hold one that is in the second too).
    """
    rows = []
    for one, other in itertools.permutations(statistics, 2):
        images = one.same_images.records_in(other.same_images)
        texts = one.same_texts.records_in(other.same_texts)
        if images or texts:
            folders = {"records_of": one.set.folder, "in": other.set.folder}
            rows.append(folders | {"images": images, "texts": texts})
    return rows
