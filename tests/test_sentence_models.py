"""Compares text encoders with sentence-transformers and Hugging Face, and tests sizes and errors.

The tokens and embeddings are recorded by golden/record_sentence_models.py.
"""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from golden import sentence_models_case as case
from helpers import sentence_checkpoints as checkpoints
from helpers.backends import backend_environment
from helpers.public_checkpoints import write_safetensors
from keras import ops

import tf_mural
from tf_mural import models
from tf_mural.errors import UserError
from tf_mural.huggingface import checkpoint_files
from tf_mural.public_models import open_model

E5, BGE, LABSE = "multilingual-e5-small", "bge-m3", "LaBSE"
M_CLIP, CLIP, MBERT = "XLM-Roberta-Large-Vit-B-32", "clip-ViT-B-32-multilingual-v1", "bert-base"
MBERT += "-multilingual-cased"
# `make test` tests some models, the slow tests all of them.
MODELS = [
    name if name in (E5, CLIP, M_CLIP) else pytest.param(name, marks=pytest.mark.slow)
    for name in checkpoints.MODELS
]
WIDTHS = {E5: 16, BGE: 16, LABSE: 10, CLIP: 10, M_CLIP: 10}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns {name of a published model: folder of a tiny checkpoint of its class}."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make(str(root / name), case.SEED) for name, make in checkpoints.MODELS.items()}


@pytest.fixture(scope="module")
def recorded():
    """Returns a callable that maps the name of a model to its tokens and its embeddings."""
    with np.load(case.OUTPUTS) as file:
        arrays = dict(file)
    return lambda name: (arrays[f"{name}/tokens"], arrays[f"{name}/rows"])


@pytest.fixture
def copy(tmp_path):
    """Returns a callable that writes a new checkpoint, and returns its folder."""
    return lambda name, **changes: checkpoints.MODELS[name](
        str(tmp_path / name), case.SEED, **changes
    )


def unit(rows):
    rows = np.asarray(rows)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def pad(tokens, encoder):
    width = encoder.max_tokens - tokens.shape[1]
    return np.pad(tokens, ((0, 0), (0, width)), constant_values=encoder.pad_id)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_embeddings_equal_those_of_the_original_classes(name, folders, recorded):
    tokens, expected = recorded(name)
    model = open_model(f"hf:{folders[name]}")
    assert model.modalities == ("text",) and model.embedding_dim == WIDTHS.get(name)
    assert dict(model.scalars) == {} and model.loss is None and model.preprocessing is None
    encoder = model.encoder("text")
    actual = np.asarray(encoder(pad(tokens, encoder)))
    if name in (E5, BGE, LABSE):  # These models end with a normalization.
        actual = unit(actual)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    random = model.encoder("text", weights=False)
    assert np.abs(unit(random(pad(tokens, encoder))) - unit(actual)).max() > 0.1
    np.testing.assert_array_equal(encoder.tokenizer(checkpoints.TEXTS), pad(tokens, encoder))


@pytest.mark.parametrize("name", MODELS)
def test_padding_does_not_change_embeddings(name, folders, recorded):
    """In XLM-R, the positions of Hugging Face depend on the number of tokens of padding."""
    tokens = recorded(name)[0]
    encoder = open_model(f"hf:{folders[name]}").encoder("text")
    assert encoder.ignores_padding
    np.testing.assert_allclose(encoder(tokens), encoder(pad(tokens, encoder)), atol=1e-5)


@pytest.mark.slow
def test_embeddings_equal_those_of_the_original_classes_on_jax():
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", __file__]
    command += [__file__.replace("sentence_models", "keras_hub_presets")]
    command += ["-k", "test_tokens_and_embeddings_equal or test_both_halves_equal"]
    environment = backend_environment("jax")
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "4 passed" in result.stdout, result.stdout[-2000:]


