"""Counters for record sets: lengths, tokens, image sizes, labels, scores, duplicates.

For integers, the number of occurrences of each value is stored. The quantiles of integers are
therefore exact, and the memory of the counts depends only on the number of unique values. The other
statistics need 16 bytes of memory per text and 28 bytes per image, and about three times as much
memory while duplicates are counted.
"""

import array
import collections
import hashlib
import io
import re
import warnings

import numpy as np

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}

# Letters of scripts that have no spaces between words: Han, kana, Thai, Lao, Tibetan, Burmese,
# Khmer, Tai and Yi.
_UNSPACED_LETTERS = re.compile(
    "[\u0e01-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uaa60-\uaa7f\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)


class IntegerCounts:
    """Counts how often each integer occurs."""

    def __init__(self, values=()):
        self.counts = collections.Counter(values)

    def add(self, values):
        """Counts the integers of an iterable."""
        self.counts.update(values)

    def __add__(self, other):
        return IntegerCounts(self.counts + other.counts)

    def __len__(self):
        return self.counts.total()

    def sum(self):
        """Returns the sum of all values."""
        return sum(value * count for value, count in self.counts.items())

    def summary(self):
        """Returns min, mean, max and `QUANTILES` as a dict; None if there are no values.

        The quantile q is the smallest value x for which at least the share q of all values is at
        most x.
        """
        if not self.counts:
            return None
        values = np.array(sorted(self.counts))
        ends = np.cumsum([self.counts[value] for value in values.tolist()])
        # Rounding ensures that a rounding error of the product does not select the next value.
        ranks = [np.ceil(round(share * ends[-1], 6)) for share in QUANTILES.values()]
        quantile_values = values[np.searchsorted(ends, ranks)].tolist()
        mean = round(self.sum() / len(self), 2)
        extremes = {"min": values[0].item(), "mean": mean, "max": values[-1].item()}
        return extremes | dict(zip(QUANTILES, quantile_values, strict=True))


class TextStats:
    """Statistics of the texts of one language."""

    def __init__(self):
        self.characters, self.words = IntegerCounts(), IntegerCounts()
        self.tokens = IntegerCounts()
        self.letters = self.unspaced_letters = self.unknown_tokens = self.truncated_texts = 0

    def add(self, texts):
        """Counts the characters and the whitespace-separated words of texts."""
        words = [text.split() for text in texts]
        letters = "".join(map("".join, words))
        self.characters.add(map(len, texts))
        self.words.add(map(len, words))
        self.letters += len(letters)
        if not letters.isascii():
            self.unspaced_letters += len(letters) - len(_UNSPACED_LETTERS.sub("", letters))

    def add_tokens(self, lengths, num_unknown, max_tokens):
        """Counts the tokens of texts.

        Args:
            lengths: (n,) number of tokens of each text.
            num_unknown: Number of [UNK] tokens in all texts together.
            max_tokens: Maximum number of tokens of a text; longer texts are truncated.
        """
        self.tokens.add(lengths.tolist())
        self.unknown_tokens += int(num_unknown)
        self.truncated_texts += int((lengths > max_tokens).sum())

    def __add__(self, other):
        total = TextStats()
        for name, value in vars(self).items():
            setattr(total, name, value + getattr(other, name))
        return total

    def summary(self):
        """Returns a plain dict; "words" is None if the script has no spaces between words."""
        has_spaces = 2 * self.unspaced_letters < self.letters
        values = {
            "sampled_texts": len(self.characters),
            "characters": self.characters.summary(),
            "words": self.words.summary() if has_spaces else None,
        }
        if not self.tokens.counts:
            return values
        total = self.tokens.sum()
        return values | {
            "tokens": self.tokens.summary(),
            "tokens_per_word": round(total / max(1, self.words.sum()), 6) if has_spaces else None,
            "tokens_per_character": round(total / max(1, self.letters), 6),
            "unknown_percent": round(100 * self.unknown_tokens / max(1, total), 6),
            "cut_percent": round(100 * self.truncated_texts / len(self.tokens), 6),
        }


class ImageStats:
    """Statistics from the headers of image files (JPEG, PNG); pixels are not decoded."""

    def __init__(self):
        self.widths, self.heights, self.bytes = (array.array("I") for _ in range(3))
        self.formats, self.unreadable = collections.Counter(), collections.Counter()

    def add(self, data):
        """Reads the header of an image; unreadable headers are counted by the type of the error."""
        from PIL import Image

        try:
            with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                image_format = f"{image.format} {image.mode}"
        # Damaged headers raise errors of many types, such as SyntaxError and struct.error.
        except Exception as error:
            self.unreadable[type(error).__name__] += 1
            return
        self.formats[image_format] += 1
        self.widths.append(width)
        self.heights.append(height)
        self.bytes.append(len(data))

    def summary(self):
        """Returns a plain dict; "aspect" is width / height. Returns None if there are no images."""
        if not self.formats and not self.unreadable:
            return None
        width, height, size = (
            np.array(a, np.int64) for a in (self.widths, self.heights, self.bytes)
        )
        values = {"width": width, "height": height, "aspect": width / height, "bytes": size}
        return {
            "sampled_images": len(width) + self.unreadable.total(),
            "formats": dict(self.formats.most_common()),
            "unreadable": dict(self.unreadable.most_common()),
            **{name: quantiles(column) for name, column in values.items()},
            "histograms": {
                name: histogram(column, coverage=0.99) for name, column in values.items()
            },
        }


class VectorStats:
    """Number and lengths (L2 norms) of the rows of vectors, without the rows themselves."""

    def __init__(self):
        self._count, self._sum, self._min, self._max = 0, 0.0, np.inf, 0.0

    def add(self, rows):
        """Counts an array of rows (k, width)."""
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        self._count += len(lengths)
        self._sum += lengths.sum()
        self._min, self._max = min(self._min, lengths.min()), max(self._max, lengths.max())

    def summary(self):
        """Returns {"sampled_rows": number, "lengths": {"min", "mean", "max"} or None}."""
        if not self._count:
            return {"sampled_rows": 0, "lengths": None}
        lengths = {"min": self._min, "mean": self._sum / self._count, "max": self._max}
        lengths = {name: float(value) for name, value in lengths.items()}
        return {"sampled_rows": self._count, "lengths": lengths}


class DuplicateCounter:
    """Counts records with equal content, by 64-bit hashes of the content."""

    def __init__(self):
        self._hashes, self._records = array.array("Q"), array.array("Q")

    def add(self, record, *parts):
        """Adds content of the record with the number `record`; `parts` are bytes of the content."""
        digest = hashlib.blake2b(digest_size=8)
        for part in parts:
            digest.update(part)
        self._hashes.frombytes(digest.digest())
        self._records.append(record)

    def summary(self):
        """Returns the numbers of distinct contents and of records that share content."""
        if not self._hashes:
            return {"distinct": 0, "sharing_records": 0}
        hashes, records = (np.frombuffer(a, np.uint64) for a in (self._hashes, self._records))
        order = np.argsort(hashes, kind="stable")
        hashes, records = hashes[order], records[order]
        first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
        # Content that occurs twice in one record, but in no other record, is not shared.
        is_shared = np.minimum.reduceat(records, first) != np.maximum.reduceat(records, first)
        in_shared = np.repeat(is_shared, np.diff([*first, len(hashes)]))
        return {"distinct": len(first), "sharing_records": len(np.unique(records[in_shared]))}

    def records_in(self, other):
        """Returns how many records have content that is also in another `DuplicateCounter`."""
        is_common = np.isin(np.array(self._hashes), np.array(other._hashes))
        return len(np.unique(np.array(self._records)[is_common]))


def quantiles(values):
    """Returns min, mean, max and `QUANTILES` of numbers (n,) as a dict; None if n is 0."""
    if not len(values):
        return None
    quantile_values = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    extremes = {"min": values.min(), "mean": values.mean(), "max": values.max()}
    named = extremes | dict(zip(QUANTILES, quantile_values, strict=True))
    return {name: round(float(value), 4) for name, value in named.items()}


def histogram(values, bins=40, coverage=1.0):
    """Counts numbers (n,) in bins of equal width; returns None if n is 0.

    Integers have one bin per value if at most `bins` bins are needed. If all values are equal,
    there is one bin around the value.

    Args:
        values: The numbers.
        bins: Maximum number of bins.
        coverage: Minimum share of the values to show. If the smallest values that make up the share
            `coverage` would fill less than half of the bins, all larger values are left out.

    Returns:
        Dict with the "counts" and "edges" of the bins, and "beyond", the number of values above the
        last edge.
    """
    if not len(values):
        return None
    values = np.asarray(values)
    low, high = values.min(), values.max()
    covered = np.quantile(values, coverage, method="inverted_cdf")
    if covered - low < (high - low) / 2:
        high = covered
    if np.issubdtype(values.dtype, np.integer) and high - low < bins:
        edges = np.arange(low - 0.5, high + 1)
    elif high > low:
        edges = np.linspace(low, high, bins + 1)
    else:
        edges = np.array([low - 0.05, low + 0.05])
    counts, _ = np.histogram(values, bins=edges)
    edges = [round(edge, 6) for edge in edges.tolist()]
    return {"counts": counts.tolist(), "edges": edges, "beyond": int((values > high).sum())}
