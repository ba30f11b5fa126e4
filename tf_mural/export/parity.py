"""Sample inputs, and comparisons of an export with the model that was exported."""

import numpy as np

from tf_mural.data import image_ops
from tf_mural.data.image_normalization import normalize
from tf_mural.errors import UserError

HALF_PRECISION_TOLERANCE = 1e-2
# The sample contains short and long texts, several scripts, right-to-left text, an emoji, an empty
# text, and special tokens.
_TEXTS = ["a dog", "ein Hund im Gras", "一只狗", "كلب", "собака " * 90, "🐕", "", "[SEP] [CLS]"]


def sample_texts():
    """Returns texts of different lengths and scripts, a list of strings."""
    return list(_TEXTS)


def sample_images(seed=0):
    """Returns image files as bytes: two JPEGs, a gray PNG and a PNG with an alpha channel."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    shapes = [(64, 64, 3), (97, 41, 3), (30, 120, 1), (50, 50, 4)]
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    encoders = [tf.io.encode_jpeg, tf.io.encode_jpeg, tf.io.encode_png, tf.io.encode_png]
    return [encode(array).numpy() for encode, array in zip(encoders, arrays, strict=True)]


def sample_tower_inputs(model):
    """Returns sample inputs of the towers of each modality.

    Args:
        model: `experiment.Model`.

    Returns:
        {"image": float32 pixels (n, size, size, 3), "text": int32 tokens (n, t)}.
    """
    size = model.preprocessing.crop
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, size, size, 3)).astype(np.float32)
    return {"image": pixels, "text": np.asarray(model.tokenizer(sample_texts()))}


def sample_vectors(encoder, tower):
    """Returns float32 vectors (3, width) for a tower of stored vectors of a `DualEncoder`."""
    width = encoder.towers[tower].input.shape[-1]
    return np.random.default_rng(1).normal(size=(3, width)).astype(np.float32)


def expected_embeddings(model, tower):
    """Returns the embeddings that a tower of a model computes for the sample images or texts.

    Args:
        model: `experiment.Model`.
        tower: name of a tower of `model.encoder`.
    """
    encoder = model.encoder
    modality = encoder.modalities[tower]
    if modality == "vectors":
        return encoder.encode(tower, sample_vectors(encoder, tower), training=False)

    def images():
        background = model.preprocessing.background
        return [normalize(data, background, lossless=True).data for data in sample_images()]

    if tower == encoder.default_tower(modality):
        embed = {"image": model.embed.embed_images, "text": model.embed.embed_texts}[modality]
        return embed({"image": images, "text": sample_texts}[modality]())

    def pixels():
        return np.stack(
            [image_ops.preprocess_for_evaluation(data, model.preprocessing) for data in images()]
        )

    make = {"image": pixels, "text": lambda: model.tokenizer(sample_texts())}
    return encoder.encode(tower, make[modality](), training=False)


def embedding_differences(model, other):
    """Compares the embeddings that two models compute for the sample images and texts.

    Args:
        model: `experiment.Model`.
        other: `experiment.Model`.

    Returns:
        {"images" or "texts": maximum absolute difference between the embeddings of `model` and
        those of `other`}.
    """
    images, texts = sample_images(), sample_texts()
    return {
        "images": max_difference(
            model.embed.embed_images(images), other.embed.embed_images(images)
        ),
        "texts": max_difference(model.embed.embed_texts(texts), other.embed.embed_texts(texts)),
    }


def max_difference(actual, expected):
    """Returns the maximum absolute difference between the values of two arrays, a float."""
    return float(np.abs(np.asarray(actual) - np.asarray(expected)).max())


def exact_tolerance(encoder, tolerance):
    """Returns the maximum allowed difference of an export that keeps the precision of a model.

    A model that computes in half precision gives slightly different embeddings if the texts are
    padded to another length, because the rounding errors differ.

    Args:
        encoder: `models.DualEncoder`.
        tolerance: the maximum allowed difference of a model that computes in float32.
    """
    layers = [layer for tower in encoder.towers.values() for layer in tower.layers]
    is_half = any(layer.compute_dtype in ("bfloat16", "float16") for layer in layers)
    return max(tolerance, HALF_PRECISION_TOLERANCE) if is_half else tolerance


def assert_close(path, differences, tolerance):
    """Checks that the embeddings of an export equal those of the model.

    Args:
        path: path of the export, for the error message.
        differences: {name for the error message: maximum absolute difference between the
            embeddings}.
        tolerance: maximum allowed difference.

    Raises:
        UserError: a difference is larger than the tolerance, or NaN.
    """
    for name, value in differences.items():
        if not value <= tolerance:
            raise UserError(
                f"{path}: {name} differs by {value:.2g} from the model, expected at most "
                f"{tolerance:g}; do not use this export"
            )
