"""Compares encoders of public models with Hugging Face's classes, and tests sizes and errors.

The embeddings and the pixels are recorded by golden/record_public_towers.py.
"""

import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from conftest import ROOT
from golden import huggingface_case
from golden import public_towers_case as case
from helpers import public_checkpoints, sentence_checkpoints
from helpers.backends import backend_environment

import tf_mural
from tf_mural import models
from tf_mural.data import image_ops, sentencepiece_model
from tf_mural.errors import UserError
from tf_mural.experiment import initialization
from tf_mural.huggingface import checkpoint_files
from tf_mural.public_models import is_public, open_model
from tf_mural.training import checkpoints

FAMILIES = public_checkpoints.FAMILIES
# MetaCLIP 2 has the layers of CLIP, and SigLIP 2 has those of SigLIP.
ARCHITECTURES = ("metaclip_2", "siglip_2")
WIDTHS = {"clip": 12, "metaclip_2": 12, "siglip": 16, "siglip_2": 16}


@pytest.fixture(scope="module")
def recorded():
    """Returns a callable that maps the name of a checkpoint to recorded outputs, {name: array}."""
    with np.load(case.OUTPUTS) as file:
        arrays = dict(file)
    return lambda family: {
        key.partition("/")[2]: x for key, x in arrays.items() if key.startswith(f"{family}/")
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns {family: folder of a checkpoint} with the recorded weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: write(str(root / name), case.SEED) for name, write in FAMILIES.items()}


@pytest.fixture
def copy(tmp_path):
    """Returns a callable that writes a new checkpoint of a family, and returns its folder."""
    return lambda family, **changes: FAMILIES[family](str(tmp_path / family), case.SEED, **changes)


