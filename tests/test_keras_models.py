"""Tests dual encoders as Keras models: prediction, saving and loading, presets, optimizers."""

import inspect
import os
import pkgutil
import re
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from conftest import ROOT
from helpers import encoders
from helpers.backends import backend_environment
from helpers.small_models import NANO_TEXT, TINY_IMAGE, TOKENS, random_images
from PIL import Image

import tf_mural
from tf_mural import models, optimizers, registration
from tf_mural.data import Preprocessing, Tokenizer
from tf_mural.errors import UserError
from tf_mural.export import presets

IMAGES = [np.full((40, 50, 3), 200, "uint8"), np.eye(64, dtype="uint8")[..., None] * 255]


def wrapped(image=encoders.vit, text=encoders.bert, **options):
    """Returns a dual encoder with random weights around two backbones."""
    tokenizer = Tokenizer(encoders.PIECES, 10, lower_case=True)
    model = tf_mural.DualEncoder(
        image_encoder=tf_mural.ImageEncoder(image(), 16, image_size=encoders.SIZE),
        text_encoder=tf_mural.TextEncoder(text(), tokenizer, 16),
        **options,
    )
    encoders.randomize(model)
    return model


def paper(**options):
    """Returns a dual encoder with the towers of the paper and random weights."""
    model = models.dual_encoder(
        {**TINY_IMAGE, "scale": 1 / 255, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        {**NANO_TEXT, "activation": "gelu"},
        16,
        **options,
    )
    encoders.randomize(model)
    return model


def inputs_of(model):
    parts = {"image": random_images(2), "text": TOKENS}
    return {tower: parts[modality] for tower, modality in model.modalities.items()}


def reload(model, folder):
    path = os.path.join(folder, "model.keras")
    model.save(path)
    return keras.saving.load_model(path)


def paths_of(model):
    return [v.path for v in model.variables if "seed_generator" not in v.path]


# --- call and predict -----------------------------------------------------------------------------


def test_call_predict_and_embed_give_the_same_embeddings():
    model = wrapped()
    tokens = np.asarray(model.tokenizer(encoders.TEXTS))
    inputs = {"image": random_images(3), "text": tokens}
    outputs, predicted = model(inputs), model.predict(inputs, batch_size=2, verbose=0)
    assert isinstance(model, keras.Model) and set(outputs) == {"image", "text"}
    for tower, rows in predicted.items():
        assert rows.shape == (3, 16)
        np.testing.assert_allclose(rows, outputs[tower], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(model.embed_texts(encoders.TEXTS), outputs["text"], atol=1e-6)
    pixels = list(random_images(3).astype("uint8"))
    np.testing.assert_allclose(model.embed_images(pixels), outputs["image"], atol=1e-6)


def test_strings_are_embedded_with_the_current_weights_and_tokenizer():
    model = wrapped()
    before = model.embed_texts(["a dog"])
    embedder = model.embedder()
    encoders.randomize(model, seed=1)
    after = model.embed_texts(["a dog"])
    assert model.embedder() is embedder and np.abs(after - before).max() > 1e-4
    model.tokenizer = Tokenizer([*encoders.PIECES[:5], *reversed(encoders.PIECES[5:])], 10)
    assert np.abs(model.embed_texts(["a dog"]) - after).max() > 1e-5


def test_a_model_without_a_tokenizer_or_preprocessing_refuses_strings_and_images():
    pixels = keras.Input((8, 8, 3))
    plain = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    text = tf_mural.TextEncoder(encoders.bert(), dim=3)
    with pytest.raises(UserError, match="first text tower of the model has no tokenizer"):
        tf_mural.DualEncoder(plain, text).embed_texts(["a"])
    text.tokenizer = Tokenizer(encoders.PIECES, 10)
    with pytest.raises(UserError, match="first image tower of the model has no preprocessing"):
        tf_mural.DualEncoder(plain, text).embed_images([np.zeros((8, 8, 3), "uint8")])
    with pytest.raises(UserError, match="no tokenizer, which a preset contains"):
        model = tf_mural.DualEncoder(text_encoder=tf_mural.TextEncoder(encoders.bert()))
        model.save_to_preset("nowhere")


def test_towers_that_do_not_fit_are_refused():
    image = tf_mural.ImageEncoder(encoders.vit(), 16)
    text = tf_mural.TextEncoder(encoders.bert(), dim=20)
    with pytest.raises(UserError, match="different widths, {'image': 16, 'text': 20}: set the"):
        tf_mural.DualEncoder(image, text)
    with pytest.raises(UserError, match="the output of the tower 'image' .* is unknown"):
        tf_mural.DualEncoder(encoders.SubclassedBackbone(), text)
    with pytest.raises(UserError, match="unknown modality 'audio'"):
        tf_mural.DualEncoder(towers={"audio": keras.Model(image.input, image.output)})


# --- saving and loading ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, text",
    [
        (encoders.vit, encoders.bert),
        (encoders.efficientnet_of_keras_hub, encoders.xlm_roberta),
        (encoders.sequential, encoders.text_convolution),
        (encoders.functional_with_rescaling, encoders.bert),
        (encoders.SubclassedBackbone, encoders.bert),
    ],
)
def test_a_saved_model_around_any_backbone_gives_bit_equal_embeddings(image, text, tmp_path):
    model = wrapped(image, text, languages=["en", "de"])
    loaded = reload(model, tmp_path)
    assert type(loaded) is tf_mural.DualEncoder and loaded.languages == ("en", "de")
    assert encoders.same_embeddings(model, loaded, inputs_of(model))
    assert len(paths_of(loaded)) == len(paths_of(model)) > 5
    np.testing.assert_array_equal(
        loaded.embed_texts(encoders.TEXTS), model.embed_texts(encoders.TEXTS)
    )
    np.testing.assert_array_equal(loaded.embed_images(IMAGES), model.embed_images(IMAGES))
    assert loaded.preprocessing == model.preprocessing


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_towers_of_the_paper_are_built_again_from_plain_arguments(precision, tmp_path):
    teacher = {**NANO_TEXT, "modality": "text", "backbone": "tiny", "adapt": "frozen"}
    scalars = {"temperature": {"shared": 0.7, "text": 0.2}, "bias": {"shared": -10.0}}
    model = paper(precision=precision, towers={"teacher": teacher}, scalars=scalars)
    model.tokenizer = Tokenizer([*encoders.PIECES, *"bcdefghij"], 8)
    model.preprocessing = Preprocessing(40, 32, method="bicubic", antialias=True)
    loaded = reload(model, tmp_path)
    assert encoders.same_embeddings(model, loaded, inputs_of(model))
    assert paths_of(loaded) == paths_of(model)
    trainable = [v.path for v in model.trainable_variables]
    assert [v.path for v in loaded.trainable_variables] == trainable
    assert not any(path.startswith("teacher/") for path in trainable)
    assert keras.tree.map_structure(float, loaded.scalar_values()) == keras.tree.map_structure(
        float, model.scalar_values()
    )
    tower = loaded.towers["image"]
    assert type(tower) is models.EfficientNetEncoder
    assert tower.get_layer("image_projection").compute_dtype == precision.removeprefix("mixed_")
    norms = [x for x in tower._flatten_layers() if isinstance(x, models.GhostBatchNormalization)]
    assert any(norm.fuse_squeeze for norm in norms)
    assert loaded.preprocessing == model.preprocessing
    assert loaded.tokenizer.vocabulary == model.tokenizer.vocabulary


def test_towers_from_presets_load_without_the_presets(tmp_path):
    bert, folder = encoders.bert(), str(tmp_path / "bert")
    bert.save_to_preset(folder)
    tower = models.text_tower(
        len(encoders.PIECES), embedding_dim=16, backbone=f"keras_hub:{folder}"
    )
    model = tf_mural.DualEncoder(text_encoder=tower)
    model.save(tmp_path / "model.keras")
    for root, _, names in os.walk(folder):
        for name in names:
            os.remove(os.path.join(root, name))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert encoders.same_embeddings(model, loaded, {"text": TOKENS})


def test_two_backbones_of_one_class_have_different_paths(tmp_path):
    tokenizer = encoders.bert_tokenizer()
    towers = {
        name: tf_mural.TextEncoder(encoders.bert(), tokenizer, 16, name=name)
        for name in ("student", "teacher")
    }
    model = tf_mural.DualEncoder(towers=towers, adapt={"teacher": "frozen"})
    encoders.randomize(model)
    assert len(set(paths_of(model))) == len(paths_of(model))
    assert {p.split("/")[0] for p in paths_of(model)} >= {"token_embedding", "teacher"}
    loaded = reload(model, tmp_path)
    inputs = {"student": TOKENS, "teacher": TOKENS}
    assert encoders.same_embeddings(model, loaded, inputs)
    assert paths_of(loaded) == paths_of(model)
    assert model.embedder().fingerprint == loaded.embedder().fingerprint


def test_a_frozen_backbone_stays_frozen(tmp_path):
    model = wrapped()
    model.towers["text"].backbone.trainable = False
    loaded = reload(model, tmp_path)
    paths = [v.path for v in loaded.trainable_variables]
    assert paths == [v.path for v in model.trainable_variables]
    assert not any("token_embedding" in path for path in paths)


def test_a_clone_has_the_same_towers_and_new_weights():
    model = wrapped()
    clone = keras.models.clone_model(model)
    assert type(clone) is tf_mural.DualEncoder and clone.modalities == model.modalities
    assert not encoders.same_embeddings(model, clone, inputs_of(model))
    clone.set_weights(model.get_weights())
    assert encoders.same_embeddings(model, clone, inputs_of(model))


_LOAD = """
import sys
{imports}
assert "tf_mural.models" not in sys.modules
import numpy as np
model = keras.saving.load_model(sys.argv[1])
tokens = np.array({tokens!r}, "int32")
np.save(sys.argv[2], model.encode("text", tokens))
assert model.embed_texts(["a dog"]).shape == (1, 16)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, imports",
    [
        ("tensorflow", "import tf_mural, keras"),
        ("tensorflow", "import keras, tf_mural"),
        ("jax", "import tf_mural, keras"),
    ],
)
def test_a_new_process_loads_a_model_after_importing_the_package(backend, imports, tmp_path):
    pytest.importorskip(backend, reason="JAX is not installed: pip install -r requirements-jax.txt")
    model = wrapped()
    model.save(tmp_path / "model.keras")
    code = _LOAD.format(imports=imports, tokens=TOKENS.tolist())
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.keras"), str(tmp_path / "rows.npy")],
        env=backend_environment(backend, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = np.load(tmp_path / "rows.npy")
    np.testing.assert_allclose(rows, model.encode("text", TOKENS), atol=2e-6)


def test_all_layers_models_optimizers_and_schedules_are_registered():
    bases = (
        keras.Layer,
        keras.optimizers.Optimizer,
        keras.optimizers.schedules.LearningRateSchedule,
    )
    modules = [optimizers]
    for info in pkgutil.iter_modules(models.__path__, "tf_mural.models."):
        modules.append(__import__(info.name, fromlist=["models"]))
    defined = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, bases) and cls.__module__ == module.__name__
    }
    defined -= {models.text_encoder.TextTower, models.encoders._BackboneEncoder}  # abstract
    listed = {
        getattr(__import__(module, fromlist=["names"]), name)
        for module, names in registration.CLASSES.items()
        for name in names
    }
    assert defined <= listed
    for cls in listed:
        name = keras.saving.get_registered_name(cls)
        assert name == f"tf_mural>{cls.__name__}"
        assert keras.saving.get_registered_object(name) is cls


# --- examples of the documentation ----------------------------------------------------------------


def test_the_examples_on_models_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save("dog.jpg")
    with open(os.path.join(ROOT, "docs", "keras.md"), encoding="utf-8") as file:
        text = file.read().split("## Models\n")[1].split("## Train with")[0]
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    small = {
        'Backbone.from_preset("efficientnet_b0_ra_imagenet")': "vit()",
        'keras_hub.layers.ImageConverter.from_preset("efficientnet_b0_ra_imagenet")': "converter",
        'Backbone.from_preset("bert_base_multi")': "bert()",
        'keras_hub.tokenizers.Tokenizer.from_preset("bert_base_multi")': "bert_tokenizer()",
        "max_tokens=32": "max_tokens=10",
        '"b7", "image_size": 289': '"tiny", "image_size": 32',
        '"base", "vocabulary_size": 501_153': '"nano", "vocabulary_size": 50',
    }
    for old, new in small.items():
        assert old in code, old
        code = code.replace(f"keras_hub.models.{old}", new).replace(old, new)
    namespace = {name: getattr(encoders, name) for name in ("vit", "bert", "bert_tokenizer")}
    converter = keras_hub.layers.ImageConverter(image_size=(32, 32), scale=1 / 255, offset=0.1)
    namespace |= {"converter": converter, "teacher_backbone": encoders.bert()}
    namespace |= {"keras": keras, "keras_hub": keras_hub, "tf_mural": tf_mural}
    namespace["pixels"] = random_images(2)
    exec(code, namespace)
    assert namespace["embeddings"]["text"].shape == (2, 640)
    assert namespace["scores"].shape == (1, 1) and set(namespace["model"].towers) == {
        "image",
        "text",
        "teacher",
    }
    assert len(namespace["model_of_paper"].variables) > 100
    mean = namespace["model"].preprocessing.mean
    assert mean == pytest.approx([-0.1 * 255] * 3)


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [wrapped, paper])
def test_a_preset_restores_towers_tokenizer_and_preprocessing(build, tmp_path):
    model = build(languages=["de", "en"]) if build is wrapped else build()
    if build is paper:
        model.tokenizer = Tokenizer([*encoders.PIECES, *"bcdefghij"], 8)
        model.preprocessing = Preprocessing(40, 32)
    folder = str(tmp_path / "preset")
    model.save_to_preset(folder)
    loaded = tf_mural.DualEncoder.from_preset(folder)
    np.testing.assert_array_equal(
        loaded.embed_texts(encoders.TEXTS), model.embed_texts(encoders.TEXTS)
    )
    np.testing.assert_array_equal(loaded.embed_images(IMAGES), model.embed_images(IMAGES))
    assert loaded.languages == model.languages and loaded.preprocessing == model.preprocessing
    with pytest.raises(UserError, match="is not empty"):
        model.save_to_preset(folder)


def test_a_preset_keeps_the_tokenizer_of_keras_hub(tmp_path):
    model = tf_mural.DualEncoder(
        tf_mural.ImageEncoder(encoders.vit(), 16),
        tf_mural.TextEncoder(encoders.bert(), encoders.bert_tokenizer(), 16, max_tokens=6),
    )
    folder = str(tmp_path / "preset")
    model.save_to_preset(folder)
    loaded = tf_mural.DualEncoder.from_preset(folder)
    texts = ["a red dog cats hund a", "cats"]
    np.testing.assert_array_equal(loaded.embed_texts(texts), model.embed_texts(texts))
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(folder)
    assert type(tokenizer) is keras_hub.tokenizers.BertTokenizer
    preprocessor = presets.MuralPreprocessor.from_preset(folder)
    tokens = preprocessor({"texts": texts})["tokens"]
    np.testing.assert_array_equal(tokens, model.tokenizer(texts))
    backbone = keras_hub.models.Backbone.from_preset(folder)
    rows = backbone({"pixels": random_images(2), "tokens": np.asarray(tokens)})
    expected = model({"image": random_images(2), "text": np.asarray(tokens)})
    np.testing.assert_allclose(rows["text_embeddings"], expected["text"], atol=1e-6)
    np.testing.assert_allclose(rows["image_embeddings"], expected["image"], atol=1e-6)


# --- optimizers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.LAMB(1e-4),
        optimizers.LAMB(
            optimizers.LinearWarmupDecay(1e-3, 10, 2),
            weight_decay=0.1,
            exclude_from_weight_decay=["bias"],
            exclude_from_layer_adaptation=["_bn/"],
            lr_multipliers=[("stem", 0.5)],
            ema_momentum=0.9,
            global_clipnorm=1.0,
        ),
        optimizers.AdamW(optimizers.LinearWarmupDecay(1e-3, 10), weight_decay=0.1),
    ],
)
def test_optimizers_and_schedules_survive_serialization(optimizer):
    config = keras.saving.serialize_keras_object(optimizer)
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is type(optimizer)
    variables = [keras.Variable([1.0, -2.0], name="stem") for _ in range(2)]
    for variable, instance in zip(variables, (optimizer, restored), strict=True):
        instance.build([variable])
        for _ in range(3):
            instance.apply([keras.ops.convert_to_tensor([0.5, 3.0])], [variable])
    np.testing.assert_array_equal(*(v.numpy() for v in variables))
    assert np.abs(variables[0].numpy() - [1.0, -2.0]).max() > 1e-5
