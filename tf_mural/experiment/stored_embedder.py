"""Embeds the images and texts of record sets from the features that the records contain."""

import hashlib

import numpy as np

from tf_mural.backends import backend_module
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import normalize

_BATCH_SIZE = 1024  # number of rows per call of a projection
_OF = {"image": "images", "text": "texts"}


class StoredEmbedder:
    """An embedder that runs only the projections of the towers, on stored features.

    The features of an image are found by the contents of its file, and the features of a text by
    the text itself. Images and texts without stored features are embedded by another embedder.

    Args:
        embed: object with `embed_images` and `embed_texts`, see `BatchEmbedder`.
        encoder: `models.DualEncoder` with the towers of `features` in `use_stored_features`.
        features: {tower: name of its features in the records}. Only the first tower of a modality
            embeds images or texts.
        sets: list of `RecordSet`, of which some may have no such features.
        normalize: whether the rows are scaled to length 1; `embed` must do the same.
    """

    def __init__(self, embed, encoder, features, sets, normalize=True):
        self._embed = {"images": embed.embed_images, "texts": embed.embed_texts}
        self._sets, self._tables, self._normalize = sets, {}, normalize
        self._towers = {
            _OF[encoder.modalities[tower]]: (tower, name)
            for tower, name in features.items()
            if tower == encoder.default_tower(encoder.modalities[tower])
        }
        towers = tuple(tower for tower, _ in self._towers.values())
        self._functions = backend_module().encoder_functions(_Projections(encoder), towers)

    def embed_images(self, encoded):
        """Embeds images, given as the bytes of image files; returns rows (n, width)."""
        return self._embed_items("images", encoded)

    def embed_texts(self, texts):
        """Embeds strings; returns rows (n, width)."""
        return self._embed_items("texts", texts)

    def _embed_items(self, of, items):
        if of not in self._towers:
            return self._embed[of](items)
        table, features = self._table(of)
        rows, positions = [], []

        def without_features():
            for position, item in enumerate(items):
                rows.append(table.get(_key(item), -1))
                if rows[-1] < 0:
                    positions.append(position)
                    yield item

        try:
            embedded = self._embed[of](without_features())
        except UserError as error:
            if getattr(error, "position", None) is not None:
                error.position = positions[error.position]
            raise
        rows = np.array(rows, np.int64)
        embeddings = np.empty((len(rows), embedded.shape[1]), np.float32)
        embeddings[positions] = embedded
        stored = np.flatnonzero(rows >= 0)
        for start in range(0, len(stored), _BATCH_SIZE):
            part = stored[start : start + _BATCH_SIZE]
            embeddings[part] = self._project(of, features[rows[part]], part)
        return embeddings

    def _project(self, of, features, positions):
        # The shape of all batches is the same, so that the projection is compiled once.
        padding = ((0, _BATCH_SIZE - len(features)), (0, 0))
        projected = self._functions[self._towers[of][0]](np.pad(features, padding, mode="edge"))
        rows = np.asarray(projected, np.float32)[: len(features)]
        return normalize(rows, of, positions) if self._normalize else rows

    def _table(self, of):
        """Returns ({key of an item: row}, features float32 (n, c)) of all record sets."""
        if of not in self._tables:
            name, table, features = self._towers[of][1], {}, []
            for record_set in self._sets:
                description = record_set.vectors.get(name, {})
                if description.get("of") == of and "languages" not in description:
                    for record in record_set:
                        _add_rows(record, of, name, table, features)
            self._tables[of] = table, np.array(features, np.float32)
        return self._tables[of]


class _Projections:
    """Stands for a `DualEncoder` whose inputs are stored features."""

    def __init__(self, encoder):
        self.variables, self._encoder = encoder.variables, encoder

    def encode(self, tower, inputs, training=False):
        """Returns the projected features, which are not normalized."""
        return self._encoder.encode(tower, inputs, training, normalize=False, stored=True)


def _add_rows(record, of, name, table, features):
    items = record.images if of == "images" else [text for _, text in record.texts]
    # A record may have rows of images that were left out.
    for item, row in zip(items, record.vectors.get(name, ()), strict=False):
        if table.setdefault(_key(item), len(features)) == len(features):
            features.append(row)


def _key(item):
    return hashlib.blake2b(item, digest_size=16).digest() if isinstance(item, bytes) else item
