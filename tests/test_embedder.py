import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_mural.errors import UserError
from tf_mural.evaluation import batch_embedder as embedder_module
from tf_mural.evaluation.batch_embedder import Embedder


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


class Padding:
    """A token a character, padded to `width` with 0 at the end; notes how many texts it gets."""

    pad_id = 0

    def __init__(self, width=64):
        self.width = width
        self.seen = []

    def __call__(self, strings):
        self.seen.append(len(strings))
        tokens = np.zeros((len(strings), self.width), np.int32)
        for row, text in zip(tokens, strings.numpy(), strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)[: self.width]
        return tf.constant(tokens)


def by_tokens(shapes):
    """An encoder of all tokens of a row, in which padding counts nothing."""

    def encode(tokens):
        shapes.append(tokens.shape)
        tokens = np.asarray(tokens, np.float64)
        places = np.arange(1, tokens.shape[1] + 1)
        return np.stack([(tokens * np.sin(places)).sum(1), (tokens * np.cos(places)).sum(1)], 1)

    return encode


def texts_of(lengths):
    random = np.random.default_rng(0)
    return ["".join(map(chr, random.integers(97, 123, length))) for length in lengths]


@pytest.mark.parametrize("count", [0, 1, 5, 23, 500, 1001])
def test_texts_cut_to_their_length_give_the_same_rows_in_order(count, monkeypatch):
    monkeypatch.setattr(embedder_module, "_WINDOW", 20)
    texts = texts_of(np.random.default_rng(1).integers(0, 80, count))
    rows, shapes = {}, {}
    for lengths in (embedder_module.TEXT_LENGTHS, ()):
        shapes[lengths] = []
        encode = by_tokens(shapes[lengths])
        embedder = Embedder(
            encode, encode, Padding(), decode, width=2, batch_size=5, text_lengths=lengths
        )
        rows[lengths] = embedder.texts(iter([text or "." for text in texts]))
    cut, whole = rows.values()
    assert cut.shape == whole.shape == (count, 2)
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    # Batches of one size still, as many as before, of the few widths.
    few, one = shapes.values()
    assert len(few) == len(one) == -(-count // 5) and set(one) <= {(5, 64)}
    assert set(few) <= {(5, length) for length in embedder_module.TEXT_LENGTHS}
    if count >= 500:
        assert {length for _, length in few} == set(embedder_module.TEXT_LENGTHS)
        assert sum(length for _, length in few) < 0.8 * 64 * len(few)


def test_each_batch_is_cut_to_the_shortest_length_that_holds_it():
    shapes = []
    embedder = Embedder(
        *[by_tokens(shapes)] * 2, Padding(20), decode, width=2, batch_size=2, text_lengths=(4, 8)
    )
    embedder.texts(texts_of([3, 9, 4, 5, 8, 1, 20]))
    # Sorted: 1 3 | 4 5 | 8 9 | 20. What no length holds keeps its own.
    assert shapes == [(2, 4), (2, 8), (2, 20), (2, 20)]


def test_padding_inside_a_row_is_not_cut_and_an_empty_row_neither():
    class Rows(Padding):
        def __call__(self, strings):
            return tf.constant([[7, 0, 9, 0, 0, 0], [0] * 6])

    shapes = []
    embedder = Embedder(
        *[by_tokens(shapes)] * 2, Rows(), decode, width=2, batch_size=1, text_lengths=(2, 3)
    )
    with pytest.raises(UserError, match="the one at position 1 has length 0.0"):
        embedder.texts(["a", "b"])
    assert shapes == [(1, 3), (1, 6)]


def test_texts_are_read_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr(embedder_module, "_WINDOW", 4)
    read, ahead = [0], []

    def source():
        for text in texts_of([3] * 1000):
            read[0] += 1
            yield text

    tokenizer = Padding()
    embedder = Embedder(
        *[by_tokens([])] * 2,
        tokenizer,
        decode,
        width=2,
        batch_size=10,
        progress=lambda _, done: ahead.append(read[0] - done),
    )
    assert embedder.texts(source()).shape == (1000, 2)
    assert tokenizer.seen == [40] * 25
    assert max(ahead) <= 40 + 30  # a window, and the batches that may still be running


def test_a_bad_embedding_says_its_position_in_what_was_handed_in():
    texts = texts_of([9, 40, 3, 20, 6, 30, 5])
    bad = ord(texts[3][0]), ord(texts[3][1])

    def encode(tokens):
        rows = np.ones((len(tokens), 2))
        rows[(tokens[:, 0] == bad[0]) & (tokens[:, 1] == bad[1])] = np.nan
        return rows

    embedder = Embedder(encode, encode, Padding(), decode, width=2, batch_size=2)
    with pytest.raises(UserError, match="texts: the one at position 3 has length nan") as refusal:
        embedder.texts(texts)
    assert refusal.value.position == 3


def test_batches_are_handed_over_before_the_last_ones_are_waited_for():
    events = []

    class Running:
        def __init__(self, number):
            self.number = number

        def __array__(self, dtype=None, copy=None):
            events.append(f"waited {self.number}")
            return np.ones((1, 2), np.float32)

    def encode(batch):
        events.append(f"began {len([e for e in events if e[0] == 'b'])}")
        return Running(len([e for e in events if e[0] == "b"]) - 1)

    embedder = Embedder(encode, encode, Padding(), decode, width=2, batch_size=1)
    assert embedder.texts("abcd").shape == (4, 2)
    assert events == [
        *("began 0", "began 1", "began 2", "waited 0", "began 3", "waited 1"),
        *("waited 2", "waited 3"),
    ]


def test_a_real_tower_gives_the_same_rows_whatever_the_length():
    from tf_mural import experiment, models
    from tf_mural.data.tokenizers import Tokenizer
    from tf_mural.data.vocabulary import SPECIAL_TOKENS

    tokenizer = Tokenizer([*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz"], max_tokens=64)
    encoder = models.dual_encoder(
        {"name": "tiny", "image_size": 32},
        {"name": "nano", "vocabulary_size": tokenizer.size},
        16,
    )
    cut = experiment.embedder(encoder, tokenizer, {"resize": 32, "crop": 32}, batch_size=8)
    texts = [" ".join(text) for text in texts_of(np.random.default_rng(1).integers(1, 90, 100))]
    tokens = tokenizer(tf.constant(texts)).numpy()
    assert (tokens[:, -1] != 0).any() and (tokens[:, 12] == 0).any()
    whole = np.asarray(encoder.encode("text", tokens))
    np.testing.assert_allclose(cut.texts(texts), whole, atol=1e-5)


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


def test_an_error_of_the_source_waits_for_the_images_before_it():
    def source():
        yield from (png(1), b"", png(2))
        raise UserError("shard 3 is cut short")

    for _ in range(5):  # it is read ahead, as far as threads get
        with pytest.raises(UserError, match="position 1"):
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
