"""Tests encoders around Keras models and KerasHub backbones: pooling, scaling, tokens, errors."""

import keras
import keras_hub
import numpy as np
import pytest
from helpers import encoders
from helpers.small_models import random_images

import tf_mural
from tf_mural.data import KerasHubTokenizer, Preprocessing, Tokenizer
from tf_mural.errors import UserError

IMAGE_BACKBONES = {
    "vit": encoders.vit,
    "efficientnet": encoders.efficientnet_of_keras_hub,
    "sequential": encoders.sequential,
    "functional": encoders.functional_with_rescaling,
    "subclassed": encoders.SubclassedBackbone,
}
TOKENS = np.array([[2, 5, 6, 3, 0, 0], [2, 7, 3, 0, 0, 0]], "int32")


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_BACKBONES)
def test_an_image_encoder_pools_and_projects_the_features_of_its_backbone(name):
    backbone = IMAGE_BACKBONES[name]()
    encoder = tf_mural.ImageEncoder(backbone, dim=20, image_size=encoders.SIZE)
    assert encoder.output.shape == (None, 20) and encoder.image_size == encoders.SIZE
    assert encoder.input.shape == (None, encoders.SIZE, encoders.SIZE, 3)
    encoders.randomize(encoder)
    images = random_images(2)
    scaled = images if name == "functional" else images / 127.5 - 1
    features = np.asarray(backbone(scaled))
    if name == "vit":  # the class token
        features = features[:, 0]
    elif features.ndim == 4:
        features = features.mean(axis=(1, 2))
    kernel, bias = encoder.get_layer("image_projection").get_weights()
    np.testing.assert_allclose(encoder(images), features @ kernel + bias, rtol=1e-4, atol=1e-4)
    projection = tf_mural.ImageEncoder(backbone, dim=None, image_size=encoders.SIZE)
    np.testing.assert_allclose(projection(images), features, rtol=1e-4, atol=1e-4)


