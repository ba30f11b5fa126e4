"""Index sampler: the order of training examples, as a function of seed and draw number.

Draw i consists of a record, one of its languages or language pairs, one text per language, and a
seed for augmentation. All parts of draw i depend only on the seed of the sampler and on i.
Therefore a run can start at step 10^9 without skipping draws, two workers can read disjoint halves
of the same sequence, and a resumed run needs only the number of its step.
"""

import numpy as np
import tensorflow as tf

from tf_mural.errors import UserError, lookup

# Maximum number of draws whose languages `language_draws` counts one by one.
_MAX_COUNTED = 1_000_000

# With "records", an epoch visits each record once, with a random combination. With "combinations",
# an epoch visits each combination of each record once. The values of the dict say whether the units
# are combinations.
EPOCH_UNITS = {"records": False, "combinations": True}


class IndexSampler:
    """Samples an infinite sequence of draws from one or more record sets.

    A combination is the set of languages of a record that a draw uses. Draws without text fields
    use no language, draws with one text field use one language, and draws with two text fields use
    an unordered pair of different languages. An epoch of a record set visits each unit of the set
    once (see `EPOCH_UNITS`), and every epoch has its own order.

    Args:
        sets: list of `records.RecordSet`.
        text_fields: number of text fields per draw: 0, 1 or 2.
        languages: codes that may be drawn. Default: all languages of the sets.
        epoch_unit: a name of `EPOCH_UNITS`.
        min_languages: minimum number of `languages` that a record must have. A value below
            `text_fields` is raised to `text_fields`.
        weights: relative number of draws of each set. Default: number of units of the set to the
            power 1 / temperature.
        temperature: with a value above 1, small sets are drawn more often than in proportion to
            their size.
        seed: seed of all draws.
        name: name that is mixed into the seed, so that the samplers of a stage differ.
        with_image: whether records without an image are excluded.
        with_vectors: names of vectors; records without a row of one of them are excluded.

    Attributes:
        languages: tuple of the codes that may be drawn.
        units_per_epoch: list with the number of units of each set.
        batch_size: number of draws that share their languages; None: each draw has its own.
        fallback_distance: difference between the numbers of a draw and of its replacement, which is
            drawn if the record cannot be used.
    """

    batch_size = None
    # A prime, because the shuffle uses 32 bits of the epoch number: epochs whose numbers differ by
    # a large power of two have the same order of records.
    fallback_distance = (1 << 40) + 15

    def __init__(
        self,
        sets,
        text_fields,
        languages=None,
        epoch_unit="records",
        min_languages=0,
        weights=None,
        temperature=1.0,
        seed=0,
        name="stream",
        with_image=False,
        with_vectors=(),
    ):
        self.sets, self.text_fields, self.name = list(sets), text_fields, name
        if languages is None:
            languages = sorted({code for s in self.sets for code in s.languages})
        self.languages = tuple(languages)
        self._key = np.array([seed, name_key(name)], np.int64)
        visits_combinations = lookup(EPOCH_UNITS, epoch_unit, "epoch_unit")
        self._set_samplers = [
            self._make_set_sampler(
                s,
                text_fields,
                self.languages,
                max(min_languages, text_fields),
                visits_combinations,
                with_image,
                with_vectors,
            )
            for s in self.sets
        ]
        self.units_per_epoch = [set_sampler.units for set_sampler in self._set_samplers]
        if weights is not None and len(weights) != len(self.sets):
            raise UserError(
                f"the source {name!r} has {len(self.sets)} record sets and weights "
                f"{tuple(weights)}: expected one weight per set"
            )
        if weights is None:
            weights = np.array(self.units_per_epoch, np.float64) ** (1.0 / temperature)
        self._weights = np.asarray(weights, np.float64)
        self._shares = shares_of(self._weights, sum(self.units_per_epoch))
        self._counted = (0, np.zeros(len(self.languages), np.int64))

    def _make_set_sampler(self, *arguments):
        return _SetSampler(*arguments)

    def sample(self, draws):
        """Returns the set and the unit of each draw, with TensorFlow operations.

        Args:
            draws: int64 (b,), numbers of draws.

        Returns:
            (set indices, unit indices in the sets), both int64 (b,).
        """
        shares = tf.constant(self._shares, tf.int64)
        starts = tf.cumsum(shares, exclusive=True)
        epoch, position = shuffled(draws, tf.reduce_sum(shares)[tf.newaxis], self._key)
        set_index = tf.searchsorted(starts, position, side="right", out_type=tf.int64) - 1
        # The draws of each set are counted separately, and the count continues in the next epoch.
        set_draws = epoch * tf.gather(shares, set_index) + position - tf.gather(starts, set_index)
        units = tf.gather(tf.constant(self.units_per_epoch, tf.int64), set_index)
        _, unit = shuffled(set_draws, units, self._key + 1, set_index)
        return set_index, unit

    def resolve(self, draws, set_index, unit):
        """Returns the record and the languages of each draw, computed with NumPy.

        Args:
            draws, set_index, unit: int64 (b,), the argument and the results of `sample`.

        Returns:
            (record indices in the sets, int64 (b,); languages of the text fields as positions in
            `self.languages`, int64 (b, text_fields); uniform random numbers in [0, 1) for further
            choices, float64 (b, 3)).
        """
        numbers = uniform(self._key, draws, 5)
        record = np.empty(len(draws), np.int64)
        language = np.empty((len(draws), self.text_fields), np.int64)
        for number, set_sampler in enumerate(self._set_samplers):
            rows = np.flatnonzero(set_index == number)
            if len(rows):
                record[rows], language[rows] = set_sampler.resolve(unit[rows], numbers[rows, 3:])
        return record, language, numbers[:, :3]

    @property
    def language_records(self):
        """{language: number of records that may be drawn for a text in this language}."""
        counts = sum(set_sampler.language_records() for set_sampler in self._set_samplers)
        return dict(zip(self.languages, counts.tolist(), strict=True))

    def language_draws(self, draws):
        """Returns {language: number of its texts in the draws 0 to `draws` - 1}.

        The first 1,000,000 draws are counted exactly. Of later draws, the expected number is
        counted, whose relative standard error is below 1 / sqrt(number of texts).
        """
        start, counts = self._counted
        if start > min(draws, _MAX_COUNTED):
            start, counts = 0, np.zeros_like(counts)
        for first in range(start, min(draws, _MAX_COUNTED), 1 << 15):
            numbers = np.arange(first, min(first + (1 << 15), draws, _MAX_COUNTED), dtype=np.int64)
            set_index, unit = (x.numpy() for x in self.sample(numbers))
            _, language, _ = self.resolve(numbers, set_index, unit)
            counts = counts + np.bincount(language.ravel(), minlength=len(counts))
        self._counted = (max(start, min(draws, _MAX_COUNTED)), counts)
        if draws > _MAX_COUNTED:
            rates = [s.expected_languages() for s in self._set_samplers]
            rate = np.average(rates, axis=0, weights=self._shares)
            counts = counts + np.rint(rate * (draws - _MAX_COUNTED)).astype(np.int64)
        return dict(zip(self.languages, counts.tolist(), strict=True))

    def records_with(self, number, code):
        """Returns the records of the set `number` with a text in a language, int64 (k,)."""
        record_set = self.sets[number]
        return np.flatnonzero(record_set.has_language[:, record_set.languages.index(code)])

    def replaced_slots(self, draws, set_index, unit):
        """Returns the number of draws that take another record of their window, 0 without windows.

        Args:
            draws, set_index, unit: see `resolve`.
        """
        return 0

    def seeds(self, draws):
        """Returns int64 seeds (b, 2) of the draws for `tf.random.stateless_*`."""
        return tf.stack([tf.fill(tf.shape(draws), self._key[0] ^ self._key[1]), draws], axis=1)


