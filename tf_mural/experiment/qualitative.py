"""What a finished model finds and where its embeddings lie, for people to look at."""

import os

import numpy as np

from tf_mural import file_io, reports
from tf_mural.data import image_ops
from tf_mural.data.records import deserialize
from tf_mural.experiment.model_io import load

_QUERIES, _FOUND, _LANGUAGES = 6, 5, 12


def show(workdir, record_set, log, step, count=128):
    """Writes a grid of queries and what they find a language, and points for the projector.

    Args:
        workdir: of a finished run; the points go to its folder of TensorBoard's events, which must
            be on this machine's disk, else they are left out.
        record_set: `records.RecordSet` that is shown.
        log: `events.Log`.
        step: of the model.
        count: images, from the first one on.
    """
    shown = _Shown(load(workdir), record_set, count)
    if not len(shown.pictures):
        return
    for code in shown.languages[:_LANGUAGES]:
        path = os.path.join(workdir, f"retrieval_{code}.png")
        with file_io.local(path) as local:
            reports.retrieval_grid(local, shown.rows(code))
        log.picture(step, f"retrieval/{code}", path)
    folder = os.path.join(workdir, "tensorboard")
    if not file_io.is_remote(folder):
        reports.write_projector(folder, *shown.points())


class _Shown:
    """Some images of a record set with their texts, embedded."""

    def __init__(self, model, record_set, count):
        numbers = range(min(count, len(record_set)))
        read = [deserialize(data) for data in record_set.read(list(numbers))]
        read = [record for record in read if record.images and record.texts]
        encoded = [record.images[0] for record in read]
        sizes = model.sizes["resize"], model.sizes["crop"]
        self.pictures = [np.asarray(image_ops.for_evaluation(data, *sizes)) for data in encoded]
        self.texts = [{code: text for code, text in record.texts[::-1]} for record in read]
        self.languages = sorted({code for texts in self.texts for code in texts})
        self._model, self._images = model, model.embed.images(encoded)
        self._found = {}

    def _of(self, code):
        """(numbers of the images with a text in a language, those texts, their embeddings)."""
        if code not in self._found:
            numbers = [i for i, texts in enumerate(self.texts) if code in texts]
            texts = [self.texts[i][code] for i in numbers]
            self._found[code] = numbers, texts, self._model.embed.texts(texts)
        return self._found[code]

    def rows(self, code):
        """Of `reports.retrieval_grid`."""
        numbers, texts, embedded = self._of(code)
        rows = []
        for number, text, row in list(zip(numbers, texts, embedded, strict=True))[:_QUERIES]:
            best = np.argsort(-(self._images @ row), kind="stable")[:_FOUND]
            rows.append((code, text, [(self.pictures[i], i == number) for i in best]))
        return rows

    def points(self):
        """Embeddings, pictures and labels of `reports.write_projector`."""
        first = [next(iter(texts.values())) for texts in self.texts]
        embeddings = [self._images]
        pictures, labels = list(self.pictures), [("", text) for text in first]
        for code in self.languages[:_LANGUAGES]:
            _, texts, embedded = self._of(code)
            embeddings.append(embedded)
            pictures += [None] * len(texts)
            labels += [(code, text) for text in texts]
        return np.concatenate(embeddings), pictures, labels
