"""Exports both towers to a SavedModel that takes image files (PNG, JPEG, GIF, BMP) and texts."""

import functools

from tf_mural.data import image_ops
from tf_mural.export.parity import (
    assert_close,
    exact_tolerance,
    expected_embeddings,
    max_difference,
    sample_images,
    sample_texts,
)
from tf_mural.modalities import MODALITIES

SAVED_MODEL_TOLERANCE = 1e-4


def export_saved_model(folder, model):
    """Writes a SavedModel, loads it again, and compares its embeddings with those of the model.

    The signature `embed_images` takes "images", string (n,): the bytes of PNG, JPEG, GIF or BMP
    files with images of any size. The signatures `embed_texts` and `serving_default` take "texts",
    string (n,). A further text tower "teacher" has the signature `embed_texts_teacher`. All
    signatures return {"embeddings": float32 (n, d)}; the embeddings are normalized. The tokenizer
    uses operations of tensorflow-text. TensorFlow Serving contains the operations of
    tensorflow-text; a Python program must import `tensorflow_text` before it loads the SavedModel.

    Args:
        folder: output folder.
        model: `experiment.Model` on the TensorFlow backend.

    Returns:
        {signature: maximum absolute difference between the embeddings of the
        signature and those of `model`}.

    Raises:
        UserError: a difference exceeds `SAVED_MODEL_TOLERANCE`, or `HALF_PRECISION_TOLERANCE` if
            the model computes in half precision.
    """
    import keras
    import tensorflow as tf

    encoder, sizes = model.encoder, model.sizes
    preprocess = functools.partial(
        image_ops.preprocess_for_evaluation, resize_to=sizes["resize"], size=sizes["crop"]
    )

    def decode_images(encoded):
        pixels = tf.map_fn(preprocess, encoded, fn_output_signature=tf.uint8)
        return tf.ensure_shape(pixels, (None, sizes["crop"], sizes["crop"], 3))

    inputs = {"text": model.tokenizer, "image": decode_images}

    def add_endpoint(archive, tower, modality):
        def embed(strings):
            return {"embeddings": encoder.encode(tower, inputs[modality](strings), training=False)}

        part = MODALITIES[modality].part
        spec = [tf.TensorSpec((None,), tf.string, name=part)]
        archive.add_endpoint(_signature(encoder, tower), embed, spec)

    archive = keras.export.ExportArchive()
    archive.track(encoder)
    # Keras also exports the first endpoint as "serving_default".
    for tower in sorted(encoder.towers, key=lambda name: name != encoder.default_tower("text")):
        add_endpoint(archive, tower, encoder.modalities[tower])
    archive.write_out(folder, verbose=False)
    return _compare(folder, model)


def _signature(encoder, tower):
    """Returns the name of the signature of a tower, such as "embed_texts"."""
    modality = encoder.modalities[tower]
    name = f"embed_{MODALITIES[modality].part}"
    return name if tower == encoder.default_tower(modality) else f"{name}_{tower}"


def _compare(folder, model):
    import tensorflow as tf

    signatures = tf.saved_model.load(folder).signatures
    images, texts = tf.constant(sample_images()), tf.constant(sample_texts())
    encoder, differences = model.encoder, {}
    for tower, modality in encoder.modalities.items():
        name, part = _signature(encoder, tower), MODALITIES[modality].part
        actual = signatures[name](**{part: {"images": images, "texts": texts}[part]})["embeddings"]
        differences[name] = max_difference(actual, expected_embeddings(model, tower))
    assert_close(folder, differences, exact_tolerance(encoder, SAVED_MODEL_TOLERANCE))
    return differences