# --- encoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_is_rebuilt_from_its_config_and_has_blocks(name, folders, recorded):
    encoder = open_model(f"hf:{folders[name]}").encoder("text")
    tokens = pad(recorded(name)[0], encoder)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(encoder)))
    rebuilt = keras.saving.deserialize_keras_object(config)
    rebuilt.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(rebuilt(tokens), encoder(tokens))
    features, projection = encoder.split()
    np.testing.assert_array_equal(projection(features(tokens)), encoder(tokens))
    has_dense = name in (LABSE, CLIP, M_CLIP)
    assert len(projection.variables) == {CLIP: 1, LABSE: 2, M_CLIP: 2}.get(name, 0)
    assert bool(projection.variables) == has_dense
    assert len(models.remat_blocks(encoder)) == checkpoints.LAYERS
    factors = dict(models.lr_multipliers_by_block("text", encoder, 0.5))
    assert set(factors.values()) >= {0.5, 0.25, 0.125}


@pytest.mark.slow
def test_all_variables_get_gradients(folders, recorded):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("uses tf.GradientTape")
    import tensorflow as tf

    for name in (E5, CLIP, M_CLIP):
        encoder = open_model(f"hf:{folders[name]}").encoder("text", weights=False)
        with tf.GradientTape() as tape:
            loss = ops.sum(ops.square(encoder(pad(recorded(name)[0], encoder))))
        variables = [v.value for v in encoder.trainable_variables]
        gradients = tape.gradient(loss, variables)
        sizes = [float(tf.norm(tf.convert_to_tensor(g))) for g in gradients]
        assert min(size for size, v in zip(sizes, encoder.trainable_variables, strict=True)
                   if "key/bias" not in v.path) > 0  # fmt: skip


@pytest.mark.slow
def test_another_width_or_pooling_replaces_the_linear_layer(folders, recorded):
    model = open_model(f"hf:{folders[LABSE]}")
    tokens = recorded(LABSE)[0]
    for options, width in (({"dim": 7}, 7), ({"pooling": "mean"}, checkpoints.WIDTH)):
        encoder = model.encoder("text", **options)
        assert np.asarray(encoder(tokens)).shape[1] == width
        kernels = [v for v in encoder.split()[1].variables if v.path.endswith("kernel")]
        assert len(kernels) == int("dim" in options)
        table = encoder.backbone.token_embedding.embeddings
        own = model.encoder("text").backbone.token_embedding.embeddings
        np.testing.assert_array_equal(table, own)


def test_a_plain_transformer_gets_a_projection_to_any_width(folders, recorded):
    model = open_model(f"hf:{folders[MBERT]}")
    tokens, expected = recorded(MBERT)
    encoder = model.encoder("text", dim=20, pooling="cls")
    features, projection = encoder.split()
    np.testing.assert_allclose(features(tokens), expected, atol=1e-5)
    assert projection.output.shape == (None, 20)


def test_longer_texts_than_the_checkpoint_has_get_interpolated_positions(folders):
    model = open_model(f"hf:{folders[BGE]}")
    encoder = model.encoder("text", max_tokens=50)
    assert encoder.max_tokens == encoder.backbone.max_sequence_length == 50
    assert model.encoder("text", max_tokens=8).tokenizer(["a"]).shape == (1, 8)
    own = model.encoder("text").backbone.embeddings.position_embedding.position_embeddings
    new = encoder.backbone.embeddings.position_embedding.position_embeddings
    np.testing.assert_array_equal(np.asarray(new)[[0, -1]], np.asarray(own)[[0, -1]])


def test_a_dual_encoder_embeds_strings_with_the_prefix(folders, recorded):
    encoder = open_model(f"hf:{folders[E5]}").encoder("text")
    assert encoder.tokenizer.prefix == case.E5_PREFIX
    model = tf_mural.DualEncoder(text_encoder=encoder)
    rows = model.embed_texts(checkpoints.TEXTS)
    np.testing.assert_allclose(rows, recorded(E5)[1], atol=1e-5)


# --- descriptions ---------------------------------------------------------------------------------


def edit_json(name, **changes):
    def edit(folder):
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        checkpoints.write_json(folder, name, {**content, **changes})

    return edit


