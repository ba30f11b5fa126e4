"""Exports both towers to a SavedModel that takes image files (PNG, JPEG, GIF, BMP) and texts."""

import functools

from tf_mural.data import image_ops
from tf_mural.export.parity import assert_close, max_difference, sample_images, sample_texts

SAVED_MODEL_TOLERANCE = 1e-4


def export_saved_model(folder, model):
    """Writes a SavedModel, loads it again, and compares its embeddings with those of the model.

    The signature `embed_images` takes "images", string (n,): the bytes of PNG, JPEG, GIF or BMP
    files with images of any size. The signatures `embed_texts` and `serving_default` take "texts",
    string (n,). All signatures return {"embeddings": float32 (n, d)}; the embeddings are
    normalized. The tokenizer uses operations of tensorflow-text. TensorFlow Serving contains the
    operations of tensorflow-text; a Python program must import `tensorflow_text` before it loads
    the SavedModel.

    Args:
        folder: output folder.
        model: `experiment.Model` on the TensorFlow backend.

    Returns:
        {"embed_images" or "embed_texts": maximum absolute difference between the embeddings of the
        signature and those of `model`}.

    Raises:
        UserError: a difference exceeds `SAVED_MODEL_TOLERANCE`.
    """
    import keras
    import tensorflow as tf

    encoder, sizes = model.encoder, model.sizes
    preprocess = functools.partial(
        image_ops.preprocess_for_evaluation, resize_to=sizes["resize"], size=sizes["crop"]
    )

    def embed_images(encoded):
        pixels = tf.map_fn(preprocess, encoded, fn_output_signature=tf.uint8)
        pixels = tf.ensure_shape(pixels, (None, sizes["crop"], sizes["crop"], 3))
        return {"embeddings": encoder.encode("image", pixels, training=False)}

    def embed_texts(texts):
        return {"embeddings": encoder.encode("text", model.tokenizer(texts), training=False)}

    def string_spec(name):
        return [tf.TensorSpec((None,), tf.string, name=name)]

    archive = keras.export.ExportArchive()
    archive.track(encoder)
    # Keras also exports the first endpoint as "serving_default".
    archive.add_endpoint("embed_texts", embed_texts, string_spec("texts"))
    archive.add_endpoint("embed_images", embed_images, string_spec("images"))
    archive.write_out(folder, verbose=False)
    return _compare(folder, model)


def _compare(folder, model):
    import tensorflow as tf

    signatures = tf.saved_model.load(folder).signatures
    images, texts = tf.constant(sample_images()), tf.constant(sample_texts())
    actual_images = signatures["embed_images"](images=images)["embeddings"]
    actual_texts = signatures["embed_texts"](texts=texts)["embeddings"]
    differences = {
        "embed_images": max_difference(actual_images, model.embed.embed_images(sample_images())),
        "embed_texts": max_difference(actual_texts, model.embed.embed_texts(sample_texts())),
    }
    assert_close(folder, differences, SAVED_MODEL_TOLERANCE)
    return differences
