import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_mural.base import UserError
from tf_mural.embedder import Embedder


def png(value, size=4):
    """A grey image whose pixels are `value`."""
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def decode(encoded):
    return tf.ensure_shape(tf.io.decode_png(encoded, channels=3), (4, 4, 3))


def turn(value):
    """A point on the circle for each value, not of length 1: the embedder makes it so."""
    angle = tf.cast(value, tf.float32) / 300.0
    return 3.0 * tf.stack([tf.cos(angle), tf.sin(angle)], axis=1)


def on_circle(values):
    angle = np.asarray(values, np.float64).reshape(-1) / 300.0
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def lengths_tokenizer(strings):
    return tf.strings.length(strings)[:, None]  # (n, 1)


class Watched:
    """An encoder that notes the shapes it was called with."""

    def __init__(self, value):
        self.shapes = []
        self.value = value

    def __call__(self, batch):
        self.shapes.append(tuple(batch.shape))
        return turn(self.value(tf.convert_to_tensor(batch)))


def make(batch_size=3, **options):
    images = Watched(lambda pixels: pixels[:, 0, 0, 0])
    texts = Watched(lambda tokens: tokens[:, 0])
    embedder = Embedder(
        images, texts, lengths_tokenizer, decode, width=2, batch_size=batch_size, **options
    )
    return embedder, images, texts


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9])
def test_any_number_of_images_in_order_and_batches_of_one_size(count):
    embedder, encoder, _ = make()
    values = [(37 * i) % 256 for i in range(count)]
    rows = embedder.images(png(value) for value in values)
    assert rows.dtype == np.float32 and rows.shape == (count, 2)
    np.testing.assert_allclose(rows, on_circle(values), atol=1e-6)
    assert encoder.shapes == [(3, 4, 4, 3)] * -(-count // 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9])
def test_any_number_of_texts_in_order_and_batches_of_one_size(count):
    embedder, _, encoder = make()
    values = [(37 * i) % 256 for i in range(count)]
    rows = embedder.texts("x" * value for value in values)
    assert rows.dtype == np.float32 and rows.shape == (count, 2)
    np.testing.assert_allclose(rows, on_circle(values), atol=1e-6)
    assert encoder.shapes == [(3, 1)] * -(-count // 3)


def test_many_images_stay_in_order_when_decoded_in_parallel():
    embedder, _, _ = make(batch_size=16)
    values = np.random.default_rng(0).integers(0, 256, 300)
    # Large and small images take different times to decode.
    embedder._preprocess = lambda encoded: tf.io.decode_png(encoded, channels=3)[:4, :4]
    rows = embedder.images(png(v, 4 if i % 2 else 200) for i, v in enumerate(values))
    np.testing.assert_allclose(rows, on_circle(values), atol=1e-6)


def test_works_with_compiled_encoders_that_trace_once():
    traces = []

    @tf.function
    def encode(tokens):
        traces.append(tokens.shape)
        return turn(tokens[:, 0])

    embedder = Embedder(encode, encode, lengths_tokenizer, decode, width=2, batch_size=4)
    np.testing.assert_allclose(
        embedder.texts(["a", "bb", "", "d", "e"])[1], on_circle(2)[0], atol=1e-6
    )
    embedder.texts(["a"])
    assert traces == [(4, 1)]


def test_a_bad_image_is_named_by_its_position():
    embedder, _, _ = make()
    images = [png(i) for i in range(8)]
    images[5] = images[5][:40]
    with pytest.raises(UserError, match="image at position 5 cannot be read") as refusal:
        embedder.images(images)
    assert refusal.value.position == 5
    assert "(Invalid PNG" in str(refusal.value)
    with pytest.raises(UserError, match="position 0"):
        embedder.images([b""])


def test_an_error_of_the_source_comes_through_as_it_is():
    def source():
        yield png(1)
        raise UserError("shard 3 is cut short")

    with pytest.raises(UserError, match="^shard 3 is cut short$"):
        make()[0].images(source())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_embeddings_that_are_no_direction_are_refused(bad):
    def encode(tokens):
        broken = tf.cast(tokens == 5, tf.float32)
        return tf.where(broken > 0, bad, tf.ones((3, 2)))

    embedder = Embedder(encode, encode, lengths_tokenizer, decode, width=2, batch_size=3)
    assert embedder.texts(["", "a", "b", "c"]).shape == (4, 2)
    with pytest.raises(UserError, match="embeddings of texts: the one at position 4 has length"):
        embedder.texts(["", "a", "b", "c", "xxxxx"])


def test_an_encoder_of_another_width_is_refused():
    embedder = Embedder(turn, lambda t: turn(t[:, 0]), lengths_tokenizer, decode, width=3)
    with pytest.raises(ValueError, match=r"shape \(64, 2\): expected \(64, 3\)"):
        embedder.texts(["a"])


def test_progress_counts_real_rows():
    seen = []
    embedder, _, _ = make(progress=lambda *done: seen.append(done))
    embedder.texts(["a"] * 7)
    embedder.images([png(0)] * 2)
    assert seen == [("texts", 3), ("texts", 6), ("texts", 7), ("images", 2)]