class _SetSampler:
    """Maps the units of one record set to records and languages; see `IndexSampler`."""

    def __init__(
        self,
        record_set,
        text_fields,
        languages,
        min_languages,
        visits_combinations,
        with_image,
        with_vectors=(),
    ):
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
                    "an image; use other records, or a source without an image field"
                )
        for name in with_vectors:
            usable &= record_set.vector_counts[name] > 0
            if usable.sum() == 0 and (count >= min_languages).any():
                raise UserError(
                    f"{record_set.folder}: no record that can be drawn has a row of the vectors "
                    f"{name!r}; use other records, or a source without a field of these vectors"
                )
        self.records = np.flatnonzero(usable)
        if not len(self.records):
            raise UserError(
                f"{record_set.folder}: no record has {max(min_languages, 1)} of the languages "
                f"{', '.join(languages)}; it has {', '.join(record_set.languages) or 'no texts'}"
            )
        self.has, self._count = has[self.records], count[self.records]
        self._text_fields, self._visits_combinations = text_fields, visits_combinations
        self._combinations = count_combinations(self._count, text_fields)
        units = self._combinations if visits_combinations else np.ones_like(self._count)
        self._ends = np.cumsum(units)
        self.units = int(self._ends[-1])

    def resolve(self, unit, uniform):
        """Returns record indices (b,) and positions in `languages` (b, text_fields).

        Args:
            unit: int64 (b,), unit indices in the set.
            uniform: (b, 2), random numbers that choose the combination and the order of a pair.
        """
        row = np.searchsorted(self._ends, unit, side="right")
        start = np.where(row > 0, self._ends[row - 1], 0)
        random_combination = (uniform[:, 0] * self._combinations[row]).astype(np.int64)
        combination = unit - start if self._visits_combinations else random_combination
        swap = uniform[:, 1] < 0.5
        language = pick_languages(self.has[row], combination, swap, self._text_fields)
        return self.records[row], language

    def language_records(self):
        """Returns the number of records of each language that may be drawn, int64 (L,)."""
        return self.has.sum(axis=0)

    def expected_languages(self):
        """Returns the expected number of texts of each language in a draw, float64 (L,)."""
        units = self._combinations if self._visits_combinations else np.ones_like(self._count)
        # All languages of a record are equally frequent in the combinations of the record.
        rate = units * self._text_fields / (np.maximum(self._count, 1) * self.units)
        return rate @ self.has


