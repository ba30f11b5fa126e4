"""Block sampler: the order of training examples of record sets that are too large for one shuffle.

The blocks of a set (see `records.blocks`) are permuted in each epoch. Consecutive blocks of the
permutation form windows, and the records of a window are permuted. A window is read as a whole, and
all its records are drawn before those of the next window. All choices are functions of the seed and
the number of the draw, as in `sampling`.
"""

import numpy as np
import tensorflow as tf

from tf_mural.data import sampling
from tf_mural.data.block_windows import ATTEMPT_BIT, BlockSet, derived_key, permutation
from tf_mural.data.records.reading import SHUFFLE_LIMIT
from tf_mural.errors import UserError

WINDOW_BLOCKS = 32  # default number of blocks of a window
# Number of draws after which the shares of several record sets are exact.
_PERIOD = 1 << 20
# Distance between a draw and its replacement in a set that is shuffled as a whole.
_REPLACEMENT = (1 << 40) + 15


class BlockSampler(sampling.IndexSampler):
    """Samples draws of record sets, of which at least one is read in windows of blocks.

    An epoch of a set that is read in windows visits each block once. A window has as many slots as
    records. A slot whose record does not fit the source takes another record of the window that
    fits, as a function of the seed and the draw. A record fits if it has `min_languages` of the
    languages, an image if one is needed, and a row of the vectors. If no record of a window fits,
    its slots take records of the next window with records that fit. Filters therefore never change
    which blocks a window consists of.

    With `epoch_unit="combinations"`, an epoch still visits each record once; in consecutive epochs,
    a record is drawn with each of its combinations in turn.

    A record that cannot be used is replaced by another record of the window.

    Args:
        sets, text_fields, languages: see `IndexSampler`.
        shuffle_limit: maximum number of records of a set that is shuffled as a whole, in the same
            way as by `IndexSampler`. Larger sets are read in windows.
        window_blocks: number of blocks of a window. Two windows of each set are in memory.
        **options: further arguments of `IndexSampler`. `weights` and `temperature` have the same
            meaning, and the shares of the sets are exact in each period of 2^20 draws.

    Attributes:
        layouts: {folder: digest of the blocks} of the sets that are read in windows. The order of
            the draws depends on the blocks.
    """

    fallback_distance = 1 << ATTEMPT_BIT

    def __init__(
        self,
        sets,
        text_fields,
        languages=None,
        *,
        shuffle_limit=SHUFFLE_LIMIT,
        window_blocks=WINDOW_BLOCKS,
        **options,
    ):
        if window_blocks < 1:
            raise UserError(f"window_blocks={window_blocks}: expected a number from 1")
        self._shuffle_limit, self._window_blocks = shuffle_limit, window_blocks
        super().__init__(sets, text_fields, languages, **options)
        for number, set_sampler in enumerate(self._set_samplers):
            if isinstance(set_sampler, BlockSet):
                set_sampler.key = derived_key(self._key, number)
        self._in_windows = np.array([isinstance(s, BlockSet) for s in self._set_samplers])
        self.layouts = {
            s.folder: s.blocks.digest
            for s, in_windows in zip(self.sets, self._in_windows, strict=True)
            if in_windows
        }
        period = _PERIOD if len(self.sets) > 1 else 1
        self._shares = sampling.shares_of(self._weights, period)
        # The set of each draw of a period, and the number of earlier draws of this set in it.
        order = np.repeat(np.arange(len(self.sets)), self._shares)
        order = order[permutation(derived_key(self._key, len(self.sets)), len(order))]
        self._order, self._rank = order.astype(np.int32), np.empty(len(order), np.int32)
        for number in range(len(self.sets)):
            rows = np.flatnonzero(order == number)
            self._rank[rows] = np.arange(len(rows))

    def _make_set_sampler(self, record_set, *options):
        if len(record_set) <= self._shuffle_limit:
            return super()._make_set_sampler(record_set, *options)
        return BlockSet(record_set, self._window_blocks, *options)

    def sample(self, draws):
        """Returns the set and the unit of each draw; see `IndexSampler.sample`.

        The unit of a set that is read in windows is the number of earlier draws of this set.
        """
        set_index, count, attempt = tf.numpy_function(
            self._count_draws, [draws], (tf.int64, tf.int64, tf.int64), stateful=False
        )
        for values in (set_index, count, attempt):
            values.set_shape(draws.shape)
        in_windows = tf.gather(tf.constant(self._in_windows), set_index)
        units = tf.gather(tf.constant(self.units_per_epoch, tf.int64), set_index)
        shuffled = tf.where(in_windows, tf.zeros_like(count), count + attempt * _REPLACEMENT)
        _, unit = sampling.shuffled(shuffled, units, self._key + 1, set_index)
        return set_index, tf.where(in_windows, count, unit)

    def _count_draws(self, draws):
        """Returns the set of each draw, the number of its earlier draws, and the attempt."""
        attempt, number = draws >> ATTEMPT_BIT, draws & (self.fallback_distance - 1)
        period, position = np.divmod(number, len(self._order))
        set_index = self._order[position].astype(np.int64)
        return set_index, period * self._shares[set_index] + self._rank[position], attempt

    def resolve(self, draws, set_index, unit):
        """Returns the record and the languages of each draw; see `IndexSampler.resolve`."""
        uniform = sampling.uniform(self._key, draws, 5)
        record = np.empty(len(draws), np.int64)
        language = np.empty((len(draws), self.text_fields), np.int64)
        for number, set_sampler in enumerate(self._set_samplers):
            rows = np.flatnonzero(set_index == number)
            if not len(rows):
                continue
            extra = (draws[rows],) if self._in_windows[number] else ()
            record[rows], language[rows] = set_sampler.resolve(
                unit[rows], uniform[rows, 3:], *extra
            )
        return record, language, uniform[:, :3]

    def replaced_slots(self, draws, set_index, unit):
        """Returns the number of draws that take another record; see `IndexSampler`."""
        total = 0
        for number in np.flatnonzero(self._in_windows):
            rows = np.flatnonzero((set_index == number) & (draws < self.fallback_distance))
            total += self._set_samplers[number].replaced_slots(unit[rows])
        return total

    def records_with(self, number, code):
        """Returns records with a text in a language; of a set in windows, those of one window."""
        if not self._in_windows[number]:
            return super().records_with(number, code)
        return self._set_samplers[number].records_with(self.languages.index(code))

    def language_draws(self, draws):
        """Returns {language: expected number of its texts in the draws 0 to `draws` - 1}."""
        rates = [s.expected_languages() for s in self._set_samplers]
        rate = np.average(rates, axis=0, weights=self._shares)
        return dict(zip(self.languages, np.rint(rate * draws).astype(int).tolist(), strict=True))
