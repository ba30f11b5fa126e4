"""Checkpoints of Hugging Face's own classes, see golden/record_huggingface.py: equal outputs."""

import dataclasses
import fnmatch
import functools
import json
import os
import shutil
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden import huggingface_case as case

from tf_mural import huggingface, models
from tf_mural.data import image_ops, tokenizers
from tf_mural.errors import UserError
from tf_mural.huggingface import align, bert, files

NAMES = ["align", "deep", "bert", "masked"]


@pytest.fixture(scope="module", autouse=True)
def deep_has_a_name():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.EFFICIENTNETS, "deep", case.DEEP)
        yield


@pytest.fixture(scope="module")
def recorded():
    """Function of a model to {name: array}."""
    with np.load(case.OUTPUTS) as arrays:
        found = dict(arrays)
    return lambda model: {
        name.partition("/")[2]: x for name, x in found.items() if name.startswith(f"{model}/")
    }


def folder_of(name):
    return os.path.join(case.FOLDER, name)


@dataclasses.dataclass
class Loaded:
    """An encoder of the shape that a checkpoint asks for, with its weights."""

    checkpoint: huggingface.Checkpoint
    image: dict
    text: dict
    encoder: models.DualEncoder
    shapes: dict
    arrays: dict
    rest: list


def load(name):
    found = huggingface.open_checkpoint(folder_of(name))
    image = {**(found.image or {"name": "tiny"}), "stochastic_depth": 0.0}
    image["image_size"] = found.images["crop"] if found.images else 32
    words = {**found.text, "vocabulary_size": len(found.vocabulary), "dropout": 0.0}
    words["max_tokens"] = case.MAX_TOKENS
    encoder = models.dual_encoder(image, words, found.embedding_dim or 16)
    variables = {v.path: v for v in encoder.variables if "seed_generator" not in v.path}
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    arrays, rest = huggingface.weights(found, shapes)
    for path, array in arrays.items():
        variables[path].assign(array)
    return Loaded(found, image, words, encoder, shapes, arrays, rest)


@pytest.fixture(scope="module")
def loaded():
    """Function of a model to its `Loaded`, made once."""
    return functools.cache(load)


def distance(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


def cls_of(encoder, tokens):
    tower = encoder.towers["text"]
    hidden = keras.Model(tower.input, tower.get_layer("text_projection").input)
    return np.asarray(hidden(tokens))


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["align", "deep"])
def test_embeddings_equal_those_of_align(name, loaded, recorded):
    encoder, expected = loaded(name).encoder, recorded(name)
    pixels = case.images(loaded(name).checkpoint.images["crop"])
    rows = {}
    for kind, inputs in (("image", pixels), ("text", expected["tokens"])):
        assert distance(encoder.towers[kind](inputs), expected[f"{kind}_embeds"]) < 1e-5
        rows[kind] = np.asarray(encoder.encode(kind, inputs))
        assert distance(rows[kind], expected[f"{kind}_rows"]) < 1e-5
    sigma = float(encoder.temperatures["shared"])
    assert sigma == 0.0625  # and not the 1.0 of its config.json
    assert distance(rows["text"] @ rows["image"].T / sigma, expected["logits"]) < 1e-5
    assert set(loaded(name).arrays) == set(loaded(name).shapes) and loaded(name).rest == []


@pytest.mark.parametrize("name", ["bert", "masked"])
def test_cls_equals_that_of_bert(name, loaded, recorded):
    expected = recorded(name)
    assert distance(cls_of(loaded(name).encoder, expected["tokens"]), expected["cls"]) < 1e-5
    assert loaded(name).rest == []


@pytest.mark.parametrize("name, kernels", [("align", {3}), ("deep", {3, 5})])
def test_symmetric_padding_would_be_seen(name, kernels, loaded, recorded):
    found, expected = loaded(name), recorded(name)
    assert {
        shape[0]
        for shape in models.block_shapes(models.EFFICIENTNETS[found.image["name"]]).values()
    } == kernels
    options = {**found.image, "padding": "symmetric"}
    tower = models.image_tower(**options, embedding_dim=found.checkpoint.embedding_dim)
    tower.set_weights(found.encoder.towers["image"].get_weights())
    pixels = case.images(found.image["image_size"])
    assert distance(tower(pixels), expected["image_embeds"]) > 0.1


