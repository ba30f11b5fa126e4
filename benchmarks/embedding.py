"""An `Embedder` over towers of a given size, and the same batches through the towers alone."""

import functools
import io
import os
import re

import numpy as np

_WIDTH = 640
_VOCABULARY = 30_000
_RESIZED, _CROPPED = 346, 289  # of the paper, in proportion at other sizes


class Embedding:
    """Towers with random weights, sentences of Tatoeba, and JPEGs.

    Args:
        image, text: names of the towers, in `models.EFFICIENTNETS` and `models.BERTS`.
        image_size: pixels a side that the image tower sees.
        tatoeba: folder of tatoeba.xxx-eng.xxx, or None for random letters.
        sentences, images: how many of each.
        text_batch, image_batch: rows of a batch.
    """

    def __init__(
        self, image, text, image_size, tatoeba, sentences, images, text_batch, image_batch
    ):
        import tensorflow as tf

        from tf_mural import models
        from tf_mural.data.image_ops import for_evaluation
        from tf_mural.data.tokenizers import Tokenizer
        from tf_mural.data.vocabulary import train_vocabulary

        texts = read_sentences(tatoeba) if tatoeba else random_sentences(sentences)
        tokenizer = Tokenizer(train_vocabulary(texts, _VOCABULARY), max_tokens=64)
        chosen = np.random.default_rng(0).permutation(len(texts))[:sentences]
        encoder = models.dual_encoder(
            {"name": image, "image_size": image_size},
            {"name": text, "vocabulary_size": tokenizer.size},
            _WIDTH,
        )

        def tower(kind):
            function = tf.function(
                lambda batch: encoder.encode(kind, batch, training=False), autograph=False
            )
            return lambda batch: np.asarray(function(batch))

        self._items = {"texts": [texts[i] for i in chosen], "images": jpegs(images, image_size)}
        self._towers = {"texts": tower("text"), "images": tower("image")}
        self._tokenizer, self._preprocess = (
            tokenizer,
            functools.partial(
                for_evaluation, resize_to=image_size * _RESIZED // _CROPPED, size=image_size
            ),
        )
        self._batch = {"texts": text_batch, "images": image_batch}
        self._batches = {}

    def prepare(self, kind, cut=True):
        """Makes the batches, and runs one of each shape; returns {width or size: batches}."""
        batches = self._batches[kind, cut] = []

        def note(batch):
            batches.append(batch)
            return np.ones((len(batch), _WIDTH), np.float32)

        self._embed(note, kind, cut)
        shapes = {batch.shape: batch for batch in batches}
        for batch in shapes.values():
            self._towers[kind](batch)
        return {shape[1]: sum(b.shape == shape for b in batches) for shape in shapes}

    def embed(self, kind, cut=True):
        """Embeds all items; returns (n, width) rows."""
        return self._embed(self._towers[kind], kind, cut)

    def bare(self, kind, cut=True):
        """Runs the tower on the batches that `prepare` made, which lie in memory."""
        for batch in self._batches[kind, cut]:
            self._towers[kind](batch)

    def _embed(self, encode, kind, cut):
        from tf_mural.evaluation.batch_embedder import Embedder

        lengths = {} if cut else {"text_lengths": ()}
        embedder = Embedder(
            encode,
            encode,
            self._tokenizer,
            self._preprocess,
            width=_WIDTH,
            batch_size=self._batch[kind],
            **lengths,
        )
        return getattr(embedder, kind)(iter(self._items[kind]))


def read_sentences(folder):
    """The different sentences of Tatoeba's files, sorted."""
    found = set()
    for name in sorted(os.listdir(folder)):
        if re.fullmatch(r"tatoeba\.[a-z]{3}-eng\.[a-z]{3}", name):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found.update(line.strip() for line in file)
    return sorted(found - {""})


def random_sentences(count):
    """Words of random letters, of 1 to 40 words."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    return [
        " ".join("".join(random.choice(letters, 4)) for _ in range(random.integers(1, 41)))
        for _ in range(count)
    ]


def jpegs(count, size):
    """JPEGs of blurred noise, a third wider than high, about twice `size` a side."""
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        blurred = Image.fromarray(random.integers(0, 256, (40, 53, 3), np.uint8))
        file = io.BytesIO()
        blurred.resize((size * 8 // 3, size * 2), Image.Resampling.BICUBIC).save(
            file, "JPEG", quality=90
        )
        files.append(file.getvalue())
    return files