def tokens_of(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return public_checkpoints.tokens(json.load(file))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_equal_those_of_hugging_face(family, folders, recorded):
    expected, model = recorded(family), open_model(f"hf:{folders[family]}")
    rows = {}
    for modality, inputs in (
        ("image", case.images(case.SIZES[0])),
        ("text", tokens_of(folders[family])),
    ):
        encoder = model.encoder(modality)
        actual = rows[modality] = np.asarray(encoder(inputs))
        name = "text" if modality == "text" else f"image_{case.SIZES[0]}"
        assert actual.shape[1] == model.embedding_dim == WIDTHS[family]
        np.testing.assert_allclose(unit(actual), unit(expected[name]), atol=1e-5)
        np.testing.assert_allclose(actual, expected[name], rtol=1e-4, atol=1e-4)
        # Random weights give other embeddings.
        random = np.asarray(model.encoder(modality, weights=False)(inputs))
        assert np.abs(random - actual).max() > 0.1
    similarity = unit(rows["text"]) @ unit(rows["image"]).T
    logits = similarity / model.scalars["temperature"] + model.scalars.get("bias", 0.0)
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-4)
    sigmoid = family.startswith("siglip")
    assert model.loss == ("sigmoid" if sigmoid else "contrastive")
    assert set(model.scalars) == ({"temperature", "bias"} if sigmoid else {"temperature"})


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("size", case.SIZES[1:])
def test_positions_are_interpolated_as_by_hugging_face(family, size, folders, recorded):
    encoder = open_model(f"hf:{folders[family]}").encoder("image", image_size=size)
    assert encoder.image_size == encoder.preprocessing.crop == size
    expected = recorded(family)[f"image_{size}"]
    np.testing.assert_allclose(encoder(case.images(size)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_equal_those_of_the_image_processor(family, folders, recorded):
    preprocessing = open_model(f"hf:{folders[family]}").preprocessing
    for i, shape in enumerate(case.SHAPES):
        actual = image_ops.preprocess_pixels(case.photograph(shape), preprocessing).numpy()
        expected = recorded(family)[f"pixels_{i}"]
        assert actual.shape == expected.shape
        assert (np.abs(actual.astype(int) - expected) <= 1).mean() >= 0.99
    square = case.photograph((64, 96))
    assert preprocessing.keep_aspect_ratio == ("clip" in family)
    other = image_ops.preprocess_pixels(
        square, tf_mural.data.Preprocessing(32, 32, antialias=False)
    )
    same = image_ops.preprocess_pixels(square, preprocessing)
    assert (np.abs(other.numpy().astype(int) - same.numpy()) <= 1).mean() < 0.6


@pytest.mark.slow
def test_embeddings_equal_those_of_hugging_face_on_jax():
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    test = f"{__file__}::test_embeddings_equal_those_of_hugging_face"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    command += [f"{test}[{family}]" for family in ("clip", "siglip_2")]
    environment = backend_environment("jax")
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_embeddings_equal_those_of_align(modality):
    folder = os.path.join(huggingface_case.FOLDER, "align")
    with np.load(huggingface_case.OUTPUTS) as file:
        expected, tokens = file[f"align/{modality}_embeds"], file["align/tokens"]
    model = open_model(f"hf:{folder}")
    inputs = huggingface_case.images(huggingface_case.CROP) if modality == "image" else tokens
    options = {} if modality == "image" else {"max_tokens": huggingface_case.MAX_TOKENS}
    encoder = model.encoder(modality, **options)
    np.testing.assert_allclose(unit(np.asarray(encoder(inputs))), unit(expected), atol=1e-5)
    assert dict(model.scalars) == {"temperature": 0.0625} and model.loss == "contrastive"
    other = model.encoder(modality, dim=7, **options)
    assert np.asarray(other(inputs)).shape[1] == 7
    np.testing.assert_array_equal(other.get_weights()[0], encoder.get_weights()[0])
    with pytest.raises(UserError, match="has a fixed pooling: omit pooling"):
        model.encoder(modality, pooling="max")


# --- sizes, pooling and projection ----------------------------------------------------------------


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_encoder_is_rebuilt_from_its_config_without_the_checkpoint(family, folders):
    model = open_model(f"hf:{folders[family]}")
    for modality, inputs in (
        ("image", case.images(case.SIZES[0])),
        ("text", tokens_of(folders[family])),
    ):
        encoder = model.encoder(modality)
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(encoder)))
        rebuilt = keras.saving.deserialize_keras_object(config)
        rebuilt.set_weights(encoder.get_weights())
        np.testing.assert_array_equal(rebuilt(inputs), encoder(inputs))
        features, projection = rebuilt.split()
        np.testing.assert_array_equal(projection(features(inputs)), encoder(inputs))
        has_projection = family in ("clip", "metaclip_2")
        assert len(projection.trainable_variables) == int(has_projection)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_shorter_or_longer_text_tower_keeps_its_first_positions(family, folders):
    model = open_model(f"hf:{folders[family]}")
    tables = {}
    for length in (None, 9, 20):
        encoder = model.encoder("text", max_tokens=length)
        assert (
            encoder.max_tokens
            == encoder.tokenizer.max_tokens
            == (length or model.tokenizer.max_tokens)
        )
        embedding = encoder.backbone.embedding.position_embedding
        table = getattr(embedding, "position_embeddings", None)
        tables[length] = np.asarray(embedding.embeddings if table is None else table)
    np.testing.assert_array_equal(tables[9], tables[None][:9])
    np.testing.assert_allclose(tables[20][[0, -1]], tables[None][[0, -1]])
    middle = np.linspace(0, len(tables[None]) - 1, 20)
    expected = [np.interp(middle, np.arange(len(tables[None])), c) for c in tables[None].T]
    np.testing.assert_allclose(tables[20], np.transpose(expected), atol=1e-6)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_another_width_or_pooling_adds_a_projection(family, folders):
    model = open_model(f"hf:{folders[family]}")
    for modality, inputs, pooling in (
        ("image", case.images(case.SIZES[0]), "average"),
        ("text", tokens_of(folders[family]), "last"),
    ):
        encoder, own = model.encoder(modality, dim=7), model.encoder(modality)
        assert np.asarray(encoder(inputs)).shape[1] == 7
        features, projection = encoder.split()
        # The features are those before the projection of the model, with all of its weights.
        np.testing.assert_array_equal(features(inputs), own.split()[0](inputs))
        assert [v.path.rpartition("/")[2] for v in projection.variables] == ["kernel", "bias"]
        pooled = model.encoder(modality, pooling=pooling)
        assert np.asarray(pooled(inputs)).shape[1] == model.embedding_dim
        names = [layer.name for layer in pooled._flatten_layers()]
        assert "pooled_norm" not in names and "head" not in names


