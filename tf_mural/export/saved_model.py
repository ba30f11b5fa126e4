"""Exports both towers to a SavedModel that takes image files, pixels and texts."""

import functools
import os

from tf_mural.data import image_ops
from tf_mural.data.image_normalization import parse_color
from tf_mural.export.image_decoding import LIMITS, decode_upright
from tf_mural.export.parity import (
    assert_close,
    exact_tolerance,
    expected_embeddings,
    max_difference,
    sample_images,
    sample_texts,
    sample_vectors,
)
from tf_mural.modalities import MODALITIES
from tf_mural.truncation import truncate

SAVED_MODEL_TOLERANCE = 1e-4
_CARD = """\
# SavedModel with image and text encoders

| signature | input | |
|---|---|---|
| `embed_images` | "images", string (n,) | the bytes of JPEG, PNG, GIF or BMP files of any size |
| `embed_pixels` | "pixels", uint8 (n, h, w, 3) | upright RGB images of one size |
| `embed_texts`, `serving_default` | "texts", string (n,) | UTF-8 |

Each signature returns "embeddings", float32 (n, d), rows of norm 1. Further encoders have
signatures such as `embed_texts_<name>`. In Python, import `tensorflow_text` before the SavedModel
is loaded.

{preprocessing} The orientation in the EXIF data of JPEG and PNG files is applied. PNG files may
have 16 bits per channel.

## What `embed_images` cannot read

{limits}

With `embed_pixels`, any image can be embedded: decode it to upright RGB pixels first.
"""


def export_saved_model(folder, model, dim=None):
    """Writes a SavedModel, loads it again, and compares its embeddings with those of the model.

    The signature `embed_images` takes "images", string (n,): the bytes of PNG, JPEG, GIF or BMP
    files with images of any size. The graph applies the EXIF orientation, composites transparent
    pixels of PNG files, and reads PNG files of 16 bits; `image_decoding.LIMITS` describes its
    limits. The signature `embed_pixels` takes "pixels", uint8 (n, h, w, 3): upright images of any
    size. The signatures `embed_texts` and `serving_default` take "texts", string (n,). A further
    text tower "teacher" has the signature `embed_texts_teacher`. A tower of stored vectors has the
    signature `embed_vectors`, which takes "vectors", float32 (n, width). All signatures return
    {"embeddings": float32 (n, d)}; the embeddings are normalized. The tokenizer uses operations of
    tensorflow-text. TensorFlow Serving contains the operations of tensorflow-text; a Python program
    must import `tensorflow_text` before it loads the SavedModel. The model card README.md describes
    the signatures.

    Args:
        folder: output folder.
        model: `experiment.Model` on the TensorFlow backend.
        dim: size of the exported embeddings, see `truncation.truncate`; None: the whole embeddings.

    Returns:
        {signature: maximum absolute difference between the embeddings of the
        signature and those of `model`}.

    Raises:
        UserError: a difference exceeds `SAVED_MODEL_TOLERANCE`, or `HALF_PRECISION_TOLERANCE` if
            the model computes in half precision.
    """
    import keras
    import tensorflow as tf

    encoder, preprocessing = model.encoder, model.preprocessing
    background = parse_color(preprocessing.background)

    def resize_each(images, decode):
        def preprocess(image):
            return image_ops.preprocess_pixels(decode(image), preprocessing)

        pixels = tf.map_fn(preprocess, images, fn_output_signature=tf.uint8)
        return tf.ensure_shape(pixels, (None, preprocessing.crop, preprocessing.crop, 3))

    def decode_images(encoded):
        return resize_each(encoded, lambda data: decode_upright(data, background))

    def add_endpoint(tower, part, spec, prepare):
        def embed(values):
            embeddings = encoder.encode(tower, prepare(values), training=False)
            return {"embeddings": truncate(embeddings, dim)}

        signature = [tf.TensorSpec(*spec, name=part)]
        archive.add_endpoint(_signature(encoder, tower, part), embed, signature)

    archive = keras.export.ExportArchive()
    archive.track(encoder)
    # Keras also exports the first endpoint as "serving_default".
    for tower in sorted(encoder.towers, key=lambda name: name != encoder.default_tower("text")):
        if encoder.modalities[tower] == "text":
            tokenize = model.tokenizer
            if getattr(encoder.towers[tower], "ignores_padding", True):
                tokenize = functools.partial(_shortest_tokens, model.tokenizer)
            add_endpoint(tower, "texts", ((None,), tf.string), tokenize)
        elif encoder.modalities[tower] == "vectors":
            shape = (None, encoder.towers[tower].input.shape[-1])
            add_endpoint(tower, "vectors", (shape, tf.float32), tf.identity)
        else:
            add_endpoint(tower, "images", ((None,), tf.string), decode_images)
            shape = (None, None, None, 3)
            add_endpoint(tower, "pixels", (shape, tf.uint8), lambda x: resize_each(x, tf.identity))
    archive.write_out(folder, verbose=False)
    differences = _compare(folder, model, dim)
    with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
        file.write(_CARD.format(limits=LIMITS, preprocessing=_describe(preprocessing)))
    return differences


def _shortest_tokens(tokenizer, texts):
    """Tokenizes strings (n,), and removes the columns that are padding in all rows.

    A batch of short texts then takes a fraction of the time of rows of the full length.
    """
    import tensorflow as tf

    tokens = tokenizer(texts)
    is_used = tf.reduce_any(tokens != tokenizer.pad_id, axis=0)
    last = tf.reduce_max(tf.where(is_used, tf.range(tf.shape(tokens)[1]), 0))
    # CLIP pads rows with the token at the end of the text, and reads the first of these tokens.
    num_end = int(tokenizer.pad_id in getattr(tokenizer, "end", ()))
    return tokens[:, : last + 1 + num_end]


def _describe(preprocessing):
    antialias = "with" if preprocessing.antialias else "without"
    size = f"{preprocessing.resize} x {preprocessing.resize} pixels"
    if preprocessing.keep_aspect_ratio:
        size = f"{preprocessing.resize} pixels at their shorter side"
    return (
        f"Images are resized to {size} ({preprocessing.method}, {antialias} antialiasing), and the "
        f"central {preprocessing.crop} x {preprocessing.crop} pixels are used. Transparent pixels "
        f"of PNG files get the color {preprocessing.background}."
    )


def _signature(encoder, tower, part):
    """Returns the name of the signature of a tower for an input, such as "embed_texts"."""
    is_default = tower == encoder.default_tower(encoder.modalities[tower])
    return f"embed_{part}" if is_default else f"embed_{part}_{tower}"


def _compare(folder, model, dim):
    import tensorflow as tf

    signatures = tf.saved_model.load(folder).signatures
    images, texts = tf.constant(sample_images()), tf.constant(sample_texts())
    encoder, differences = model.encoder, {}
    for tower, modality in encoder.modalities.items():
        part = MODALITIES[modality].part
        name = _signature(encoder, tower, part)
        samples = {"images": images, "texts": texts}.get(part)
        if samples is None:
            samples = tf.constant(sample_vectors(encoder, tower))
        actual = signatures[name](**{part: samples})["embeddings"]
        expected = truncate(expected_embeddings(model, tower), dim)
        differences[name] = max_difference(actual, expected)
    assert_close(folder, differences, exact_tolerance(encoder, SAVED_MODEL_TOLERANCE))
    return differences