@pytest.mark.parametrize("change", [{"activation": "gelu_approximate"}, {"sizes": (2, 32, 2, 48)}])
def test_another_activation_or_number_of_heads_would_be_seen(change, loaded, recorded):
    found, expected = loaded("align"), recorded("align")
    tower = models.text_tower(**{**found.text, **change}, embedding_dim=96)
    weights = found.encoder.towers["text"].get_weights()
    tower.set_weights([x.reshape(v.shape) for x, v in zip(weights, tower.weights, strict=True)])
    assert distance(tower(expected["tokens"]), expected["text_embeds"]) > 1e-4


def test_towers_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match="unknown padding 'ends'; known: symmetric, end; did you"):
        models.image_tower("tiny", 32, padding="ends")
    with pytest.raises(UserError, match="unknown activation 'relu'; known: gelu_approximate, gelu"):
        models.text_tower(20, "nano", activation="relu")
    for sizes in [(2, 32, 4), (2, 32, 5, 48)]:
        with pytest.raises(UserError, match="sizes of a BERT are .* expected layers, width, heads"):
            models.text_tower(20, sizes=sizes)


def test_of_a_bert_the_rest_of_the_model_stays_fresh(loaded):
    found = loaded("bert")
    words = {v.path for v in found.encoder.towers["text"].variables} & set(found.shapes)
    assert set(found.arrays) == words - {"text_projection/kernel", "text_projection/bias"}


def test_the_position_table_takes_the_first_rows(loaded):
    found, name = loaded("bert"), "position_embedding/embeddings"
    whole, first = (
        huggingface.weights(found.checkpoint, {**found.shapes, name: (rows, 32)})[0][name]
        for rows in (20, 7)
    )
    np.testing.assert_array_equal(first, whole[:7])
    with pytest.raises(UserError, match=r"position_embeddings.weight has shape \(20, 32\), exp"):
        huggingface.weights(found.checkpoint, {**found.shapes, name: (21, 32)})


# --- what it says of itself -----------------------------------------------------------------------


def test_what_a_checkpoint_says():
    found = huggingface.open_checkpoint(folder_of("align"))
    assert found.image == {"name": "tiny", "padding": "end"}
    assert found.images == {"resize": 40, "crop": 33}
    assert found.text == {"sizes": (2, 32, 4, 48), "activation": "gelu"}
    assert (found.positions, found.embedding_dim, found.lower_case) == (20, 96, True)
    assert found.vocabulary == tuple(case.VOCABULARY)
    found = huggingface.open_checkpoint(folder_of("bert"))
    assert found.image is found.images is found.embedding_dim is None
    assert found.text == {"sizes": (2, 32, 4, 48), "activation": "gelu_approximate"}
    assert found.lower_case is False
    # Vocabulary and case out of tokenizer.json.
    found = huggingface.open_checkpoint(folder_of("masked"))
    assert found.vocabulary == tuple(case.VOCABULARY) and found.lower_case is True


@pytest.mark.parametrize("name", NAMES)
def test_tokens_equal_those_of_its_tokenizer(name, recorded):
    found = huggingface.open_checkpoint(folder_of(name))
    tokenizer = tokenizers.Tokenizer(found.vocabulary, case.MAX_TOKENS, found.lower_case)
    np.testing.assert_array_equal(tokenizer(case.TEXTS), recorded(name)["tokens"])


def test_what_config_json_leaves_out_is_what_it_means_there():
    assert align.describe({}, "here") == {"name": "b7", "padding": "end", "width": 640}
    assert bert.describe({"hidden_act": None}, "here") == {
        "sizes": (12, 768, 12, 3072),
        "activation": "gelu",
        "positions": 512,
        "vocabulary_size": 30522,
    }


