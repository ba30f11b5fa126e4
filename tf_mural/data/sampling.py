"""What comes next, as functions of (seed, draw).

Draw i of a stream is a record, one of its language pairs, one text a language, and a seed for
augmentation: all functions of the seed and of i alone. A run that starts at step 10^9 has
nothing to skip, two workers take halves of the same sequence, and a resume needs the step only.
"""

import numpy as np
import tensorflow as tf

from tf_mural.errors import UserError, lookup

# Whether a unit is one combination of a record, so that the product of records and combinations is
# walked without repeats, or a whole record, of which a combination is drawn by chance.
WALKS = {"records": False, "combinations": True}


class Stream:
    """An endless sequence of draws from one or more record sets.

    A combination is what a draw takes from a record's texts: nothing (no text fields), a language
    (one field), or an unordered pair of different languages (two fields). An epoch of a set is
    one visit of all its units (see `WALKS`), in an order of its own, without repeats.

    Args:
        sets: list of `records.RecordSet`.
        text_fields: 0, 1 or 2, how many fields of a draw are texts.
        languages: codes that may be drawn; None is all that the sets have.
        walk: a name of `WALKS`.
        min_languages: records with fewer of `languages` are left out; at least `text_fields`.
        weights: relative share of each set; None is in proportion to size ** (1 / temperature).
        temperature: above 1, small sets are drawn more often than their size asks for.
        seed: of everything.
        name: enters the seed, so that the streams of a stage differ.
        with_image: whether records without an image are left out.

    Attributes:
        languages: tuple of the codes drawn from.
        units: list of int, units an epoch of each set.
    """

    def __init__(
        self,
        sets,
        text_fields,
        languages=None,
        walk="records",
        min_languages=0,
        weights=None,
        temperature=1.0,
        seed=0,
        name="stream",
        with_image=False,
    ):
        self.sets, self.text_fields, self.name = list(sets), text_fields, name
        if languages is None:
            languages = sorted({code for s in self.sets for code in s.languages})
        self.languages = tuple(languages)
        self._key = np.array([seed, _name_key(name)], np.int64)
        walks_all = lookup(WALKS, walk, "walk")
        self._parts = [
            _Part(
                s,
                text_fields,
                self.languages,
                max(min_languages, text_fields),
                walks_all,
                with_image,
            )
            for s in self.sets
        ]
        self.units = [part.units for part in self._parts]
        if weights is not None and len(weights) != len(self.sets):
            raise UserError(
                f"the source {name!r} has {len(self.sets)} record sets and weights "
                f"{tuple(weights)}: expected one weight a set"
            )
        if weights is None:
            weights = np.array(self.units, np.float64) ** (1.0 / temperature)
        self._shares = _shares(np.asarray(weights, np.float64), sum(self.units))

    def draw(self, draws):
        """Which unit of which set each draw is; a function for `tf.data` graphs.

        Args:
            draws: (b,) int64, numbers of draws.

        Returns:
            Set numbers and unit numbers, both (b,) int64.
        """
        shares = tf.constant(self._shares, tf.int64)
        starts = tf.cumsum(shares, exclusive=True)
        epoch, place = _shuffled(draws, tf.reduce_sum(shares)[tf.newaxis], self._key)
        which = tf.searchsorted(starts, place, side="right", out_type=tf.int64) - 1
        # The set's own count of draws so far goes on from epoch to epoch.
        own = epoch * tf.gather(shares, which) + place - tf.gather(starts, which)
        units = tf.gather(tf.constant(self.units, tf.int64), which)
        _, unit = _shuffled(own, units, self._key + 1, which)
        return which, unit

    def locate(self, draws, which, unit):
        """What each draw takes, in numpy.

        Args:
            draws, which, unit: (b,) int64, as given to and returned by `draw`.

        Returns:
            Record numbers in their sets (b,), positions in `self.languages` of the texts' languages
            (b, text_fields), and uniform numbers in [0, 1) (b, 3) for what else is to be picked.
        """
        uniform = _uniform(self._key, draws, 5)
        record = np.empty(len(draws), np.int64)
        language = np.empty((len(draws), self.text_fields), np.int64)
        for number, part in enumerate(self._parts):
            rows = np.flatnonzero(which == number)
            if len(rows):
                record[rows], language[rows] = part.locate(unit[rows], uniform[rows, 3:])
        return record, language, uniform[:, :3]

    def seeds(self, draws):
        """Seeds (b, 2) int64 for `tf.random.stateless_*`, one a draw."""
        return tf.stack([tf.fill(tf.shape(draws), self._key[0] ^ self._key[1]), draws], axis=1)