def count_combinations(count, text_fields):
    """Returns the number of combinations of each record, int64 (b,).

    Args:
        count: int64 (b,), number of languages of each record.
        text_fields: number of text fields.
    """
    pairs = count * (count - 1) // 2
    return {0: np.ones_like(count), 1: count, 2: pairs}[text_fields]


def pick_languages(has, combination, swap, text_fields):
    """Returns the languages of combinations as positions in the columns, int64 (b, text_fields).

    Args:
        has: bool (b, L), whether the record of each draw has a text in each language.
        combination: int64 (b,), number of a combination, from 0.
        swap: bool (b,), whether the languages of a pair change places.
        text_fields: number of text fields.
    """
    if not text_fields:
        return np.zeros((len(has), 0), np.int64)
    if text_fields == 1:
        ranks = combination[:, None]
    else:
        # The pairs low < high are numbered by `high`, then by `low`: high * (high - 1) / 2 pairs
        # have a smaller `high`.
        high = ((1 + np.sqrt(1 + 8 * combination.astype(np.float64))) // 2).astype(np.int64)
        low = combination - high * (high - 1) // 2
        ranks = np.stack([np.where(swap, high, low), np.where(swap, low, high)], axis=1)
    order = np.cumsum(has, axis=1)  # (b, languages): rank + 1 of a language
    hits = has[:, None, :] & (order[:, None, :] == ranks[:, :, None] + 1)
    return hits.argmax(axis=2)


def shares_of(weights, total):
    """Divides `total` draws among the sets by weight, with at least one draw per set."""
    if len(weights) == 0 or not np.all(weights > 0):
        raise UserError(f"expected positive weights, one per record set; got {weights.tolist()}")
    ends = np.round(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    return np.maximum(np.diff(ends, prepend=0), 1)


def shuffled(draws, size, key, set_index=None):
    """Returns the epoch of each draw, and the draw's position in the permutation of the epoch.

    Args:
        draws: int64 (b,).
        size: int64 (1,) or (b,), number of draws per epoch.
        key: int64 (2,), seed of the permutations.
        set_index: int64 (b,), the set of each draw; each set has its own permutations. None: all
            draws have the same permutations.
    """
    epoch, position = draws // size, draws % size
    folded = epoch if set_index is None else epoch * 1_000_003 + set_index
    constant = [tf.fill(tf.shape(draws), part) for part in key]
    seed = tf.stack([*constant, folded], axis=1)  # (b, 3)
    size = tf.broadcast_to(size, tf.shape(draws))
    # `tf.random.experimental.index_shuffle` uses the same operation, but rejects a separate seed
    # for each row.
    return epoch, tf.raw_ops.RandomIndexShuffle(
        index=position, seed=seed, max_index=size - 1, rounds=4
    )


def name_key(name):
    """Returns the part of a sampler's seed that depends on its name."""
    return int.from_bytes(name.encode()[:5].ljust(5, b"\0"), "big") + 31 * sum(name.encode())


def uniform(key, draws, columns, count=None):
    """Returns numbers in [0, 1), (b, columns), from the hash splitmix64 of key, draw and column.

    Only the first `count` columns are computed if `count` is given.
    """
    with np.errstate(over="ignore"):
        salt = np.uint64(key[0]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key[1])
        z = draws.astype(np.uint64)[:, None] * np.uint64(columns)
        z = z + np.arange(columns if count is None else count, dtype=np.uint64) + salt
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