@pytest.mark.parametrize(
    "name, prefix",
    [
        ("multilingual-e5-small", "query: "),
        ("multilingual-e5-large", "query: "),
        ("e5-base-v2", "query: "),
        ("multilingual-e5-large-instruct", ""),
        ("other", ""),
    ],
)
def test_models_named_e5_have_a_prefix(name, prefix, tmp_path):
    folder = checkpoints.e5(str(tmp_path / name))
    assert open_model(f"hf:{folder}").tokenizer.prefix == prefix
    prompts = {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": "document"}
    checkpoints.write_json(folder, "config_sentence_transformers.json", prompts)
    assert open_model(f"hf:{folder}/").tokenizer.prefix == "d: "
    prompts["default_prompt_name"] = "passage"
    checkpoints.write_json(folder, "config_sentence_transformers.json", prompts)
    with pytest.raises(UserError, match="unknown default_prompt_name .* 'passage'; known: query"):
        open_model(f"hf:{folder}")


def test_the_number_of_tokens_is_that_of_training_if_it_is_small(copy):
    folder = copy(E5, max_position_embeddings=512)
    assert open_model(f"hf:{folder}").tokenizer.max_tokens == checkpoints.MAX_TOKENS
    checkpoints.write_json(folder, "sentence_bert_config.json", {"max_seq_length": 512})
    edit_json("tokenizer_config.json", model_max_length=512)(folder)
    model = open_model(f"hf:{folder}")
    assert model.tokenizer.max_tokens == 64
    assert model.encoder("text", max_tokens=200, weights=False).max_tokens == 200


def test_the_transformer_may_lie_in_a_subfolder(copy, recorded):
    folder = copy(E5)
    os.mkdir(os.path.join(folder, "0_Transformer"))
    for name in os.listdir(folder):
        if os.path.isfile(os.path.join(folder, name)) and name != "modules.json":
            os.rename(os.path.join(folder, name), os.path.join(folder, "0_Transformer", name))
    edit_modules(lambda modules: modules[0].update(path="0_Transformer"))(folder)
    encoder = open_model(f"hf:{folder}").encoder("text")
    tokens, expected = recorded(E5)
    np.testing.assert_allclose(unit(encoder(tokens)), expected, atol=1e-5)


def edit_modules(change):
    def edit(folder):
        with open(os.path.join(folder, "modules.json"), encoding="utf-8") as file:
            modules = json.load(file)
        change(modules)
        checkpoints.write_json(folder, "modules.json", modules)

    return edit


def edit_tensors(change, subfolder=""):
    def edit(folder):
        folder = os.path.join(folder, subfolder)
        tensors = checkpoint_files.read_tensors(folder)
        tensors = {name: np.array(array) for name, array in tensors.items()}
        change(tensors)
        write_safetensors(os.path.join(folder, "model.safetensors"), tensors)

    return edit


def make_pickle(subfolder=""):
    def edit(folder):
        folder = os.path.join(folder, subfolder)
        paths = [os.path.join(folder, x) for x in ("model.safetensors", "pytorch_model.bin")]
        os.rename(*paths)

    return edit


LAYER = "encoder.layer.0.output.dense.weight"
EXTRA = "encoder.layer.2.output.dense.weight"
DAMAGES = {
    "another class": (BGE, edit_json("config.json", model_type="mpnet"), "unknown model_type"),
    "epsilon": (BGE, edit_json("config.json", layer_norm_eps=1e-12), "layer_norm_eps is 1e-12, b"),
    "decoder": (E5, edit_json("config.json", is_decoder=True), "is_decoder is True, but only"),
    "activation": (E5, edit_json("config.json", hidden_act="relu"), "unknown activation .* 'relu'"),
    "tanh": (BGE, edit_json("config.json", hidden_act="gelu_new"), "is 'gelu_new', but only 'ge"),
    "heads": (E5, edit_json("config.json", num_attention_heads=3), "3 attention heads, the width"),
    "vocabulary": (E5, edit_json("config.json", vocab_size=9), "tokenizer has 55 tokens, but co"),
    "a smaller vocabulary": (
        E5,
        edit_json("config.json", vocab_size=70),
        "tokenizer has 55 tokens, but config.json has vocab_size=70; expected the files of a sing",
    ),
    "modules": (
        E5,
        edit_modules(lambda m: m.insert(2, {"type": "a.WordWeights", "path": "2_WordWeights"})),
        "has the modules Transformer, Pooling, WordWeights, Normalize; supported are",
    ),
    "a CLIP": (
        E5,
        edit_modules(lambda m: m.__setitem__(slice(None), [{"type": "a.CLIPModel", "path": "0"}])),
        "has the modules CLIPModel; .* give its folder: hf:.*/0$",
    ),
    "no list": (
        E5,
        lambda folder: checkpoints.write_json(folder, "modules.json", {"a": 1}),
        "modules.json is not a list of modules",
    ),
    "two poolings": (
        BGE,
        edit_json("1_Pooling/config.json", pooling_mode_mean_tokens=True),
        "the poolings cls, mean are concatenated",
    ),
    "unknown pooling": (
        E5,
        edit_json("1_Pooling/config.json", pooling_mode="weightedmean"),
        "unknown pooling .* 'weightedmean'; known: mean, cls",
    ),
    "width": (LABSE, edit_json("2_Dense/config.json", in_features=9), "in_features is 9, but the"),
    "no width": (LABSE, edit_json("2_Dense/config.json", out_features=None), "expected an int"),
    "dense": (
        LABSE,
        edit_json("2_Dense/config.json", activation_function="torch.nn.Softmax"),
        "unknown activation_function .* 'Softmax'",
    ),
    "a missing tensor": (E5, edit_tensors(lambda t: t.pop(LAYER)), f"{LAYER} is missing"),
    "no segments": (
        E5,
        edit_tensors(lambda t: t.pop("embeddings.token_type_embeddings.weight")),
        "token_type_embeddings.weight is missing",
    ),
    "another shape": (
        E5,
        edit_tensors(lambda t: t.update({LAYER: t[LAYER][:3]})),
        r"has shape \(3, 24\), expected \(16, 24\)",
    ),
    "more layers": (
        E5,
        edit_tensors(lambda t: t.update({EXTRA: t[LAYER]})),
        f"have 1 tensors of layers that are not in its config.json: {EXTRA}",
    ),
    "dense of another model": (
        LABSE,
        edit_tensors(lambda t: t.pop("linear.bias"), "2_Dense"),
        "linear.bias is missing",
    ),
    "a pickle": (E5, make_pickle(), "pytorch_model.bin is a pickle, .* python -c .*save_file"),
    "a pickled dense": (LABSE, make_pickle("2_Dense"), "2_Dense.*pytorch_model.bin is a pickle"),
    "a pickled M-CLIP": (M_CLIP, make_pickle(), "is a pickle, .* python -c .*save_file"),
    "M-CLIP": (M_CLIP, edit_json("config.json", numDims=None), "numDims is None, expected int"),
    "widths of M-CLIP": (
        M_CLIP,
        edit_json("config.json", transformerDimensions=9),
        "transformerDimensions is 9, but modelBase=base has 16",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_read_gives_one_clear_line(damage, copy):
    name, edit, message = DAMAGES[damage]
    folder = copy(name)
    edit(folder)
    with pytest.raises(UserError, match=message) as error:
        open_model(f"hf:{folder}").encoder("text")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "base, layers, width",
    [
        ("xlm-roberta-large", 24, 1024),
        ("FacebookAI/xlm-roberta-base", 12, 768),
        ("sentence-transformers/LaBSE", 12, 768),
    ],
)
def test_the_transformers_of_published_m_clips_are_known(base, layers, width, tmp_path):
    from tf_mural.huggingface.m_clip import MClip

    config = {"modelBase": base, "transformerDimensions": width, "numDims": 512}
    backbone = MClip("name", str(tmp_path), config).backbone
    assert (backbone.width, backbone.positions) == (width, 512)
    assert backbone._sizes[0] == layers