@pytest.mark.parametrize("name", ["align", "deep"])
def test_pixels_are_those_of_its_image_processor(name, recorded):
    sizes = huggingface.open_checkpoint(folder_of(name)).images
    small = case.images(sizes["resize"] // 2)
    ours = [
        image_ops.for_evaluation(tf.io.encode_png(image), sizes["resize"], sizes["crop"])
        for image in small
    ]
    levels = (recorded(name)["pixels"] + 1) * 127.5
    # Theirs rounds the rows before it resizes the columns.
    assert np.abs(np.stack(ours) - levels).max() < 1.01


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """Function of a model to a copy of its folder, which a test may spoil."""

    def make(name):
        shutil.copytree(folder_of(name), tmp_path / name)
        return tmp_path / name

    return make


def rewrite(path, **changes):
    """Sets values of a JSON file; "outer__inner" is an inner one."""
    data = json.loads(path.read_text())
    for name, value in changes.items():
        outer, _, inner = name.rpartition("__")
        (data[outer] if outer else data)[inner] = value
    path.write_text(json.dumps(data))


def save(path, tensors, dtype="F32"):
    """Writes a safetensors file; arrays are bytes of `dtype` already."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        span = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": span}
        data += raw
    start = json.dumps(header).encode()
    path.write_bytes(len(start).to_bytes(8, "little") + start + data)


def floats(folder):
    return {n: x for n, x in files.tensors(folder).items() if x.dtype == np.float32}


def test_shards_are_one_checkpoint():
    with open(os.path.join(folder_of("deep"), "model.safetensors.index.json")) as file:
        index = json.load(file)
    assert set(files.tensors(folder_of("deep"))) == set(index["weight_map"])
    assert len(set(index["weight_map"].values())) == 4


def test_half_precision_is_read(copy):
    folder = copy("bert")
    whole = {name: np.array(x) for name, x in floats(folder).items()}
    save(folder / "model.safetensors", {n: x.astype(np.float16) for n, x in whole.items()}, "F16")
    for name, found in files.tensors(folder).items():
        np.testing.assert_allclose(found, whole[name], rtol=1e-3, atol=1e-6)
    # The upper half of a float32, rounded towards zero.
    upper = {n: (x.view(np.uint32) >> 16).astype(np.uint16) for n, x in whole.items()}
    save(folder / "model.safetensors", upper, "BF16")
    for name, found in files.tensors(folder).items():
        assert found.dtype == np.float32 and found.shape == whole[name].shape
        np.testing.assert_allclose(found, whole[name], rtol=2**-7)
    save(folder / "model.safetensors", {"a": np.zeros(1, np.uint8)}, "F8_E4M3")
    with pytest.raises(UserError, match=r"unknown dtype \(of .*model.safetensors: a\) 'F8_E4M3'"):
        files.tensors(folder)


def test_layer_norms_may_be_called_as_in_tensorflow(copy, loaded):
    folder = copy("bert")
    names = {"weight": "gamma", "bias": "beta"}

    def old(name):
        head, _, last = name.rpartition(".")
        return f"{head}.{names[last]}" if head.endswith("LayerNorm") else name

    renamed = {old(name): np.array(x) for name, x in floats(folder).items()}
    assert sum("gamma" in name for name in renamed) == 5
    save(folder / "model.safetensors", renamed)
    checkpoint = huggingface.open_checkpoint(str(folder))
    arrays, rest = huggingface.weights(checkpoint, loaded("bert").shapes)
    assert rest == []
    for path, expected in loaded("bert").arrays.items():
        np.testing.assert_array_equal(arrays[path], expected)


# --- refusals -------------------------------------------------------------------------------------


def config(**changes):
    return lambda folder: rewrite(folder / "config.json", **changes)


def tokenizer(**changes):
    return lambda folder: rewrite(folder / "tokenizer_config.json", **changes)


def processor(**changes):
    return lambda folder: rewrite(folder / "preprocessor_config.json", **changes)


def without(name):
    return lambda folder: os.remove(folder / name)


def two_more_pieces(folder):
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("more\nmost\n")


DESCRIPTIONS = [
    (without("config.json"), "align holds no config.json; expected the folder of a whole checkp"),
    (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON .*; fetch it again"),
    (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json: expected a JSON object, found l",
    ),
    (config(model_type="clip"), r"unknown model_type \(of .*config.json\) 'clip'; known: align, b"),
    (config(model_type=None), "unknown model_type .* None; known: align, bert"),
    (config(projection_dim=64), "projection_dim is 64, but the image tower is 96 wide; expected t"),
    (config(text_config__hidden_act="relu"), r"unknown hidden_act \(of .*\) 'relu'; known: gelu"),
    (config(text_config__layer_norm_eps=1e-5), "layer_norm_eps is 1e-05, but the text tower has 1"),
    (config(text_config__type_vocab_size=1), "type_vocab_size is 1, but the text tower has 2"),
    (
        config(text_config__position_embedding_type="relative_key"),
        "position_embedding_type is 'relative_key', but the text tower has 'absolute'",
    ),
    (
        config(text_config__vocab_size=48),
        "vocab_size is 48, but the vocabulary beside it has 47 pi",
    ),
    (config(vision_config__batch_norm_eps=1e-5), "vision_config.batch_norm_eps is 1e-05, but the"),
    (config(vision_config__depthwise_padding=[2]), r"depthwise_padding is \[2\], but the image to"),
    (config(vision_config__hidden_act="gelu"), "vision_config.hidden_act is 'gelu', but the image"),
    (config(vision_config__width_coefficient=0.7), "none of the EfficientNets tiny, b0, .* 0.7, d"),
    (without("vocab.txt"), "align holds no vocab.txt and no tokenizer.json; fetch one of them"),
    (two_more_pieces, "vocab_size is 47, but the vocabulary beside it has 49 pieces"),
    (tokenizer(tokenizer_class="BertJapaneseTokenizer"), "'BertJapaneseTokenizer', expected BertT"),
    (
        tokenizer(strip_accents=False),
        "do_lower_case is True, strip_accents False; expected both or",
    ),
    (
        tokenizer(tokenize_chinese_chars=False),
        "and tokenize_chinese_chars: texts are split as BERT",
    ),
    (without("preprocessor_config.json"), "holds no preprocessor_config.json, which tells the ima"),
    (processor(rescale_factor=1 / 255), r"rescale_factor is 0.0039\d*, expected 0.0078.*1/127.5"),
    (
        processor(rescale_offset=False),
        "rescale_offset is False, expected True; the image tower tak",
    ),
    (
        processor(do_normalize=True),
        "do_normalize is True, expected False; the image tower takes pi",
    ),
    (processor(include_top=True), "include_top is True, expected False"),
    (processor(crop_size={"height": 33, "width": 30}), "crop_size is .* expected a square with he"),
    (processor(size={"shortest_edge": 40}), "size is {'shortest_edge': 40}, expected a square"),
]


@pytest.mark.parametrize("spoil, message", DESCRIPTIONS)
def test_a_checkpoint_that_cannot_be_is_refused(spoil, message, copy):
    folder = copy("align")
    spoil(folder)
    with pytest.raises(UserError, match=message):
        huggingface.open_checkpoint(str(folder))


def test_without_a_crop_the_image_is_as_resized(copy):
    folder = copy("align")
    rewrite(folder / "preprocessor_config.json", do_center_crop=False)
    assert huggingface.open_checkpoint(str(folder)).images == {"resize": 40, "crop": 40}


def test_case_is_that_of_bert_where_nothing_says_it(copy):
    folder = copy("bert")
    rewrite(folder / "tokenizer_config.json", do_lower_case=None, strip_accents=None)
    assert huggingface.open_checkpoint(str(folder)).lower_case is True
    os.remove(folder / "tokenizer_config.json")
    assert huggingface.open_checkpoint(str(folder)).lower_case is True


def tensors(change):
    def spoil(folder):
        found = {name: np.array(x) for name, x in floats(folder).items()}
        change(found)
        save(folder / "model.safetensors", found)

    return spoil


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


QUERY = "encoder.layer.1.attention.self.query.weight"
WEIGHTS = [
    (without("model.safetensors"), "bert holds no weights; expected model.safetensors or pytorch_"),
    (cut_short, r"model.safetensors has \d+ bytes, expected \d+; it is cut short: fetch it again"),
    (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 9),
        "is no safetensors file, or cut",
    ),
    (lambda f: (f / "model.safetensors").write_bytes(b""), "is no safetensors file, or cut short"),
    (tensors(lambda t: t.pop(QUERY)), f"not those of its config.json: {QUERY} is missing; expect"),
    (
        tensors(lambda t: t.update({QUERY: t[QUERY][:, :16]})),
        r"query.weight has shape \(32, 16\), expected \(32, 32\); expected a whole checkpoint",
    ),
    (
        tensors(lambda t: t.update({QUERY: t[QUERY].reshape(16, 64)})),
        r"query.weight has shape \(16, 64\), expected \(32, 32\)",
    ),
    (
        tensors(lambda t: t.update({QUERY.replace("1", "2"): t[QUERY]})),
        "have 1 tensors of layers that its config.json does not tell of: encoder.layer.2.attention",
    ),
    (
        tensors(lambda t: t.pop("embeddings.word_embeddings.weight")),
        "have 0 tensors called embeddings.word_embeddings.weight, expected 1; is this a checkp",
    ),
    (
        tensors(lambda t: t.update({"decoder.embeddings.word_embeddings.weight": t[QUERY]})),
        "have 2 tensors called embeddings.word_embeddings.weight, expected 1",
    ),
]


@pytest.mark.parametrize("spoil, message", WEIGHTS)
def test_weights_that_cannot_be_are_refused(spoil, message, copy, loaded):
    folder = copy("bert")
    checkpoint = huggingface.open_checkpoint(str(folder))
    spoil(folder)
    with pytest.raises(UserError, match=message):
        huggingface.weights(checkpoint, loaded("bert").shapes)


def test_a_shard_that_is_not_there(copy, loaded):
    folder = copy("deep")
    os.remove(folder / "model-00002-of-00004.safetensors")
    checkpoint = huggingface.open_checkpoint(str(folder))
    with pytest.raises(UserError, match="00004.safetensors is missing, though the index names it"):
        huggingface.weights(checkpoint, loaded("deep").shapes)


def test_heads_of_other_tasks_are_told(copy, loaded):
    folder = copy("bert")
    tensors(lambda t: t.update({"classifier.bias": np.zeros(2, np.float32)}))(folder)
    checkpoint = huggingface.open_checkpoint(str(folder))
    assert huggingface.weights(checkpoint, loaded("bert").shapes)[1] == ["classifier.bias"]


# --- PyTorch's own format, and the hub ------------------------------------------------------------


def test_pickled_weights_need_pytorch(copy, loaded, monkeypatch):
    folder = copy("bert")
    os.rename(folder / "model.safetensors", folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pytorch_model.bin .*needs torch: pip install torch, or"):
        files.tensors(folder)

    class Tensor:
        def __init__(self, value):
            self._value = value

        def float(self):
            return self

        def numpy(self):
            return self._value

    def unpickle(path, map_location, weights_only):
        assert path == str(folder / "pytorch_model.bin") and weights_only
        return {name: Tensor(x) for name, x in files.tensors(folder_of("bert")).items()}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=unpickle))
    checkpoint = huggingface.open_checkpoint(str(folder))
    arrays, _ = huggingface.weights(checkpoint, loaded("bert").shapes)
    for path, expected in loaded("bert").arrays.items():
        np.testing.assert_array_equal(arrays[path], expected)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with owner/bert on it; what was asked of it, in order."""
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append(tuple(allow_patterns))
        if name != "owner/bert":
            raise OSError("404 Client Error\nand much more")
        (tmp_path / "snapshot").mkdir(exist_ok=True)
        for file in os.listdir(folder_of("bert")):
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                shutil.copy(os.path.join(folder_of("bert"), file), tmp_path / "snapshot")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_name_is_fetched_and_its_weights_when_they_are_wanted(hub, loaded):
    checkpoint = huggingface.open_checkpoint("owner/bert")
    assert not os.path.exists("snapshot/model.safetensors")
    assert checkpoint.vocabulary == tuple(case.VOCABULARY) and checkpoint.name == "owner/bert"
    arrays, _ = huggingface.weights(checkpoint, loaded("bert").shapes)
    assert set(arrays) == set(loaded("bert").arrays)
    # Not both formats of the weights.
    assert len(hub) == 2 and not any("bin" in pattern for pattern in hub[1])


@pytest.mark.parametrize("name", ["owner/other", "gpt"])
def test_what_cannot_be_fetched_is_one_line(hub, name):
    with pytest.raises(UserError) as refusal:
        huggingface.open_checkpoint(name)
    message = str(refusal.value)
    assert message.startswith(f"{name} cannot be fetched from huggingface.co (404 Client Error); ")
    assert f"`hf download {name} --local-dir FOLDER`" in message and "\n" not in message


@pytest.mark.parametrize("name", ["./bert", "/no/bert", "~/no/bert", "no/such/bert", ""])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(hub, name):
    with pytest.raises(UserError, match="^no folder .*; expected one with the config.json and the"):
        huggingface.open_checkpoint(name)
    assert hub == []


def test_the_hub_is_an_option(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub: pip install huggingface_hub, or"):
        huggingface.open_checkpoint("owner/bert")
