"""What exports are compared by."""

import numpy as np

from tf_mural.errors import UserError

# Short and long, several scripts, right to left, an emoji, and nothing at all.
_TEXTS = ["a dog", "ein Hund im Gras", "一只狗", "كلب", "собака " * 90, "🐕", "", "[SEP] [CLS]"]


def sample_texts():
    """A few strings."""
    return list(_TEXTS)


def sample_images(seed=0):
    """A few encoded pictures of different sizes: two JPEGs, a PNG in grey, one with alpha."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    shapes = [(64, 64, 3), (97, 41, 3), (30, 120, 1), (50, 50, 4)]
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    encode = [tf.io.encode_jpeg, tf.io.encode_jpeg, tf.io.encode_png, tf.io.encode_png]
    return [one(array).numpy() for one, array in zip(encode, arrays, strict=True)]


def differences(model, other):
    """{"images" | "texts": largest difference of the embeddings of two `build.Model`s}."""
    pairs = {"images": sample_images(), "texts": sample_texts()}
    return {
        name: float(
            np.abs(getattr(model.embed, name)(items) - getattr(other.embed, name)(items)).max()
        )
        for name, items in pairs.items()
    }


def far_apart(what, differences, tolerance):
    """Raises UserError where an export is not what it was made of.

    Args:
        what: path of the export.
        differences: {name: largest difference of embeddings}.
        tolerance: above which they are too large.
    """
    for name, value in differences.items():
        if not value <= tolerance:
            raise UserError(
                f"{what}: {name} is {value:.2g} away from the model, expected at most "
                f"{tolerance:g}; do not use it"
            )