def test_only_causal_text_towers_ignore_padding(folders):
    for family in FAMILIES:
        encoder = open_model(f"hf:{folders[family]}").encoder("text", weights=False)
        assert encoder.ignores_padding == ("clip" in family)
        assert encoder.input.shape[1] == (None if "clip" in family else encoder.max_tokens)


@pytest.mark.parametrize("family", ["clip", "siglip_2"])
def test_a_dual_encoder_of_public_towers_embeds_and_is_saved(family, folders, tmp_path):
    model = open_model(f"hf:{folders[family]}")
    encoder = tf_mural.DualEncoder(model.encoder("image"), model.encoder("text"))
    texts = public_checkpoints.TEXTS
    rows = encoder.embed_texts(texts)
    expected = unit(np.asarray(encoder.encode("text", model.tokenizer(texts))))
    np.testing.assert_allclose(unit(rows), expected, atol=1e-5)
    # The files of a run contain the weights by the paths of the variables, which are unique.
    assert len(checkpoints.variables_by_path(encoder)) == len(encoder.variables)
    path = str(tmp_path / "model.keras")
    encoder.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.embed_texts(texts), rows)
    images = case.images(case.SIZES[0])
    np.testing.assert_array_equal(loaded.encode("image", images), encoder.encode("image", images))


def test_interpolated_weights_keep_the_numbers_of_the_positions(folders, monkeypatch):
    tower = open_model(f"hf:{folders['siglip']}").encoder("image")
    encoder = tf_mural.DualEncoder(tower)
    variables = checkpoints.variables_by_path(encoder)
    initial = {path: np.array(variable) for path, variable in variables.items()}
    path = next(path for path in variables if path.endswith("position_ids"))
    monkeypatch.setattr(initialization, "initial_arrays", lambda *_: (initial, {}))
    monkeypatch.setattr(initialization, "check_wise_ft_alpha", lambda *_: None)
    trainer = types.SimpleNamespace(encoder=encoder, snapshot=lambda variables: initial)
    for alpha in (0.05, 0.15, 0.3):  # With some factors, a k + (1 - a) k is less than k.
        assert not np.array_equal(
            (alpha * initial[path] + (1 - alpha) * initial[path]).astype(int), initial[path]
        )
        initialization.finalize_weights(trainer, wise_ft_alpha=alpha)
        np.testing.assert_array_equal(variables[path], initial[path])


def test_resizing_a_backbone_of_keras_hub_keeps_everything_but_the_positions():
    import keras_hub

    vit = keras_hub.models.ViTBackbone(
        (32, 32, 3), 8, num_layers=1, num_heads=2, hidden_dim=12, mlp_dim=16
    )
    resized = models.resize_backbone(vit, image_size=48)
    changed = [
        old.path
        for old, new in zip(vit.variables, resized.variables, strict=True)
        if old.shape != new.shape
    ]
    assert changed and all("position" in path for path in changed)
    assert models.resize_backbone(vit, image_size=32) is vit
    assert np.asarray(resized(case.images(48) / 255.0)).shape == (2, 37, 12)
    with pytest.raises(UserError, match="image_size is 4, but the patches .* have 8 pixels"):
        models.resize_backbone(vit, image_size=4)
    with pytest.raises(UserError, match="image_size is 36, which .* divisible by patch size 8"):
        models.resize_backbone(vit, image_size=36)
    resnet = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(UserError, match="have a fixed size: omit image_size"):
        models.resize_backbone(resnet, image_size=16)


# --- errors ---------------------------------------------------------------------------------------


def edit_json(name, **changes):
    def edit(folder):
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**content, **changes}, file)

    return edit


