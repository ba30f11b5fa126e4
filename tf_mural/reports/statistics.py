"""What records hold, counted: lengths, tokens, sizes of images, labels, scores, repeats.

Whole numbers are counted by value, so that quantiles are exact and a spread takes no more room for
ten million texts than for a thousand. What grows is small: 16 bytes a text and 28 an image, and
about three times that while repeats are looked for.
"""

import array
import collections
import hashlib
import io
import re
import warnings

import numpy as np

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}

# Han, kana, Thai, Lao, Tibetan, Burmese, Khmer, Tai and Yi: written without spaces between words.
_UNSPACED = re.compile(
    "[\u0e01-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uaa60-\uaa7f\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)


class Spread:
    """Whole numbers, counted by value."""

    def __init__(self, values=()):
        self.counts = collections.Counter(values)

    def add(self, values):
        """Counts more whole numbers, an iterable."""
        self.counts.update(values)

    def __add__(self, other):
        return Spread(self.counts + other.counts)

    def __len__(self):
        return self.counts.total()

    def sum(self):
        """Of all values."""
        return sum(value * count for value, count in self.counts.items())

    def summary(self):
        """min, mean, max and `QUANTILES` as a dict; None without values.

        A quantile is the smallest value that at least this share of the values does not exceed.
        """
        if not self.counts:
            return None
        values = np.array(sorted(self.counts))
        ends = np.cumsum([self.counts[value] for value in values.tolist()])
        # Rounded: 0.05 * 100 is a little more than 5 in floats, and would reach for the 6th value.
        ranks = [np.ceil(round(share * ends[-1], 6)) for share in QUANTILES.values()]
        found = values[np.searchsorted(ends, ranks)].tolist()
        mean = round(self.sum() / len(self), 2)
        outer = {"min": values[0].item(), "mean": mean, "max": values[-1].item()}
        return outer | dict(zip(QUANTILES, found, strict=True))


class Texts:
    """What is known of the texts of one language."""

    def __init__(self):
        self.characters, self.words, self.tokens = Spread(), Spread(), Spread()
        self.letters = self.unspaced = self.unknown = self.cut = 0

    def add(self, texts):
        """Counts texts: characters, and words, which are what stands between spaces."""
        parts = [text.split() for text in texts]
        joined = "".join(map("".join, parts))
        self.characters.add(map(len, texts))
        self.words.add(map(len, parts))
        self.letters += len(joined)
        if not joined.isascii():
            self.unspaced += len(joined) - len(_UNSPACED.sub("", joined))

    def add_tokens(self, lengths, unknown, room):
        """Counts the pieces of texts.

        Args:
            lengths: (n,) pieces of each text.
            unknown: how many of them are [UNK].
            room: pieces that fit; a text of more is cut.
        """
        self.tokens.add(lengths.tolist())
        self.unknown += int(unknown)
        self.cut += int((lengths > room).sum())

    def __add__(self, other):
        both = Texts()
        for name, value in vars(self).items():
            setattr(both, name, value + getattr(other, name))
        return both

    def summary(self):
        """A plain dict; words are None where the script has no spaces between them."""
        spaced = 2 * self.unspaced < self.letters
        values = {
            "sampled_texts": len(self.characters),
            "characters": self.characters.summary(),
            "words": self.words.summary() if spaced else None,
        }
        if not self.tokens.counts:
            return values
        pieces = self.tokens.sum()
        return values | {
            "tokens": self.tokens.summary(),
            "tokens_per_word": round(pieces / max(1, self.words.sum()), 6) if spaced else None,
            "tokens_per_character": round(pieces / max(1, self.letters), 6),
            "unknown_percent": round(100 * self.unknown / max(1, pieces), 6),
            "cut_percent": round(100 * self.cut / len(self.tokens), 6),
        }


class Images:
    """What the headers of encoded images say; pixels are not decoded."""

    def __init__(self):
        self.widths, self.heights, self.bytes = (array.array("I") for _ in range(3))
        self.formats, self.unreadable = collections.Counter(), collections.Counter()

    def add(self, data):
        """Reads one header. What Pillow does not open is counted under the kind of its error."""
        from PIL import Image

        try:
            with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                kind = f"{image.format} {image.mode}"
        # Broken headers raise many kinds: SyntaxError, struct.error, ValueError, ...
        except Exception as error:
            self.unreadable[type(error).__name__] += 1
            return
        self.formats[kind] += 1
        self.widths.append(width)
        self.heights.append(height)
        self.bytes.append(len(data))

    def summary(self):
        """A plain dict; aspect is width / height. None without images."""
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
            "histograms": {name: histogram(column, most=0.99) for name, column in values.items()},
        }


class Repeats:
    """Which records have something in common, by 64-bit hashes of it."""

    def __init__(self):
        self._keys, self._owners = array.array("Q"), array.array("Q")

    def add(self, owner, *parts):
        """Notes that the record of number `owner` holds what these bytes say."""
        digest = hashlib.blake2b(digest_size=8)
        for part in parts:
            digest.update(part)
        self._keys.frombytes(digest.digest())
        self._owners.append(owner)

    def summary(self):
        """How many different things there are, and how many records share one with another."""
        if not self._keys:
            return {"distinct": 0, "sharing_records": 0}
        keys, owners = (np.frombuffer(a, np.uint64) for a in (self._keys, self._owners))
        order = np.argsort(keys, kind="stable")
        keys, owners = keys[order], owners[order]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        # A record that holds a thing twice shares it with nobody.
        shared = np.minimum.reduceat(owners, first) != np.maximum.reduceat(owners, first)
        of_shared = np.repeat(shared, np.diff([*first, len(keys)]))
        return {"distinct": len(first), "sharing_records": len(np.unique(owners[of_shared]))}

    def records_in(self, other):
        """How many records hold something that a record of the other `Repeats` holds too."""
        found = np.isin(np.array(self._keys), np.array(other._keys))
        return len(np.unique(np.array(self._owners)[found]))


def quantiles(values):
    """min, mean, max and `QUANTILES` of numbers (n,) as a dict of floats; None without values."""
    if not len(values):
        return None
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    ends = {"min": values.min(), "mean": values.mean(), "max": values.max()}
    named = ends | dict(zip(QUANTILES, found, strict=True))
    return {name: round(float(value), 4) for name, value in named.items()}


def histogram(values, bins=40, most=1.0):
    """Counts of numbers (n,) between evenly spaced edges; None without values.

    Whole numbers of a small range have a bin each; one value alone has one bin around it.

    Args:
        values: the numbers.
        bins: how many, at most.
        most: share of the values to show at least; larger ones are left out if they would squeeze
            the others into less than half of the bins.

    Returns:
        Dict of "counts", "edges" and "beyond", how many were left out.
    """
    if not len(values):
        return None
    values = np.asarray(values)
    low, high = values.min(), values.max()
    nearly = np.quantile(values, most, method="inverted_cdf")
    if nearly - low < (high - low) / 2:
        high = nearly
    if np.issubdtype(values.dtype, np.integer) and high - low < bins:
        edges = np.arange(low - 0.5, high + 1)
    elif high > low:
        edges = np.linspace(low, high, bins + 1)
    else:
        edges = np.array([low - 0.05, low + 0.05])
    counts, _ = np.histogram(values, bins=edges)
    edges = [round(edge, 6) for edge in edges.tolist()]
    return {"counts": counts.tolist(), "edges": edges, "beyond": int((values > high).sum())}
