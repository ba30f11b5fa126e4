"""`BatchEmbedder`: order, static shapes, decoding and errors."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.images import gray_image

from tf_mural.errors import UserError
from tf_mural.evaluation import batch_embedder
from tf_mural.evaluation.batch_embedder import BatchEmbedder


def decode(encoded):
    return tf.ensure_shape(tf.io.decode_png(encoded, channels=3), (4, 4, 3))


def encode_value(value):
    """Encodes each value as a vector of length 3, which the embedder must normalize to length 1."""
    angle = tf.cast(value, tf.float32) / 300.0
    return 3.0 * tf.stack([tf.cos(angle), tf.sin(angle)], axis=1)


def expected_rows(values):
    angle = np.asarray(values, np.float64).reshape(-1) / 300.0
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def length_tokenizer(strings):
    return tf.strings.length(strings)[:, None]  # (n, 1)


class RecordingEncoder:
    """Encodes one value of each item of a batch, and records the shape of each batch."""

    def __init__(self, value_fn):
        self.shapes = []
        self.value_fn = value_fn

    def __call__(self, batch):
        self.shapes.append(tuple(batch.shape))
        return encode_value(self.value_fn(tf.convert_to_tensor(batch)))


def make_embedder(batch_size=3, **options):
    images = RecordingEncoder(lambda pixels: pixels[:, 0, 0, 0])
    texts = RecordingEncoder(lambda tokens: tokens[:, 0])
    embedder = BatchEmbedder(
        images, texts, length_tokenizer, decode, width=2, batch_size=batch_size, **options
    )
    return embedder, images, texts


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9])
def test_images_are_embedded_in_order_in_batches_of_one_size(count):
    embedder, encoder, _ = make_embedder()
    values = [(37 * i) % 256 for i in range(count)]
    rows = embedder.embed_images(gray_image(value) for value in values)
    assert rows.dtype == np.float32 and rows.shape == (count, 2)
    np.testing.assert_allclose(rows, expected_rows(values), atol=1e-6)
    assert encoder.shapes == [(3, 4, 4, 3)] * -(-count // 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9])
def test_texts_are_embedded_in_order_in_batches_of_one_size(count):
    embedder, _, encoder = make_embedder()
    values = [(37 * i) % 256 for i in range(count)]
    rows = embedder.embed_texts("x" * value for value in values)
    assert rows.dtype == np.float32 and rows.shape == (count, 2)
    np.testing.assert_allclose(rows, expected_rows(values), atol=1e-6)
    assert encoder.shapes == [(3, 1)] * -(-count // 3)


@pytest.mark.parametrize(
    "count, sizes", [(0, []), (1, [1]), (3, [4]), (5, [6]), (6, [6]), (8, [6, 6])]
)
def test_an_input_of_few_items_is_embedded_in_a_small_batch(count, sizes):
    embedder, images, texts = make_embedder(batch_size=6)
    embedder.small_batches = (1, 4, 8)
    values = [10 + i for i in range(count)]
    expected = expected_rows(values)
    for rows in (
        embedder.embed_images(gray_image(value) for value in values),
        embedder.embed_texts("x" * value for value in values),
    ):
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert [n for n, *_ in images.shapes] == [n for n, *_ in texts.shapes] == sizes


class CharacterTokenizer:
    """Makes one token per character, and pads rows of tokens to the length `width` with 0.

    Attributes:
        num_texts: list with the number of texts of each call.
    """

    pad_id = 0

    def __init__(self, width=64):
        self.width = width
        self.num_texts = []

    def __call__(self, strings):
        self.num_texts.append(len(strings))
        tokens = np.zeros((len(strings), self.width), np.int32)
        for row, text in zip(tokens, strings.numpy(), strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)[: self.width]
        return tf.constant(tokens)


def make_token_encoder(shapes):
    """Returns an encoder that ignores padding and appends the shape of each batch to `shapes`."""

    def encode(tokens):
        shapes.append(tokens.shape)
        tokens = np.asarray(tokens, np.float64)
        positions = np.arange(1, tokens.shape[1] + 1)
        x, y = (tokens * np.sin(positions)).sum(1), (tokens * np.cos(positions)).sum(1)
        return np.stack([x, y], 1)

    return encode


def random_texts(lengths):
    random = np.random.default_rng(0)
    return ["".join(map(chr, random.integers(97, 123, length))) for length in lengths]


@pytest.mark.parametrize("count", [0, 1, 5, 23, 500, 1001])
def test_cutting_token_rows_does_not_change_the_embeddings(count, monkeypatch):
    monkeypatch.setattr(batch_embedder, "_WINDOW_BATCHES", 20)
    texts = random_texts(np.random.default_rng(1).integers(0, 80, count))
    rows, shapes = {}, {}
    for lengths in (batch_embedder.TEXT_LENGTHS, ()):
        shapes[lengths] = []
        encode = make_token_encoder(shapes[lengths])
        embedder = BatchEmbedder(
            encode,
            encode,
            CharacterTokenizer(),
            decode,
            width=2,
            batch_size=5,
            text_lengths=lengths,
        )
        rows[lengths] = embedder.embed_texts(iter([text or "." for text in texts]))
    cut_rows, full_rows = rows.values()
    assert cut_rows.shape == full_rows.shape == (count, 2)
    np.testing.assert_allclose(cut_rows, full_rows, atol=1e-6)
    # Shortening the padding does not change the number of batches or the texts per batch. The
    # lengths of shortened batches are in `TEXT_LENGTHS`.
    cut_shapes, full_shapes = shapes.values()
    assert len(cut_shapes) == len(full_shapes) == -(-count // 5)
    assert set(full_shapes) <= {(5, 64)}
    assert set(cut_shapes) <= {(5, length) for length in batch_embedder.TEXT_LENGTHS}
    if count >= 500:
        assert {length for _, length in cut_shapes} == set(batch_embedder.TEXT_LENGTHS)
        assert sum(length for _, length in cut_shapes) < 0.8 * 64 * len(cut_shapes)


def test_each_batch_is_cut_to_the_shortest_length_that_fits():
    shapes = []
    embedder = BatchEmbedder(
        *[make_token_encoder(shapes)] * 2,
        CharacterTokenizer(20),
        decode,
        width=2,
        batch_size=2,
        text_lengths=(4, 8),
    )
    embedder.embed_texts(random_texts([3, 9, 4, 5, 8, 1, 20]))
    # The sorted lengths form the batches (1, 3), (4, 5), (8, 9) and (20,). A batch with a text that
    # is longer than all `text_lengths` keeps the full length of 20 tokens.
    assert shapes == [(2, 4), (2, 8), (2, 20), (2, 20)]


def test_padding_inside_a_row_and_an_empty_row_are_not_cut():
    class FixedTokenizer(CharacterTokenizer):
        def __call__(self, strings):
            return tf.constant([[7, 0, 9, 0, 0, 0], [0] * 6])

    shapes = []
    embedder = BatchEmbedder(
        *[make_token_encoder(shapes)] * 2,
        FixedTokenizer(),
        decode,
        width=2,
        batch_size=1,
        text_lengths=(2, 3),
    )
    with pytest.raises(UserError, match="the one at position 1 has length 0.0"):
        embedder.embed_texts(["a", "b"])
    assert shapes == [(1, 3), (1, 6)]


def test_texts_are_read_one_window_at_a_time(monkeypatch):
    monkeypatch.setattr(batch_embedder, "_WINDOW_BATCHES", 4)
    num_read, ahead = [0], []

    def source():
        for text in random_texts([3] * 1000):
            num_read[0] += 1
            yield text

    tokenizer = CharacterTokenizer()
    embedder = BatchEmbedder(
        *[make_token_encoder([])] * 2,
        tokenizer,
        decode,
        width=2,
        batch_size=10,
        progress=lambda _, done: ahead.append(num_read[0] - done),
    )
    assert embedder.embed_texts(source()).shape == (1000, 2)
    assert tokenizer.num_texts == [40] * 25
    assert max(ahead) <= 40 + 30  # a window of 40 texts, and three unfinished batches of 10


def test_a_bad_embedding_is_named_by_the_position_of_its_text():
    texts = random_texts([9, 40, 3, 20, 6, 30, 5])
    bad = ord(texts[3][0]), ord(texts[3][1])

    def encode(tokens):
        rows = np.ones((len(tokens), 2))
        rows[(tokens[:, 0] == bad[0]) & (tokens[:, 1] == bad[1])] = np.nan
        return rows

    embedder = BatchEmbedder(encode, encode, CharacterTokenizer(), decode, width=2, batch_size=2)
    with pytest.raises(UserError, match="texts: the one at position 3 has length nan") as error:
        embedder.embed_texts(texts)
    assert error.value.position == 3


def test_batches_are_dispatched_before_earlier_results_are_awaited():
    events = []

    class PendingResult:
        def __init__(self, number):
            self.number = number

        def __array__(self, dtype=None, copy=None):
            events.append(f"awaited {self.number}")
            return np.ones((1, 2), np.float32)

    def encode(batch):
        events.append(f"started {len([e for e in events if e[0] == 's'])}")
        return PendingResult(len([e for e in events if e[0] == "s"]) - 1)

    embedder = BatchEmbedder(encode, encode, CharacterTokenizer(), decode, width=2, batch_size=1)
    assert embedder.embed_texts("abcd").shape == (4, 2)
    assert events == [
        *("started 0", "started 1", "started 2", "awaited 0", "started 3", "awaited 1"),
        *("awaited 2", "awaited 3"),
    ]


def test_a_text_tower_gives_the_same_rows_for_cut_tokens():
    from tf_mural import experiment, models
    from tf_mural.data.preprocessing import Preprocessing
    from tf_mural.data.tokenizers import SPECIAL_TOKENS, Tokenizer

    tokenizer = Tokenizer([*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz"], max_tokens=64)
    encoder = models.dual_encoder(
        {"backbone": "tiny", "image_size": 32},
        {"backbone": "nano", "vocabulary_size": tokenizer.size},
        16,
    )
    embedder = experiment.batch_embedder(encoder, tokenizer, Preprocessing(32, 32), batch_size=8)
    texts = [" ".join(text) for text in random_texts(np.random.default_rng(1).integers(1, 90, 100))]
    tokens = tokenizer(tf.constant(texts)).numpy()
    assert (tokens[:, -1] != 0).any() and (tokens[:, 12] == 0).any()
    expected = np.asarray(encoder.encode("text", tokens))
    np.testing.assert_allclose(embedder.embed_texts(texts), expected, atol=1e-5)


def test_many_images_stay_in_order_when_decoded_in_parallel():
    embedder, _, _ = make_embedder(batch_size=16)
    values = np.random.default_rng(0).integers(0, 256, 300)
    # Large and small images take different times to decode.
    embedder._preprocess = lambda encoded: tf.io.decode_png(encoded, channels=3)[:4, :4]
    rows = embedder.embed_images(gray_image(v, 4 if i % 2 else 200) for i, v in enumerate(values))
    np.testing.assert_allclose(rows, expected_rows(values), atol=1e-6)


def test_compiled_encoders_are_traced_once():
    traces = []

    @tf.function
    def encode(tokens):
        traces.append(tokens.shape)
        return encode_value(tokens[:, 0])

    embedder = BatchEmbedder(encode, encode, length_tokenizer, decode, width=2, batch_size=4)
    np.testing.assert_allclose(
        embedder.embed_texts(["a", "bb", "", "d", "e"])[1], expected_rows(2)[0], atol=1e-6
    )
    embedder.embed_texts(["a"])
    assert traces == [(4, 1)]


def test_a_bad_image_is_named_by_its_position():
    embedder, _, _ = make_embedder()
    images = [gray_image(i) for i in range(8)]
    images[5] = images[5][:40]
    with pytest.raises(UserError, match="image at position 5 cannot be read") as error:
        embedder.embed_images(images)
    assert error.value.position == 5
    assert "(Invalid PNG" in str(error.value)
    with pytest.raises(UserError, match="position 0"):
        embedder.embed_images([b""])


def test_an_error_of_the_source_is_raised_unchanged():
    def source():
        yield gray_image(1)
        raise UserError("shard 3 is cut short")

    with pytest.raises(UserError, match="^shard 3 is cut short$"):
        make_embedder()[0].embed_images(source())


def test_a_bad_image_before_an_error_of_the_source_is_raised_first():
    def source():
        yield from (gray_image(1), b"", gray_image(2))
        raise UserError("shard 3 is cut short")

    for _ in range(5):  # several attempts, because the number of items read ahead varies
        with pytest.raises(UserError, match="position 1"):
            make_embedder()[0].embed_images(source())


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_embeddings_without_a_direction_are_rejected(value):
    def encode(tokens):
        is_bad = tf.cast(tokens == 5, tf.float32)
        return tf.where(is_bad > 0, value, tf.ones((3, 2)))

    embedder = BatchEmbedder(encode, encode, length_tokenizer, decode, width=2, batch_size=3)
    assert embedder.embed_texts(["", "a", "b", "c"]).shape == (4, 2)
    with pytest.raises(UserError, match="embeddings of texts: the one at position 4 has length"):
        embedder.embed_texts(["", "a", "b", "c", "xxxxx"])


def test_an_encoder_of_another_width_is_rejected():
    embedder = BatchEmbedder(
        encode_value, lambda t: encode_value(t[:, 0]), length_tokenizer, decode, width=3
    )
    with pytest.raises(ValueError, match=r"shape \(64, 2\): expected \(64, 3\)"):
        embedder.embed_texts(["a"])


def test_progress_does_not_count_padding():
    calls = []
    embedder, _, _ = make_embedder(progress=lambda *call: calls.append(call))
    embedder.embed_texts(["a"] * 7)
    embedder.embed_images([gray_image(0)] * 2)
    assert calls == [("texts", 3), ("texts", 6), ("texts", 7), ("images", 2)]


def test_rows_keep_the_token_at_the_end_that_also_pads():
    class Tokenizer:
        """Gives 1, a number of pieces 5, and the token 2 at the end, which also pads."""

        pad_id, end = 2, (2,)

        def __call__(self, strings):
            lengths = tf.strings.to_number(strings, tf.int32)
            columns = tf.range(8)[None]
            rows = tf.where(columns <= lengths[:, None], 5, 2)
            return tf.where(columns == 0, 1, rows)

    batches = []

    def encode(tokens):
        batches.append(np.asarray(tokens))
        return encode_value(tf.reduce_sum(tf.cast(tokens == 5, tf.float32), axis=1))

    embedder = BatchEmbedder(
        None, encode, Tokenizer(), None, width=2, batch_size=2, text_lengths=(2, 4, 6)
    )
    embedder.embed_texts(["3", "2", "5", "7"])
    assert [batch.shape[1] for batch in batches] == [6, 8]  # of 2 and 3, and of 5 and 7 pieces
    assert (batches[0] == 2).any(axis=1).all()
