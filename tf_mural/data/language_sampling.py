"""Language sampler: draws with a given share of each language, and batches of one language.

A group is the set of languages of a draw: one language for a source with one text field, two
languages (or the same language twice) for a source with two text fields. The languages have shares,
the shares of the languages give the shares of the groups, and every period of draws (or batches)
contains each group in exactly its share, rounded to whole draws. All choices are functions of the
seed and the number of the draw, as in `sampling`.
"""

import numpy as np
import tensorflow as tf

from tf_mural.data import block_sampling, sampling
from tf_mural.data.records.reading import SHUFFLE_LIMIT
from tf_mural.errors import UserError, lookup

# The values of the option `languages_of`: whether the languages are chosen for a batch or a draw.
LANGUAGES_OF = {"draw": False, "same": True, "cross": True, "hybrid": True}
# Minimum number of draws or batches in a period. Shares are multiples of 1 / period.
_PERIOD = 10_000
# The bits of a number of a draw from this bit on count its replacements, see `fallback_distance`.
_ATTEMPT_BIT = 58
# Distance between a text and its replacement in the order of a group.
_REPLACEMENT = (1 << 40) + 15


def make_sampler(
    sets,
    text_fields,
    languages=None,
    *,
    language_temperature=None,
    min_language_share=0.0,
    languages_of="draw",
    alpha=0.5,
    batch_size=None,
    shuffle_limit=SHUFFLE_LIMIT,
    window_blocks=block_sampling.WINDOW_BLOCKS,
    **options,
):
    """Returns a sampler of record sets.

    The sampler is a `LanguageSampler` if an option of languages is set. Otherwise it is a
    `BlockSampler` if a set has more than `shuffle_limit` records, or else an `IndexSampler`.

    Args:
        sets, text_fields, languages: see `IndexSampler`.
        language_temperature, min_language_share, languages_of, alpha, batch_size: see
            `LanguageSampler`. Default: the records determine the languages, see `IndexSampler`.
        shuffle_limit, window_blocks: see `BlockSampler`. A `LanguageSampler` shuffles sets of any
            size as a whole, and needs the indexes of all their records in memory.
        **options: further arguments of `IndexSampler`.

    Raises:
        UserError: an option is invalid, or does not fit the records or the number of text fields.
    """
    of_batch = lookup(LANGUAGES_OF, languages_of, "languages_of")
    if language_temperature is None and not min_language_share and not of_batch:
        if all(len(record_set) <= shuffle_limit for record_set in sets):
            return sampling.IndexSampler(sets, text_fields, languages, **options)
        limits = {"shuffle_limit": shuffle_limit, "window_blocks": window_blocks}
        return block_sampling.BlockSampler(sets, text_fields, languages, **limits, **options)
    options.pop("epoch_unit", None)  # the units of a `LanguageSampler` are always combinations
    return LanguageSampler(
        sets,
        text_fields,
        languages,
        language_temperature=language_temperature,
        min_language_share=min_language_share,
        languages_of=languages_of,
        alpha=alpha,
        batch_size=batch_size,
        **options,
    )


def language_shares(counts, temperature=1.0, minimum=0.0):
    """Returns the share of each language, float64 (L,), with the sum 1.

    The share of a language with n records is proportional to n ** (1 / temperature), as in the
    sampling of languages of multilingual BERT and XLM-R. Shares below `minimum` are raised to
    `minimum`, and the other shares are reduced in proportion. Languages without a record have the
    share 0.

    Args:
        counts: (L,), number of records with each language.
        temperature: positive number; inf gives all languages the same share.
        minimum: number in [0, 1].

    Raises:
        UserError: the temperature is not positive, or the minimum times the number of languages
            exceeds 1.
    """
    counts = np.asarray(counts, np.float64)
    used = counts > 0
    if not temperature > 0:
        raise UserError(f"language_temperature={temperature}: expected a number above 0")
    if not 0 <= minimum * used.sum() <= 1 + 1e-9:
        raise UserError(
            f"min_language_share={minimum}: expected a number from 0 to {1 / used.sum():.4g}, "
            f"because {used.sum()} languages share the draws"
        )
    shares = np.where(used, (counts / counts.max()) ** (1.0 / temperature), 0.0)
    raised = np.zeros_like(used)
    while True:
        rest = used & ~raised
        if not rest.any():
            return np.where(used, 1.0 / used.sum(), 0.0)
        scale = (1.0 - minimum * raised.sum()) / shares[rest].sum()
        below = rest & (shares * scale < minimum)
        if not below.any():
            return np.where(raised, minimum, np.where(rest, shares * scale, 0.0))
        raised |= below