class _Part:
    """The share of a stream that one record set holds: units to records and languages."""

    def __init__(self, record_set, text_fields, languages, min_languages, walks_all, with_image):
        column = {code: i for i, code in enumerate(record_set.languages)}
        has = np.zeros((len(record_set), len(languages)), bool)
        for i, code in enumerate(languages):
            if code in column:
                has[:, i] = record_set.has_language[:, column[code]]
        count = has.sum(axis=1).astype(np.int64)
        usable = count >= min_languages
        if with_image:
            usable &= record_set.image_counts > 0
            if usable.sum() == 0 and (count >= min_languages).any():
                raise UserError(
                    f"{record_set.folder}: no record with the languages {', '.join(languages)} has "
                    "an image; take other records, or a source without a field of images"
                )
        self._records = np.flatnonzero(usable)
        if not len(self._records):
            raise UserError(
                f"{record_set.folder}: no record has {max(min_languages, 1)} of the languages "
                f"{', '.join(languages)}; it has {', '.join(record_set.languages) or 'no texts'}"
            )
        self._has, self._count = has[self._records], count[self._records]
        self._text_fields, self._walks_all = text_fields, walks_all
        self._combinations = {
            0: np.ones_like(self._count),
            1: self._count,
            2: self._count * (self._count - 1) // 2,
        }[text_fields]
        units = self._combinations if walks_all else np.ones_like(self._count)
        self._ends = np.cumsum(units)
        self.units = int(self._ends[-1])

    def locate(self, unit, uniform):
        """Records and languages of units (b,), with two uniform numbers (b, 2) for chance."""
        row = np.searchsorted(self._ends, unit, side="right")
        start = np.where(row > 0, self._ends[row - 1], 0)
        by_chance = (uniform[:, 0] * self._combinations[row]).astype(np.int64)
        choice = unit - start if self._walks_all else by_chance
        ranks = self._ranks(choice, uniform[:, 1] < 0.5)
        order = np.cumsum(self._has[row], axis=1)  # (b, languages): 1 + rank where present
        hits = self._has[row][:, None, :] & (order[:, None, :] == ranks[:, :, None] + 1)
        return self._records[row], hits.argmax(axis=2)

    def _ranks(self, choice, swap):
        """Combination number to ranks among the record's languages, (b, text_fields)."""
        if self._text_fields < 2:
            return choice[:, None][:, : self._text_fields]
        # Pair number r of a < b counts b (b - 1) / 2 pairs below b.
        high = ((1 + np.sqrt(1 + 8 * choice.astype(np.float64))) // 2).astype(np.int64)
        low = choice - high * (high - 1) // 2
        return np.stack([np.where(swap, high, low), np.where(swap, low, high)], axis=1)


def _shares(weights, total):
    """Draws of each set in `total` draws, in proportion to the weights, at least one each."""
    if len(weights) == 0 or not np.all(weights > 0):
        raise UserError(f"expected positive weights, one a record set; got {weights.tolist()}")
    ends = np.round(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    return np.maximum(np.diff(ends, prepend=0), 1)


def _shuffled(draws, size, key, which=None):
    """Epoch of each draw, and its place in that epoch's permutation of `size` things."""
    epoch, place = draws // size, draws % size
    folded = epoch if which is None else epoch * 1_000_003 + which
    constant = [tf.fill(tf.shape(draws), part) for part in key]
    seed = tf.stack([*constant, folded], axis=1)  # (b, 3)
    size = tf.broadcast_to(size, tf.shape(draws))
    # tf.random.experimental.index_shuffle is this op, but refuses one seed a row.
    return epoch, tf.raw_ops.RandomIndexShuffle(
        index=place, seed=seed, max_index=size - 1, rounds=4
    )


def _name_key(name):
    return int.from_bytes(name.encode()[:5].ljust(5, b"\0"), "big") + 31 * sum(name.encode())


def _uniform(key, draws, columns):
    """(b, columns) float64 in [0, 1), a function of (key, draw, column): splitmix64."""
    with np.errstate(over="ignore"):
        salt = np.uint64(key[0]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key[1])
        z = draws.astype(np.uint64)[:, None] * np.uint64(columns)
        z = z + np.arange(columns, dtype=np.uint64) + salt
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
