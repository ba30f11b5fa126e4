"""Retrieval examples and embeddings of a finished model, for visual inspection."""

import functools
import os

import numpy as np

from tf_mural import file_io, reports
from tf_mural.data import image_ops
from tf_mural.data.records import deserialize
from tf_mural.experiment.model_io import load

_MAX_QUERIES, _NUM_RETRIEVED, _MAX_LANGUAGES = 6, 5, 12


def write_retrieval_examples(workdir, record_set, log, step, count=128):
    """Writes one retrieval grid per language, and data for TensorBoard's embedding projector.

    Args:
        workdir: folder of a finished run. The embeddings for TensorBoard's projector are written to
            the subfolder `tensorboard` of `workdir`, unless `workdir` is on a remote file system.
        record_set: `RecordSet` with the images and the texts.
        log: `MetricWriter`.
        step: training step of the model.
        count: number of records that are used, beginning with the first record.
    """
    examples = _Examples(load(workdir), record_set, count)
    if not examples.images:
        return
    for code in examples.languages[:_MAX_LANGUAGES]:
        path = os.path.join(workdir, f"retrieval_{code}.png")
        with file_io.local_copy(path) as local_path:
            reports.retrieval_grid(local_path, examples.grid_rows(code))
        log.image(step, f"retrieval/{code}", path)
    folder = os.path.join(workdir, "tensorboard")
    if not file_io.is_remote(folder):
        reports.write_projector(folder, *examples.projector_points())


def _first_texts(record):
    """Returns {language: first text in this language}, in the order of the texts of the record."""
    texts = {}
    for code, text in record.texts:
        texts.setdefault(code, text)
    return texts


class _Examples:
    """Images and texts of the first records of a record set, with their embeddings."""

    def __init__(self, model, record_set, count):
        numbers = list(range(min(count, len(record_set))))
        records = [deserialize(data) for data in record_set.read(numbers)]
        records = [record for record in records if record.images and record.texts]
        encoded = [record.images[0] for record in records]
        preprocess = functools.partial(
            image_ops.preprocess_for_evaluation, preprocessing=model.preprocessing
        )
        self.images = [np.asarray(preprocess(data)) for data in encoded]
        self.texts = [_first_texts(record) for record in records]
        self.languages = sorted({code for texts in self.texts for code in texts})
        self._model, self._image_embeddings = model, model.embed.embed_images(encoded)
        self._embedded_texts = {}

    def _texts_in(self, code):
        """Returns (indices, texts, text embeddings) of the images with a text in a language."""
        if code not in self._embedded_texts:
            indices = [i for i, texts in enumerate(self.texts) if code in texts]
            texts = [self.texts[i][code] for i in indices]
            self._embedded_texts[code] = indices, texts, self._model.embed.embed_texts(texts)
        return self._embedded_texts[code]

    def grid_rows(self, code):
        """Returns the rows for `reports.retrieval_grid`: queries with their retrieved images."""
        rows = []
        queries = list(zip(*self._texts_in(code), strict=True))[:_MAX_QUERIES]
        for index, text, embedding in queries:
            scores = self._image_embeddings @ embedding
            retrieved = np.argsort(-scores, kind="stable")[:_NUM_RETRIEVED]
            rows.append((code, text, [(self.images[i], i == index) for i in retrieved]))
        return rows

    def projector_points(self):
        """Returns (embeddings, images, labels) for `reports.write_projector`."""
        first_texts = [next(iter(texts.values())) for texts in self.texts]
        embeddings = [self._image_embeddings]
        images, labels = list(self.images), [("", text) for text in first_texts]
        for code in self.languages[:_MAX_LANGUAGES]:
            _, texts, text_embeddings = self._texts_in(code)
            embeddings.append(text_embeddings)
            images += [None] * len(texts)
            labels += [(code, text) for text in texts]
        return np.concatenate(embeddings), images, labels