class LanguageSampler(sampling.IndexSampler):
    """Samples draws with a given share of each language, or batches of one language.

    The share of a language is `language_shares` of the number of records that have a text in it.
    With one text field, this is the share of the language in the draws. With two text fields and
    `languages_of="draw"` or `"cross"`, a language is chosen by these shares, and the second
    language by the shares of the languages that have a record in common with the first. A language
    is then in at least its share of the draws, and in more if other languages are paired with it.
    A period is the smallest number of draws, or of batches, after which the shares are exact: at
    least 10,000. Every group has at least one draw or batch per period, and the order of the groups
    is the same in all periods.

    An epoch of a record set as in `IndexSampler` does not exist, because the texts of small
    languages are drawn more often than the texts of large languages. Instead, each group of
    languages has passes: one pass visits each record with a text in these languages once, in an
    order of its own. `language_draws` counts the draws of each language.

    Args:
        sets, text_fields, languages, min_languages, seed, name, with_image, with_vectors: see
            `IndexSampler`.
        weights, temperature: see `IndexSampler`. The values determine how often the records of a
            set are drawn in comparison with those of other sets; each set then has its own passes.
        language_temperature: temperature of `language_shares`; None: 1.
        min_language_share: minimum share of a language, from 0 to 1 / number of languages.
        languages_of: "draw": every draw has its own languages. The other values choose languages
            for the whole batch, as functions of the seed and the step, draw // batch_size. "same":
            all texts of a batch are in one language; two text fields then have two different texts
            of a record in this language. "cross": the first text field of a batch is in one
            language and the second in another. "hybrid": a share `alpha` of the batches is drawn as
            with "same", the others as with "cross" (Elmahdy et al., arXiv:2408.10536).
        alpha: share of "same" in "hybrid", between 0 and 1.
        batch_size: number of draws per step, for all values of `languages_of` except "draw".

    Attributes:
        group_languages: int64 (groups, text_fields), positions of the languages of each group.
        group_shares: float64 (groups,), share of the draws or batches of each group.
        quotas: int64 (groups,), number of draws or batches of each group in a period.
    """

    fallback_distance = 1 << _ATTEMPT_BIT

    def __init__(
        self,
        sets,
        text_fields,
        languages=None,
        *,
        language_temperature=None,
        min_language_share=0.0,
        languages_of="draw",
        alpha=0.5,
        batch_size=None,
        min_languages=0,
        weights=None,
        temperature=1.0,
        seed=0,
        name="stream",
        with_image=False,
        with_vectors=(),
    ):
        _check_options(name, text_fields, languages_of, alpha, batch_size)
        same_only = languages_of == "same"
        super().__init__(
            sets,
            min(text_fields, 1) if same_only else text_fields,
            languages,
            "combinations",
            min_languages,
            weights,
            temperature,
            seed,
            name,
            with_image,
            with_vectors,
        )
        self.text_fields, self.languages_of = text_fields, languages_of
        self.batch_size = batch_size if LANGUAGES_OF[languages_of] else None
        self._set_rates(weights, temperature)
        has_weights = weights is not None or temperature != 1.0
        pairs = np.array([_common_records(s.has) for s in self._set_samplers])  # (sets, L, L)
        counts = np.einsum("s,sll->l", self._rates, pairs)
        self.shares = language_shares(
            counts,
            1.0 if language_temperature is None else language_temperature,
            min_language_share,
        )
        if text_fields == 2:  # a pair in one language needs two texts of a record
            pairs = pairs * np.stack([_has_several(s, self.languages) for s in self.sets])
        self._set_groups(pairs, alpha)
        groups = tuple(self.group_languages[:, [0, -1]].T)
        self._sizes = pairs[(slice(None), *groups)].T  # (groups, sets): number of records
        self._set_quotas = self._sizes.copy()
        if has_weights:
            expected = self._rates * self._sizes
            expected /= expected.sum(axis=1, keepdims=True)
            rounded = [_quotas(row, _PERIOD) for row in expected]
            self._set_quotas = np.array(rounded)
        self._ends = np.cumsum(self._sizes.T, axis=1)  # (sets, groups): units of a set
        self.units_per_epoch = self._ends[:, -1].tolist()
        self.quotas = _quotas(self.group_shares, max(_PERIOD, 10 * len(self.group_shares)))
        self._set_order()
        self._members = {}

    def _set_rates(self, weights, temperature):
        """Sets the number of draws of a record of each set, in comparison with other sets."""
        sizes = np.array([len(s.records) for s in self._set_samplers], np.float64)
        self._rates = np.ones(len(sizes))
        if weights is not None:
            self._rates = np.asarray(weights, np.float64) / sizes
        elif temperature != 1.0:
            self._rates = sizes ** (1.0 / temperature - 1.0)

    def _set_groups(self, pairs, alpha):
        """Sets `group_languages` and `group_shares`."""
        kinds = {"same": 1.0}
        if self.text_fields == 2 and self.languages_of != "same":
            share = alpha if self.languages_of == "hybrid" else 0.0
            kinds = {"same": share, "cross": 1.0 - share}
        available = pairs.sum(axis=0) > 0
        groups, shares = [], []
        if kinds["same"]:
            used = np.flatnonzero(self.shares * np.diag(available))
            if not len(used):
                raise UserError(
                    f"the source {self.name!r} has languages_of={self.languages_of!r} and two text "
                    "fields, but no record has two texts in one language: use 'draw' or 'cross'"
                )
            groups += [(i,) * self.text_fields for i in used]
            of_used = self.shares[used] / self.shares[used].sum()
            shares += (kinds["same"] * of_used).tolist()
        if kinds.get("cross"):
            between = _pair_shares(self.shares, available)
            ordered = self.languages_of != "draw"
            for i, j in zip(*np.nonzero(between), strict=True):
                if ordered or i < j:
                    groups.append((i, j))
                    shares.append(kinds["cross"] * between[i, j] * (1 if ordered else 2))
        self.group_languages = np.array(groups, np.int64).reshape(len(groups), self.text_fields)
        self.group_shares = np.array(shares)

    def _set_order(self):
        """Sets the order of the groups in a period, which is the same in all periods."""
        groups = np.repeat(np.arange(len(self.quotas)), self.quotas)
        positions = np.arange(len(groups), dtype=np.int64)
        order = np.argsort(sampling.uniform(self._key + 3, positions, 1)[:, 0], kind="stable")
        self._order = groups[order]
        # The number of earlier draws or batches of the same group in the period.
        self._rank = np.empty_like(positions)
        by_group = np.argsort(self._order, kind="stable")
        starts = np.repeat(np.cumsum(self.quotas) - self.quotas, self.quotas)
        self._rank[by_group] = positions - starts

    def sample(self, draws):
        """Returns the set and the unit of each draw; see `IndexSampler.sample`."""
        attempt = tf.bitwise.right_shift(draws, tf.constant(_ATTEMPT_BIT, tf.int64))
        draws = tf.bitwise.bitwise_and(draws, (1 << _ATTEMPT_BIT) - 1)
        batch = self.batch_size or 1
        period, position = draws // batch // len(self._order), draws // batch % len(self._order)
        group = tf.gather(tf.constant(self._order), position)
        # The number of earlier draws of the group.
        count = period * tf.gather(tf.constant(self.quotas), group)
        count = (count + tf.gather(tf.constant(self._rank), position)) * batch + draws % batch
        set_quotas = tf.gather(tf.constant(self._set_quotas), group)  # (b, sets)
        ends = tf.cumsum(set_quotas, axis=1)
        epoch, position = sampling.shuffled(count, ends[:, -1], self._key + 2, group)
        set_index = tf.reduce_sum(tf.cast(ends <= position[:, None], tf.int64), axis=1)
        quota = tf.gather(set_quotas, set_index, batch_dims=1)
        start = tf.gather(ends, set_index, batch_dims=1) - quota
        count = epoch * quota + position - start + attempt * _REPLACEMENT
        size = tf.gather(tf.gather(tf.constant(self._sizes), group), set_index, batch_dims=1)
        part = group * len(self.sets) + set_index
        _, member = sampling.shuffled(count, size, self._key + 1, part)
        end = tf.gather(tf.gather(tf.constant(self._ends.T), group), set_index, batch_dims=1)
        return set_index, end - size + member

    def resolve(self, draws, set_index, unit):
        """Returns the record and the languages of each draw; see `IndexSampler.resolve`."""
        uniform = sampling.uniform(self._key, draws, 5)
        record, group = np.empty(len(draws), np.int64), np.empty(len(draws), np.int64)
        for number, ends in enumerate(self._ends):
            rows = np.flatnonzero(set_index == number)
            group[rows] = np.searchsorted(ends, unit[rows], side="right")
            for value in np.unique(group[rows]):
                chosen = rows[group[rows] == value]
                member = unit[chosen] - ends[value] + self._sizes[value, number]
                record[chosen] = self._records(number, value)[member]
        language = self.group_languages[group]
        if self.text_fields == 2 and self.languages_of == "draw":
            swap = uniform[:, 4] < 0.5
            language[swap] = language[swap, ::-1]
        return record, language, uniform[:, :3]

    def language_draws(self, draws):
        """Returns {language: exact number of its texts in the draws 0 to `draws` - 1}."""
        batch = self.batch_size or 1
        periods, rest = divmod(draws // batch, len(self._order))
        counts = periods * self.quotas
        counts = batch * (counts + np.bincount(self._order[:rest], minlength=len(counts)))
        counts[self._order[rest]] += draws % batch
        totals = np.zeros(len(self.languages), np.int64)
        for column in self.group_languages.T:
            np.add.at(totals, column, counts)
        return dict(zip(self.languages, totals.tolist(), strict=True))

    def _records(self, number, group):
        """Returns the records of a set with the languages of a group, in ascending order."""
        key = (number, *sorted(self.group_languages[group].tolist()))
        if key not in self._members:
            set_sampler = self._set_samplers[number]
            has = set_sampler.has[:, key[1:]].all(axis=1)
            self._members[key] = set_sampler.records[has].astype(np.int32)
        return self._members[key]


def _pair_shares(shares, available):
    """Returns the shares of ordered pairs of different languages, symmetric (L, L), sum 1.

    Args:
        shares: (L,), shares of the languages.
        available: bool (L, L), whether a record has a text in both languages.
    """
    available = available & ~np.eye(len(shares), dtype=bool)
    if not available.any():
        raise UserError("no record has texts in two of the languages, which two text fields need")
    partner = np.where(available, shares[None, :], 0.0)
    total = partner.sum(axis=1, keepdims=True)
    partner = np.divide(partner, total, out=np.zeros_like(partner), where=total > 0)
    shares = np.where(total[:, 0] > 0, shares, 0.0)
    between = (shares / shares.sum())[:, None] * partner
    return (between + between.T) / 2


def _quotas(shares, period):
    """Divides `period` by shares: the largest remainders are rounded up, and each share gets 1."""
    exact = np.asarray(shares, np.float64) * period
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    missing = int(round(exact.sum())) - int(quotas.sum())
    order = np.argsort(-(exact - quotas), kind="stable")
    quotas[order[:missing]] += 1
    return np.where(exact > 0, np.maximum(quotas, 1), 0)


def _common_records(has):
    """Returns the number of records with a text in two languages, int64 (L, L)."""
    blocks = np.array_split(has, max(1, len(has) // 65_536))
    return sum(np.rint(b.T.astype(np.float32) @ b.astype(np.float32)) for b in blocks).astype(
        np.int64
    )


def _has_several(record_set, languages):
    """Returns an int64 matrix (L, L) of ones, and 0 on the diagonal for a language without pairs.

    A language has no pairs if no record of the set has two texts in this language.
    """
    result = np.ones((len(languages), len(languages)), np.int64)
    records = dict(zip(record_set.languages, record_set.has_language.sum(axis=0), strict=True))
    for i, code in enumerate(languages):
        result[i, i] = record_set.language_counts.get(code, 0) > records.get(code, 0)
    return result


def _check_options(name, text_fields, languages_of, alpha, batch_size):
    """Raises UserError for options that do not fit a source."""
    where = f"the source {name!r}"
    if text_fields == 0:
        raise UserError(
            f"{where} has no text field: remove language_temperature, min_language_share and "
            "languages_of"
        )
    if languages_of in ("cross", "hybrid") and text_fields != 2:
        raise UserError(
            f"{where} has {text_fields} text field, but languages_of={languages_of!r} needs 2: use "
            "languages_of='same' or 'draw'"
        )
    if languages_of == "hybrid" and not 0 < alpha < 1:
        raise UserError(f"{where} has alpha={alpha}, expected a number between 0 and 1")
    if LANGUAGES_OF[languages_of] and not (batch_size and batch_size > 0):
        raise UserError(f"{where} has languages_of={languages_of!r}, which needs batch_size=...")
