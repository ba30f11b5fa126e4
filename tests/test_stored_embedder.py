"""Evaluation with the features that the records contain."""

import types

import numpy as np
import pytest
from helpers import small_models

from tf_mural import models
from tf_mural.data import Preprocessing, records
from tf_mural.data.records import Record, RecordSet, describe_vectors
from tf_mural.evaluation.batch_embedder import BadImage, BadItem
from tf_mural.experiment import stored_vectors
from tf_mural.experiment.extractor import make_extractor
from tf_mural.experiment.stored_embedder import StoredEmbedder

TEXTS = ("a", "b", "c")


class Recorder:
    """An embedder that returns unit rows of 1 / sqrt(8), and records the items it embeds."""

    def __init__(self):
        self.items = []

    def embed(self, items):
        """Returns a row per item; the item "bad" cannot be embedded."""
        items = list(items)
        self.items += items
        if b"bad" in items:
            raise BadImage(items.index(b"bad"), "not an image")
        return np.full((len(items), 8), 8**-0.5, np.float32)

    embed_images = embed_texts = embed


@pytest.fixture(scope="module")
def encoder():
    """A dual encoder whose two towers read stored features."""
    encoder = models.DualEncoder(
        models.image_tower(**small_models.TINY_IMAGE, embedding_dim=8),
        models.text_tower(**small_models.NANO_TEXT, embedding_dim=8),
        adapt={"image": "last:0", "text": "last:0"},
    )
    encoder.use_stored_features({"image": "pixels", "text": "words"})
    return encoder


@pytest.fixture(scope="module")
def stored(encoder, tmp_path_factory):
    """(record set, features of the images, features of the texts)."""
    folder, random = tmp_path_factory.mktemp("stored") / "val", np.random.default_rng(0)
    widths = {k: encoder.stored.projections[k].input.shape[-1] for k in ("image", "text")}
    pixels = random.normal(size=(3, widths["image"])).astype("float32")
    words = random.normal(size=(3, widths["text"])).astype("float32")
    made = [
        Record(
            str(i),
            (bytes([i]),),
            (("en", TEXTS[i]), ("de", "the same")),
            vectors={"pixels": pixels[i : i + 1], "words": words[[i, 0]]},
        )
        for i in range(3)
    ]
    described = {
        "pixels": describe_vectors("images", widths["image"], "float32"),
        "words": describe_vectors("texts", widths["text"], "float32"),
    }
    records.write(folder, made, vectors=described)
    return RecordSet.open(folder), pixels, words


def make(encoder, record_set, features=None):
    recorder = Recorder()
    features = features or {"image": "pixels", "text": "words"}
    return StoredEmbedder(recorder, encoder, features, [record_set]), recorder


def expected_rows(encoder, tower, features):
    kernel, bias = (np.asarray(v) for v in encoder.stored.projections[tower].weights)
    rows = features @ kernel + bias
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_stored_features_are_projected_and_other_items_are_embedded(encoder, stored):
    record_set, pixels, words = stored
    embedder, recorder = make(encoder, record_set)
    texts = embedder.embed_texts(iter(["c", "new", "a", "the same", "c"]))
    expected = expected_rows(encoder, "text", words[[2, 0, 0, 2]])
    np.testing.assert_allclose(texts[[0, 2, 3, 4]], expected, atol=1e-6)
    assert recorder.items == ["new"] and (texts[1] == np.float32(8**-0.5)).all()
    images = embedder.embed_images(bytes([i]) for i in (1, 0))
    np.testing.assert_allclose(images, expected_rows(encoder, "image", pixels[[1, 0]]), atol=1e-6)
    assert recorder.items == ["new"]


def test_more_rows_than_a_batch_are_projected_with_the_current_weights(
    encoder, stored, monkeypatch
):
    monkeypatch.setattr("tf_mural.experiment.stored_embedder._BATCH_SIZE", 2)
    record_set, pixels, _ = stored
    embedder, _ = make(encoder, record_set)
    embedder.embed_images([bytes([0])])
    kernel = encoder.stored.projections["image"].weights[0]
    kernel.assign(np.asarray(kernel) * np.linspace(-1, 2, 8))
    images = embedder.embed_images(bytes([i]) for i in (2, 1, 0, 1, 2))
    expected = expected_rows(encoder, "image", pixels[[2, 1, 0, 1, 2]])
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_vectors_of_other_items_are_not_used(encoder, stored):
    embedder, recorder = make(encoder, stored[0], {"text": "pixels"})
    embedder.embed_texts(["a"])
    embedder.embed_images([b"\0"])
    assert recorder.items == ["a", b"\0"]


def test_errors_name_the_position_of_the_item(encoder, stored):
    embedder, _ = make(encoder, stored[0])
    with pytest.raises(BadImage) as raised:
        embedder.embed_images([b"\1", b"x", b"\0", b"bad"])
    assert raised.value.position == 3
    bias = encoder.stored.projections["text"].weights[1]
    before = np.asarray(bias)
    bias.assign(np.full(8, np.nan))
    with pytest.raises(BadItem, match="the one at position 1 has length nan"):
        embedder.embed_texts(["new", "b"])
    bias.assign(before)


@pytest.mark.parametrize("same_tower", [True, False])
def test_an_extraction_computes_embeddings_from_the_features_of_its_tower(
    encoder, stored, tmp_path, same_tower
):
    _, pixels, _ = stored
    preprocessing = Preprocessing(resize=64, crop=64)
    features = encoder.towers["image"].split()[0]
    fingerprint = stored_vectors.tower_fingerprint("image", features, None, preprocessing)
    model = {"name": "m", "fingerprint": fingerprint if same_tower else "another"}
    description = describe_vectors("images", pixels.shape[1], "float32", model)
    made = [Record(str(i), (b"no image",), vectors={"x": pixels[[i]]}) for i in range(3)]
    records.write(tmp_path / "val", made, vectors={"x": description})
    sets = [RecordSet.open(tmp_path / "val")]
    embedder = types.SimpleNamespace(model=encoder, preprocessing=preprocessing)
    extractor = make_extractor(embedder, "m", "y", "images", dtype="float32", sets=sets)
    if not same_tower:
        with pytest.raises(BadImage):
            extractor.embed([b"no image"])
        return
    assert extractor.options["stored_features"] == "x"
    # The features are found by the contents of the image, which is that of the first record.
    rows = extractor.embed([b"no image"])
    kernel, bias = (np.asarray(v) for v in encoder.stored.projections["image"].weights)
    np.testing.assert_allclose(rows, pixels[:1] @ kernel + bias, atol=1e-5)
    # The features themselves come from the images.
    plain = make_extractor(embedder, "m", "y", "images", features=True, sets=sets)
    assert "stored_features" not in plain.options
