"""Samples mined negatives beside the examples of another source."""

import numpy as np
import tensorflow as tf

from tf_mural.data.block_sampling import BlockSampler
from tf_mural.data.mined_negatives import read_mined, read_negatives
from tf_mural.data.records import RecordSet
from tf_mural.data.sampling import IndexSampler, name_key, uniform
from tf_mural.errors import UserError


class NegativeSampler:
    """Samples a negative for each draw of another sampler; see `IndexSampler` for the interface.

    A draw takes one of the mined negatives of the record of the other sampler. A record without
    negatives gets a random record of the candidates. The text fields take the languages of the last
    text fields of the other sampler; a negative without a text in this language gives a text in one
    of its languages.

    Args:
        base: `IndexSampler` of the source whose records have negatives.
        folders: folders with mined negatives, one for each record set of `base`.
        text_fields: number of text fields per draw: 0, 1 or 2.
        name: name of the source, which is mixed into the seed.
        seed: seed of all draws.
        with_image: whether negatives without an image are left out.
        with_vectors: names of vectors; negatives without a row of each of them are left out.

    Attributes:
        sets: list of `RecordSet` of the candidates, one for each record set of `base`.
        mined: {folder: digest of the mined negatives}.
        base, text_fields, name, languages, batch_size: as in `IndexSampler`.

    Raises:
        UserError: a record set has no mined negatives in `folders`, they belong to another record
            set, or no candidate has what a field needs.
    """

    fallback_distance = IndexSampler.fallback_distance
    replaced_slots = IndexSampler.replaced_slots  # the slots of `base` are counted by its source

    def __init__(
        self,
        base,
        folders,
        text_fields,
        name="negatives",
        seed=0,
        with_image=False,
        with_vectors=(),
    ):
        self.base, self.text_fields, self.name = base, text_fields, name
        self.batch_size = base.batch_size
        if isinstance(base, BlockSampler):  # the replacement is in the same window
            self.fallback_distance = base.fallback_distance
        self._key = np.array([seed, name_key(name)], np.int64)
        manifests = {folder: read_mined(folder) for folder in folders}
        self.mined = {folder: manifest["digest"] for folder, manifest in manifests.items()}
        self.sets, tables = [], []
        for record_set in base.sets:
            folder = _folder_of(record_set, manifests, base.name)
            self.sets.append(_candidates(record_set, folder, manifests[folder]))
            tables.append(read_negatives(folder, manifests[folder]))
        codes = {code for candidates in self.sets for code in candidates.languages}
        self.languages = base.languages or tuple(sorted(codes))
        self._tables = [
            _Table(rows, candidates, self.languages, text_fields, with_image, with_vectors)
            for rows, candidates in zip(tables, self.sets, strict=True)
        ]

    def sample(self, draws):
        """Returns the set and the unit of each draw of `base`, both int64 (b,)."""
        return self.base.sample(draws)

    def resolve(self, draws, set_index, unit):
        """Returns the negative and the languages of each draw, see `IndexSampler.resolve`."""
        record, language, _ = self.base.resolve(draws, set_index, unit)
        numbers = uniform(self._key, draws, 6)
        # Of two languages, a single text field takes that of the last text, the `y` of a term.
        language = language[:, max(language.shape[1] - self.text_fields, 0) :]
        missing = self.text_fields - language.shape[1]
        language = np.pad(language, ((0, 0), (missing, 0)), constant_values=-1)
        negative = np.empty(len(draws), np.int64)
        for number, table in enumerate(self._tables):
            rows = np.flatnonzero(set_index == number)
            if len(rows):
                negative[rows] = table.draw(record[rows], numbers[rows, 3], numbers[rows, 4])
                language[rows] = table.choose_languages(
                    negative[rows], language[rows], numbers[rows, 5]
                )
        return negative, language, numbers[:, :3]

    def seeds(self, draws):
        """Returns int64 seeds (b, 2) of the draws for `tf.random.stateless_*`."""
        return tf.stack([tf.fill(tf.shape(draws), self._key[0] ^ self._key[1]), draws], axis=1)


class _Table:
    """The negatives of one record set, without candidates that lack what the fields need."""

    def __init__(self, rows, candidates, languages, text_fields, with_image, with_vectors):
        has = np.zeros((len(candidates), len(languages)), bool)
        for i, code in enumerate(languages):
            if code in candidates.languages:
                has[:, i] = candidates.has_language[:, candidates.languages.index(code)]
        usable = has.any(axis=1) if text_fields else np.ones(len(candidates), bool)
        usable &= (candidates.image_counts > 0) | (not with_image)
        for name in with_vectors:
            usable &= candidates.vector_counts[name] > 0
        self._usable, self._has = np.flatnonzero(usable), has
        if not len(self._usable):
            parts = ["a text in one of the languages"] if text_fields else []
            parts += ["an image"] if with_image else []
            parts += [f"a row of the vectors {name!r}" for name in with_vectors]
            raise UserError(
                f"{candidates.folder}: no record has {' and '.join(parts)}, so none is a negative"
            )
        rows = np.where((rows >= 0) & usable[rows], rows, -1)
        # The negatives of a record come first.
        self._rows = np.take_along_axis(rows, np.argsort(rows < 0, axis=1, kind="stable"), axis=1)
        self._counts = (self._rows >= 0).sum(axis=1)

    def draw(self, record, first, second):
        """Returns a negative of each record, int64 (b,); the numbers (b,) are from [0, 1)."""
        count = self._counts[record]
        drawn = self._rows[record, (first * count).astype(np.int64)]
        other = self._usable[(second * len(self._usable)).astype(np.int64)]
        return np.where(count > 0, drawn, other)

    def choose_languages(self, record, language, number):
        """Replaces the languages (b, text fields) that a negative lacks, or that are -1."""
        has = self._has[record]  # (b, L)
        rank = (number * has.sum(axis=1)).astype(np.int64)
        own = (np.cumsum(has, axis=1) > rank[:, None]).argmax(axis=1)
        kept = np.take_along_axis(has, np.maximum(language, 0), axis=1) & (language >= 0)
        return np.where(kept, language, own[:, None])


def _folder_of(record_set, manifests, source):
    for folder, manifest in manifests.items():
        if manifest["records"]["digest"] == record_set.digest:
            return folder
    listed = ", ".join(manifests) or "none"
    raise UserError(
        f"{record_set.folder} of the source {source!r} has no mined negatives in {listed}: run "
        "tools/mine_negatives.py with this record set"
    )


def _candidates(record_set, folder, manifest):
    """Returns the `RecordSet` of the candidates of mined negatives."""
    path, digest = manifest["candidates"]["folder"], manifest["candidates"]["digest"]
    if digest == record_set.digest:
        return record_set
    candidates = RecordSet.open(path)
    if candidates.digest != digest:
        raise UserError(
            f"{path} has changed (digest {candidates.digest}) since the negatives in {folder} were "
            f"mined from it ({digest}): mine them again"
        )
    return candidates