def edit_tensors(change):
    def edit(folder):
        tensors = checkpoint_files.read_tensors(folder)
        tensors = {name: np.array(array) for name, array in tensors.items()}
        change(tensors)
        public_checkpoints.write_safetensors(os.path.join(folder, "model.safetensors"), tensors)

    return edit


def remove(name):
    return lambda folder: os.remove(os.path.join(folder, name))


def make_pickle(folder):
    os.rename(os.path.join(folder, "model.safetensors"), os.path.join(folder, "pytorch_model.bin"))


def take_another_tokenizer(folder):
    other = sentencepiece_model.build_model(sentence_checkpoints.sentencepieces())
    with open(os.path.join(folder, "spiece.model"), "wb") as file:
        file.write(other.SerializeToString())


def shard_without_second_part(folder):
    os.rename(
        os.path.join(folder, "model.safetensors"),
        os.path.join(folder, "model-00001-of-00002.safetensors"),
    )
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
        json.dump({"weight_map": index}, f)


LAYER = "text_model.encoder.layers.0.mlp.fc1.weight"
EXTRA = "text_model.encoder.layers.2.mlp.fc1.weight"
DAMAGES = {
    "another class": (
        edit_json("config.json", model_type="blip"),
        r"unknown model_type \(of .*config.json\) 'blip'; known: .*siglip",
    ),
    "NaFlex": (edit_json("config.json", model_type="siglip2"), "NaFlex.*is not supported"),
    "no processor": (remove("preprocessor_config.json"), "has no preprocessor_config.json, which"),
    "size of images": (
        edit_json("preprocessor_config.json", size={"height": 40, "width": 40}),
        "40 pixels in preprocessor_config.json and 32 pixels in config.json",
    ),
    "no square": (
        edit_json("preprocessor_config.json", size={"height": 40, "width": 30}),
        "expected a number, shortest_edge, or equal height and width",
    ),
    "a tokenizer of another model": (
        take_another_tokenizer,
        "tokenizer has .* tokens, but config.json has vocab_size|has no piece",
    ),
    "resampling": (edit_json("preprocessor_config.json", resample=9), r"unknown resample"),
    "padding": (edit_json("preprocessor_config.json", do_pad=True), "and not padded"),
    "a missing tensor": (edit_tensors(lambda t: t.pop(LAYER)), f"{LAYER} is missing"),
    "another shape": (
        edit_tensors(lambda t: t.update({LAYER: t[LAYER][:3]})),
        r"has shape \(3, 12\), expected \(24, 12\)",
    ),
    "more layers": (
        edit_tensors(lambda t: t.update({EXTRA: t[LAYER]})),
        f"have 1 tensors of layers that are not in its config.json: {EXTRA}",
    ),
    "a pickle": (
        make_pickle,
        r"pytorch_model.bin is a pickle, .* convert it .*python -c .*save_file",
    ),
    "a missing shard": (
        shard_without_second_part,
        "00002-of-00002.safetensors is missing, but the index names it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(damage, copy):
    edit, message = DAMAGES[damage]
    folder = copy("siglip")
    edit(folder)
    with pytest.raises(UserError, match=message) as error:
        model = open_model(f"hf:{folder}")
        model.encoder("image")
        model.encoder("text")
    assert "\n" not in str(error.value)


def test_an_argument_that_does_not_fit_is_refused(folders):
    model = open_model(f"hf:{folders['siglip']}")
    for arguments, message in (
        (("video",), "has no encoder of modality 'video'; it has: image, text"),
        (("image", None, True, 7), "image_size is 7, but the patches .* set image_size=8 or more"),
    ):
        options = dict(zip(("dim", "weights", "image_size"), arguments[1:], strict=False))
        with pytest.raises(UserError, match=message):
            model.encoder(arguments[0], **options)
    with pytest.raises(UserError, match="the text encoder of .* has no image_size: omit it"):
        model.encoder("text", image_size=32)
    with pytest.raises(UserError, match="'b7' is not a public model; expected hf:"):
        open_model("b7")
    assert [is_public(name) for name in ("hf:a/b", "keras_hub:vit", "b7", None)] == [
        True, True, False, False,
    ]  # fmt: skip
