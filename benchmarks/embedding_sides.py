"""The sides of tf_mural in `benchmarks.embedding_speed`."""

import functools
import os
import shutil

import numpy as np

from benchmarks.flops import graph_flops, multiply_matrices

_LANGUAGES = ("deu", "fra", "rus", "cmn")
_SENTENCES = 500  # sentences of a language whose translations are searched


class Sides:
    """A model of two trained towers, and its exports.

    Args:
        settings: dict of `embedding_speed`: the texts, and the folders of presets and photographs.
    """

    def __init__(self, settings):
        import tf_mural
        from tf_mural import experiment, public_models

        self._settings = settings
        presets = settings["presets"]
        image, text = (
            public_models.open_model(f"keras_hub:{os.path.join(presets, name)}")
            for name in ("lite0", "e5")
        )
        text_encoder = text.encoder("text")
        self._encoder = tf_mural.DualEncoder(
            image_encoder=image.encoder("image", dim=text.embedding_dim or 384),
            text_encoder=text_encoder,
        )
        tokenizer, preprocessing = self._encoder.tokenizer, self._encoder.preprocessing
        embed = experiment.batch_embedder(self._encoder, tokenizer, preprocessing, 64)
        self._model = experiment.Model(self._encoder, tokenizer, embed, preprocessing, None)
        self._sides = {}  # {(part, side, batch size): function that embeds a list}
        self._write_tokenizer()

    def _write_tokenizer(self):
        """Writes the pieces of the SentencePiece model, from which the peer makes its tokenizer."""
        from tf_mural import file_io
        from tf_mural.data import sentencepiece_model

        folder = os.path.join(self._settings["presets"], "e5", "assets", "tokenizer")
        (name,) = os.listdir(folder)
        path = os.path.join(self._settings["folder"], "pieces.json")
        model = sentencepiece_model.read_model(os.path.join(folder, name))
        file_io.write_json(path, [[piece.piece, piece.score] for piece in model.pieces])

    def embed(self, part, side, batch_size, count):
        """Embeds the texts, the images, or the folder of images; returns the number of rows."""
        if part == "folder":
            return self._index(count)
        items = self._texts[:count] if part == "texts" else self._images[:count]
        embed = self._embed_function(part, side, batch_size)
        if batch_size == 1:
            return sum(len(embed([item])) for item in items)
        return len(embed(items))

    @functools.cached_property
    def _texts(self):
        return self._settings["texts"]

    @functools.cached_property
    def _images(self):
        folder = self._settings["photos"]
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))[:1024]]
        images = []
        for path in paths:
            with open(path, "rb") as file:
                images.append(file.read())
        return images

    def _embed_function(self, part, side, batch_size):
        key = part, side, batch_size
        if key not in self._sides:
            make = {"embedder": self._embedder, "saved_model": self._saved_model}
            self._sides[key] = make.get(side, self._onnx)(part, side, batch_size)
        return self._sides[key]

    def _embedder(self, part, side, batch_size):
        import tf_mural

        embedder = tf_mural.Embedder.from_model(self._encoder, max(batch_size, 2))
        if part == "texts":
            return lambda items: embedder.embed_texts(items, progress=False, warn=False)
        return lambda items: embedder.embed_images(items, progress=False)

    def _onnx(self, part, side, batch_size):
        from tf_mural import export

        folder = self._exported(side)
        embed = export.onnx_embedder(folder, self._model)
        embed.small_batches = (1,)
        return embed.embed_texts if part == "texts" else embed.embed_images

    def _saved_model(self, part, side, batch_size):
        import tensorflow as tf

        signature = self._signatures[f"embed_{part}"]

        def embed(items):
            starts = range(0, len(items), batch_size)
            batches = [tf.constant(items[i : i + batch_size]) for i in starts]
            return np.concatenate(
                [signature(**{part: batch})["embeddings"].numpy() for batch in batches]
            )

        return embed

    @functools.cached_property
    def _signatures(self):
        import tensorflow as tf

        self._loaded = tf.saved_model.load(self._exported("saved_model"))
        return self._loaded.signatures

    def _exported(self, side):
        from tf_mural import export

        folder = os.path.join(self._settings["folder"], side.replace(" ", "_"))
        if not os.path.isdir(folder):
            if side == "saved_model":
                export.export_saved_model(folder, self._model)
            else:
                export.export_onnx(folder, self._model, "int8" if "int8" in side else "")
        return folder

    def _index(self, count):
        import tf_mural
        from tf_mural import search

        embedder = tf_mural.Embedder.from_model(self._encoder)
        folder = os.path.join(self._settings["folder"], "index")
        shutil.rmtree(folder, ignore_errors=True)
        manifest = search.make_index(
            folder,
            search.FolderSource(self._settings["photos"]),
            lambda images: embedder.embed_images(images, progress=False),
            "0" * 32,
            "model",
            embedder.width,
            print_fn=lambda line: None,
        )
        if manifest["count"] < count:
            raise RuntimeError(f"the index has {manifest['count']} images, expected {count}")
        return manifest["count"]

    def accuracy(self):
        """Returns the mean accuracy of translation search in percent, {side: accuracy}."""
        results = {}
        for side in ("embedder", "onnx int8"):
            embed = self._embed_function("texts", side, 64)
            scores = []
            for code in _LANGUAGES:
                pairs = []
                for suffix in (code, "eng"):
                    name = f"tatoeba.{code}-eng.{suffix}"
                    path = os.path.join(self._settings["tatoeba"], name)
                    with open(path, encoding="utf-8") as file:
                        pairs.append([line.strip() for line in file][:_SENTENCES])
                foreign, english = (embed(lines) for lines in pairs)
                similarities = foreign @ english.T
                for axis in (0, 1):
                    right = similarities.argmax(axis) == np.arange(len(similarities))
                    scores.append(100.0 * right.mean())
            results[side] = float(np.mean(scores))
        return results

    def flops(self, batch_sizes):
        """Returns {part: {batch size: floating-point operations of a tower per item}}.

        The number for texts is the mean over the texts, in the batches that `Embedder` makes.
        """
        import tensorflow as tf

        def count(tower, shape, dtype):
            function = tf.function(
                lambda batch: self._encoder.encode(tower, batch, training=False), autograph=False
            )
            return graph_flops(function.get_concrete_function(tf.TensorSpec(shape, dtype)).graph)

        size = self._encoder.preprocessing.crop
        images = count("image", (1, size, size, 3), tf.uint8)
        lengths = {n: count("text", (1, n), tf.int32) for n in (8, 16, 32, 64)}
        tokens = np.asarray(self._encoder.tokenizer(tf.constant(self._texts)))
        used = np.sort(np.sum(tokens != self._encoder.tokenizer.pad_id, axis=1))
        texts = {}
        for batch in batch_sizes:
            longest = [used[i : i + batch].max() for i in range(0, len(used), batch)]
            fitting = [min(n for n in lengths if n >= min(length, 64)) for length in longest]
            texts[str(batch)] = float(np.mean([lengths[n] for n in fitting]))
        both = {str(batch): float(images) for batch in (*batch_sizes, 64)}
        return {"texts": texts, "images": both, "folder": both}

    matmul = staticmethod(multiply_matrices)
