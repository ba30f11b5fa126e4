"""SavedModel with images and strings as they are for inputs."""

import functools

import numpy as np

from tf_mural.data import image_ops
from tf_mural.export.parity import far_apart, sample_images, sample_texts

SAVED_MODEL_TOLERANCE = 1e-4


def export_saved_model(folder, model):
    """Writes a SavedModel, loads it again and compares.

    Signatures: `embed_images`, of encoded PNG, JPEG, GIF or BMP of any size, string (n,) named
    "images"; `embed_texts`, string (n,) named "texts", which is "serving_default" too. Both return
    {"embeddings": float32 (n, width)}, unit rows. Tokenising takes operations of tensorflow-text,
    which TensorFlow Serving has, and a Python program imports.

    Args:
        folder: where to.
        model: `build.Model`; of the TensorFlow backend.

    Returns:
        {"embed_images" | "embed_texts": largest difference from the model}.

    Raises:
        UserError: one is larger than `SAVED_MODEL_TOLERANCE`.
    """
    import keras
    import tensorflow as tf

    encoder, sizes = model.encoder, model.sizes
    preprocess = functools.partial(
        image_ops.for_evaluation, resize_to=sizes["resize"], size=sizes["crop"]
    )

    def embed_images(encoded):
        pixels = tf.map_fn(preprocess, encoded, fn_output_signature=tf.uint8)
        pixels = tf.ensure_shape(pixels, (None, sizes["crop"], sizes["crop"], 3))
        return {"embeddings": encoder.encode("image", pixels, training=False)}

    def embed_texts(texts):
        return {"embeddings": encoder.encode("text", model.tokenizer(texts), training=False)}

    def strings(name):
        return [tf.TensorSpec((None,), tf.string, name=name)]

    archive = keras.export.ExportArchive()
    archive.track(encoder)
    archive.add_endpoint("embed_texts", embed_texts, strings("texts"))
    archive.add_endpoint("embed_images", embed_images, strings("images"))
    archive.write_out(folder, verbose=False)
    return compare(folder, model)


def compare(folder, model):
    """Calls the signatures of a SavedModel beside the model, see `export_saved_model`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    pictures, texts = sample_images(), sample_texts()
    found = {}
    for name, items, embed in (
        ("embed_images", pictures, model.embed.images),
        ("embed_texts", texts, model.embed.texts),
    ):
        key = name.removeprefix("embed_")
        rows = loaded.signatures[name](**{key: tf.constant(items)})["embeddings"]
        found[name] = float(np.abs(np.asarray(rows) - embed(items)).max())
    far_apart(folder, found, SAVED_MODEL_TOLERANCE)
    return found
