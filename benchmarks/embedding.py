"""Runs a `BatchEmbedder` with towers of a given size, and the bare towers on the same batches."""

import functools
import io
import os
import re

import numpy as np

_WIDTH = 640
_VOCABULARY = 30_000
_RESIZE, _CROP = 346, 289  # in pixels, as in the paper; other sizes have this ratio


class Embedding:
    """Towers with random weights, sentences of Tatoeba, and JPEGs.

    Args:
        image: image tower, a key of `models.EFFICIENTNETS`.
        text: text tower, a key of `models.BERTS`.
        image_size: height and width of the inputs of the image tower.
        tatoeba: folder with files tatoeba.xxx-eng.xxx; None: sentences of random words.
        sentences: number of sentences.
        images: number of images.
        text_batch: batch size of texts.
        image_batch: batch size of images.
    """

    def __init__(
        self, image, text, image_size, tatoeba, sentences, images, text_batch, image_batch
    ):
        import tensorflow as tf

        from tf_mural import models
        from tf_mural.data.image_ops import preprocess_for_evaluation
        from tf_mural.data.preprocessing import Preprocessing
        from tf_mural.data.tokenizers import Tokenizer, train_vocabulary

        texts = read_sentences(tatoeba) if tatoeba else random_sentences(sentences)
        self._tokenizer = Tokenizer(train_vocabulary(texts, _VOCABULARY), max_tokens=64)
        sample = np.random.default_rng(0).permutation(len(texts))[:sentences]
        encoder = models.dual_encoder(
            {"backbone": image, "image_size": image_size},
            {"backbone": text, "vocabulary_size": self._tokenizer.size},
            _WIDTH,
        )

        def make_tower(modality):
            function = tf.function(
                lambda batch: encoder.encode(modality, batch, training=False), autograph=False
            )
            return lambda batch: np.asarray(function(batch))

        self._items = {"texts": [texts[i] for i in sample], "images": jpegs(images, image_size)}
        self._towers = {"texts": make_tower("text"), "images": make_tower("image")}
        self._preprocess = functools.partial(
            preprocess_for_evaluation,
            preprocessing=Preprocessing(image_size * _RESIZE // _CROP, image_size),
        )
        self._batch_sizes = {"texts": text_batch, "images": image_batch}
        self._batches = {}

    def prepare(self, items, bucketed=True):
        """Creates the batches, and runs the tower once for each shape.

        Args:
            items: "texts" or "images".
            bucketed: if False, all texts are padded to the maximum length.

        Returns:
            {number of tokens or image size: number of batches}.
        """
        batches = self._batches[items, bucketed] = []

        def collect(batch):
            batches.append(batch)
            return np.ones((len(batch), _WIDTH), np.float32)

        self._embed(collect, items, bucketed)
        shapes = {batch.shape: batch for batch in batches}
        for batch in shapes.values():
            self._towers[items](batch)
        return {shape[1]: sum(b.shape == shape for b in batches) for shape in shapes}

    def embedder(self, items, bucketed=True):
        """Runs the `BatchEmbedder` on all items; returns the embeddings (n, width)."""
        return self._embed(self._towers[items], items, bucketed)

    def tower(self, items, bucketed=True):
        """Runs the bare tower on the batches that `prepare` stored in memory."""
        for batch in self._batches[items, bucketed]:
            self._towers[items](batch)

    def _embed(self, encode, items, bucketed):
        from tf_mural.evaluation.batch_embedder import BatchEmbedder

        options = {} if bucketed else {"text_lengths": ()}
        embedder = BatchEmbedder(
            encode,
            encode,
            self._tokenizer,
            self._preprocess,
            width=_WIDTH,
            batch_size=self._batch_sizes[items],
            **options,
        )
        return getattr(embedder, f"embed_{items}")(iter(self._items[items]))


def read_sentences(folder):
    """Returns the sorted unique sentences of the files of Tatoeba in a folder."""
    sentences = set()
    for name in sorted(os.listdir(folder)):
        if re.fullmatch(r"tatoeba\.[a-z]{3}-eng\.[a-z]{3}", name):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                sentences.update(line.strip() for line in file)
    return sorted(sentences - {""})


def random_sentences(count):
    """Returns sentences of 1 to 40 words of random letters."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    return [
        " ".join("".join(random.choice(letters, 4)) for _ in range(random.integers(1, 41)))
        for _ in range(count)
    ]


def jpegs(count, size):
    """Returns JPEGs of blurred noise, `2 * size` pixels high and 4/3 as wide as high."""
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        noise = Image.fromarray(random.integers(0, 256, (40, 53, 3), np.uint8))
        file = io.BytesIO()
        noise.resize((size * 8 // 3, size * 2), Image.Resampling.BICUBIC).save(
            file, "JPEG", quality=90
        )
        files.append(file.getvalue())
    return files