def test_the_preprocessing_scales_pixels_and_sets_the_size():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    preprocessing = Preprocessing(40, 28, scale=1 / 255, mean=mean, std=std)
    converter = keras_hub.layers.ImageConverter(
        image_size=(28, 28),
        scale=[1 / 255 / s for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        interpolation="bicubic",
        antialias=True,
    )
    images = random_images(2, size=28)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    for value in (preprocessing, converter):
        backbone = keras.Sequential([keras.layers.Flatten()])
        encoder = tf_mural.ImageEncoder(backbone, dim=None, preprocessing=value)
        assert encoder.image_size == encoder.preprocessing.crop == 28
        np.testing.assert_allclose(encoder(images), expected.reshape(2, -1), atol=1e-5)
    assert encoder.preprocessing.method == "bicubic" and encoder.preprocessing.antialias
    assert keras.ops.shape(converter(images[0])) == (28, 28, 3)


def test_a_sequential_model_states_the_size_of_its_images():
    convolution = keras.layers.Conv2D(4, 3, strides=2)
    encoder = tf_mural.ImageEncoder(keras.Sequential([keras.Input((64, 64, 3)), convolution]), 8)
    assert encoder.input.shape[1:] == (64, 64, 3) and encoder.preprocessing.crop == 64
    assert encoder(np.zeros((2, 64, 64, 3), np.float32)).shape == (2, 8)


def test_a_backbone_without_a_size_takes_images_of_224_pixels():
    encoder = tf_mural.ImageEncoder(encoders.efficientnet_of_keras_hub(), dim=None)
    assert encoder.input.shape[1:] == (224, 224, 3)
    assert (encoder.preprocessing.resize, encoder.preprocessing.crop) == (224, 224)


def test_pixels_that_are_scaled_twice_cause_a_warning():
    backbone = encoders.functional_with_rescaling()
    with pytest.warns(UserWarning, match="contains a layer that scales pixels"):
        tf_mural.ImageEncoder(backbone, preprocessing=Preprocessing(32, 32))
    encoder = tf_mural.ImageEncoder(
        backbone, dim=None, preprocessing=Preprocessing(40, 32, scale=1, mean=0)
    )
    images = random_images(1)
    np.testing.assert_allclose(encoder(images), backbone(images), rtol=1e-6)


def pair_of_outputs():
    x = keras.Input((8, 8, 3))
    return keras.Model(x, {"a": x, "b": x})


@pytest.mark.parametrize(
    "backbone, options, message",
    [
        (encoders.vit, {"image_size": 48}, "the image size is 48, but the backbone .* 32 pixels"),
        (encoders.vit, {"pooling": "mean"}, "unknown pooling 'mean'"),
        (encoders.vit, {"pooling": None}, "pooling is None, but the output .* has the shape"),
        (encoders.vit, {"preprocessing": 3}, "preprocessing is a int, expected"),
        (encoders.vit, {"preprocessing": Preprocessing(50, 40)}, "the image size is 40"),
        (encoders.bert, {}, "expected images"),
        (pair_of_outputs, {}, r"has the outputs \['a', 'b'\]: wrap the one to use"),
    ],
)
def test_an_image_backbone_that_does_not_fit_is_refused(backbone, options, message):
    with pytest.raises(UserError, match=message):
        tf_mural.ImageEncoder(backbone(), **options)


# --- texts ----------------------------------------------------------------------------------------


def test_a_text_encoder_of_a_bert_projects_cls_and_omits_the_pooler():
    backbone = encoders.bert()
    encoder = tf_mural.TextEncoder(backbone, dim=20)
    mask = (TOKENS > 0).astype("int32")
    inputs = {"token_ids": TOKENS, "padding_mask": mask, "segment_ids": 0 * TOKENS}
    hidden = np.asarray(backbone(inputs)["sequence_output"])
    kernel, bias = encoder.get_layer("text_projection").get_weights()
    np.testing.assert_allclose(encoder(TOKENS), hidden[:, 0] @ kernel + bias, atol=1e-5)
    assert encoder.backbone is backbone
    assert not any("pooled_dense" in v.path for v in encoder.variables)
    for pooling, reduce in (("average", np.mean), ("max", np.max)):
        encoder = tf_mural.TextEncoder(backbone, dim=None, pooling=pooling)
        lengths = mask.sum(axis=1)
        expected = [reduce(h[:n], axis=0) for h, n in zip(hidden, lengths, strict=True)]
        np.testing.assert_allclose(encoder(TOKENS), expected, atol=1e-5)


def test_the_padding_of_a_backbone_need_not_be_0():
    encoder = tf_mural.TextEncoder(encoders.xlm_roberta(), dim=8, pad_id=1)
    short = np.array([[0, 5, 6, 2]], "int32")
    padded = np.pad(short, ((0, 0), (0, 3)), constant_values=1)
    np.testing.assert_allclose(encoder(padded), encoder(short), atol=1e-6)
    wrong = tf_mural.TextEncoder(encoder.backbone, dim=None)
    assert np.abs(np.asarray(wrong(padded)) - np.asarray(wrong(short))).max() > 1e-3


def test_texts_are_not_cut_if_the_backbone_sees_the_padding():
    model = tf_mural.DualEncoder(
        text_encoder=tf_mural.TextEncoder(
            encoders.text_convolution(), encoders.bert_tokenizer(), dim=8, max_tokens=12
        )
    )
    tokens = np.asarray(model.tokenizer(encoders.TEXTS))
    assert tokens.shape == (3, 12)
    expected = model.encode("text", tokens)
    np.testing.assert_allclose(model.embed_texts(encoders.TEXTS, 2), expected, atol=1e-6)


def test_a_tokenizer_of_keras_hub_gives_padded_rows():
    tokenizer = KerasHubTokenizer(encoders.bert_tokenizer(), max_tokens=5)
    tokens = tokenizer(["A red DOG cats", "zzz", ""])
    expected = [[2, 9, 5, 6, 3], [2, 1, 3, 0, 0], [2, 3, 0, 0, 0]]
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(tokenizer.has_known_tokens(tokens), [True, False, False])
    assert tokenizer.size == len(encoders.PIECES) and list(tokenizer.vocabulary) == encoders.PIECES
    pieces = Tokenizer(encoders.PIECES, 5, lower_case=True)
    np.testing.assert_array_equal(pieces(["A red DOG cats", "zzz", ""]), expected)


@pytest.mark.parametrize("kind", ["tokenizer", "path", "keras_hub"])
def test_a_text_encoder_takes_each_kind_of_tokenizer(kind, tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join(encoders.PIECES) + "\n")
    tokenizers = {
        "tokenizer": Tokenizer(encoders.PIECES, 10),
        "path": path,
        "keras_hub": encoders.bert_tokenizer(),
    }
    encoder = tf_mural.TextEncoder(encoders.bert(), tokenizer=tokenizers[kind])
    # The BERT has 10 positions.
    assert encoder.max_tokens == encoder.tokenizer.max_tokens == 10 and encoder.pad_id == 0
    np.testing.assert_array_equal(encoder.tokenizer(["red dog"])[0, :5], [2, 5, 6, 3, 0])


def test_a_text_encoder_has_the_number_of_tokens_of_its_tokenizer():
    encoder = tf_mural.TextEncoder(encoders.bert(), tokenizer=Tokenizer(encoders.PIECES, 7))
    assert encoder.max_tokens == encoder.tokenizer.max_tokens == 7


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_tokens": 11}, "max_tokens is 11, but the backbone .* takes at most 10"),
        ({"tokenizer": "missing.txt"}, "missing.txt"),
        ({"tokenizer": 3}, "tokenizer is a int, expected"),
        (
            {"tokenizer": Tokenizer([*encoders.PIECES, "more"], 10)},
            "the tokenizer has 12 tokens, but the backbone .* has 11",
        ),
        (
            {"tokenizer": Tokenizer(encoders.PIECES, 8), "max_tokens": 9},
            "max_tokens is 9, but the tokenizer has max_tokens=8",
        ),
        (
            {"tokenizer": keras_hub.tokenizers.WordPieceTokenizer(["[UNK]", "a"])},
            "the WordPieceTokenizer has no pad_token_id: set pad_id",
        ),
        (
            {"tokenizer": keras_hub.tokenizers.BertTokenizer(encoders.PIECES, sequence_length=8)},
            "the BertTokenizer has sequence_length=8",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        tf_mural.TextEncoder(encoders.bert(), **options)


def test_a_text_backbone_with_other_inputs_is_refused():
    inputs = {name: keras.Input((None,), name=name) for name in ("token_ids", "ages")}
    backbone = keras.Model(inputs, inputs["token_ids"][..., None])
    with pytest.raises(UserError, match=r"has the inputs \['token_ids', 'ages'\]"):
        tf_mural.TextEncoder(backbone)
