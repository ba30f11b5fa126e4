"""Reads checkpoints of Hugging Face, and compares outputs with those of Hugging Face's classes.

The checkpoints and their outputs are recorded by golden/record_huggingface.py.
"""

import dataclasses
import fnmatch
import functools
import json
import os
import re
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from golden import huggingface_case as case
from helpers.small_models import cls_states

from tf_mural import huggingface, models
from tf_mural.data import image_ops, tokenizers
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.errors import UserError
from tf_mural.huggingface import align, bert, checkpoint_files

NAMES = ["align", "deep", "bert", "masked"]


@pytest.fixture(scope="module", autouse=True)
def register_deep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.EFFICIENTNETS, "deep", case.DEEP)
        yield


@pytest.fixture(scope="module")
def recorded():
    """Returns a callable that maps the name of a checkpoint to recorded outputs, {name: array}."""
    with np.load(case.OUTPUTS) as file:
        arrays = dict(file)
    return lambda name: {
        key.partition("/")[2]: x for key, x in arrays.items() if key.startswith(f"{name}/")
    }


def folder_of(name):
    return os.path.join(case.FOLDER, name)


@dataclasses.dataclass
class Loaded:
    """An encoder with the options and weights of a checkpoint.

    Attributes:
        checkpoint: `huggingface.Checkpoint`.
        image: arguments of the image tower.
        text: arguments of the text tower.
        encoder: `models.DualEncoder`.
        shapes: {path: shape} of the variables of `encoder`.
        arrays: {path: array} of the variables that the checkpoint contains.
        unused: names of the tensors of the checkpoint that are not used.
    """

    checkpoint: huggingface.Checkpoint
    image: dict
    text: dict
    encoder: models.DualEncoder
    shapes: dict
    arrays: dict
    unused: list


def load(name):
    checkpoint = huggingface.open_checkpoint(folder_of(name))
    image = {**(checkpoint.image or {"backbone": "tiny"}), "stochastic_depth": 0.0}
    image["image_size"] = checkpoint.image_sizes["crop"] if checkpoint.image_sizes else 32
    text = {**checkpoint.text, "vocabulary_size": len(checkpoint.vocabulary), "dropout": 0.0}
    text["max_tokens"] = case.MAX_TOKENS
    encoder = models.dual_encoder(image, text, checkpoint.embedding_dim or 16)
    variables = {v.path: v for v in encoder.variables if "seed_generator" not in v.path}
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    arrays, unused = huggingface.read_weights(checkpoint, shapes)
    for path, array in arrays.items():
        variables[path].assign(array)
    return Loaded(checkpoint, image, text, encoder, shapes, arrays, unused)


@pytest.fixture(scope="module")
def loaded():
    """Returns a callable that maps the name of a checkpoint to a `Loaded`, which is built once."""
    return functools.cache(load)


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected)


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["align", "deep"])
def test_embeddings_equal_those_of_align(name, loaded, recorded):
    encoder, expected = loaded(name).encoder, recorded(name)
    pixels = case.images(loaded(name).checkpoint.image_sizes["crop"])
    embeddings = {}
    for modality, inputs in (("image", pixels), ("text", expected["tokens"])):
        raw = encoder.towers[modality](inputs)
        assert relative_error(raw, expected[f"{modality}_embeds"]) < 1e-5
        embeddings[modality] = np.asarray(encoder.encode(modality, inputs))
        assert relative_error(embeddings[modality], expected[f"{modality}_rows"]) < 1e-5
    temperature = float(encoder.scalars["temperature"]["shared"])
    assert temperature == 0.0625  # the value in the weights; config.json has 1.0
    logits = embeddings["text"] @ embeddings["image"].T / temperature
    assert relative_error(logits, expected["logits"]) < 1e-5
    assert set(loaded(name).arrays) == set(loaded(name).shapes) and loaded(name).unused == []


@pytest.mark.parametrize("name", ["bert", "masked"])
def test_cls_equals_that_of_bert(name, loaded, recorded):
    expected = recorded(name)
    states = cls_states(loaded(name).encoder.towers["text"], expected["tokens"])
    assert relative_error(states, expected["cls"]) < 1e-5
    assert loaded(name).unused == []


@pytest.mark.parametrize("name, kernels", [("align", {3}), ("deep", {3, 5})])
def test_symmetric_padding_changes_the_embeddings(name, kernels, loaded, recorded):
    model, expected = loaded(name), recorded(name)
    assert {
        shape[0]
        for shape in models.block_shapes(models.EFFICIENTNETS[model.image["backbone"]]).values()
    } == kernels
    options = {**model.image, "padding": "symmetric"}
    tower = models.image_tower(**options, embedding_dim=model.checkpoint.embedding_dim)
    tower.set_weights(model.encoder.towers["image"].get_weights())
    pixels = case.images(model.image["image_size"])
    assert relative_error(tower(pixels), expected["image_embeds"]) > 0.1


@pytest.mark.parametrize("change", [{"activation": "gelu_approximate"}, {"sizes": (2, 32, 2, 48)}])
def test_another_activation_or_number_of_heads_changes_the_embeddings(change, loaded, recorded):
    model, expected = loaded("align"), recorded("align")
    tower = models.text_tower(**{**model.text, **change}, embedding_dim=96)
    weights = model.encoder.towers["text"].get_weights()
    tower.set_weights([x.reshape(v.shape) for x, v in zip(weights, tower.weights, strict=True)])
    assert relative_error(tower(expected["tokens"]), expected["text_embeds"]) > 1e-4


def test_towers_refuse_unknown_options():
    with pytest.raises(UserError, match="unknown padding 'ends'; known: symmetric, end; did you"):
        models.image_tower("tiny", 32, padding="ends")
    with pytest.raises(UserError, match="unknown activation 'relu'; known: gelu_approximate, gelu"):
        models.text_tower(20, "nano", activation="relu")
    for sizes in [(2, 32, 4), (2, 32, 5, 48)]:
        with pytest.raises(UserError, match="sizes of a BERT are .* expected layers, width, heads"):
            models.text_tower(20, sizes=sizes)


def test_a_bert_fills_only_the_text_tower_without_its_projection(loaded):
    model = loaded("bert")
    paths = {v.path for v in model.encoder.towers["text"].variables} & set(model.shapes)
    assert set(model.arrays) == paths - {"text_projection/kernel", "text_projection/bias"}


def test_position_embeddings_are_truncated(loaded):
    model, name = loaded("bert"), "position_embedding/embeddings"
    full, truncated = (
        huggingface.read_weights(model.checkpoint, {**model.shapes, name: (rows, 32)})[0][name]
        for rows in (20, 7)
    )
    np.testing.assert_array_equal(truncated, full[:7])
    with pytest.raises(UserError, match=r"position_embeddings.weight has shape \(20, 32\), exp"):
        huggingface.read_weights(model.checkpoint, {**model.shapes, name: (21, 32)})


# --- descriptions ---------------------------------------------------------------------------------


def test_the_description_of_a_checkpoint_is_parsed():
    checkpoint = huggingface.open_checkpoint(folder_of("align"))
    assert checkpoint.image == {"backbone": "tiny", "padding": "end"}
    assert checkpoint.image_sizes == {"resize": 40, "crop": 33}
    assert checkpoint.text == {"sizes": (2, 32, 4, 48), "activation": "gelu"}
    assert (checkpoint.positions, checkpoint.embedding_dim, checkpoint.lower_case) == (20, 96, True)
    assert checkpoint.vocabulary == tuple(case.VOCABULARY)
    checkpoint = huggingface.open_checkpoint(folder_of("bert"))
    assert checkpoint.image is checkpoint.image_sizes is checkpoint.embedding_dim is None
    assert checkpoint.text == {"sizes": (2, 32, 4, 48), "activation": "gelu_approximate"}
    assert checkpoint.lower_case is False
    # This checkpoint has the vocabulary and the setting `lowercase` only in tokenizer.json.
    checkpoint = huggingface.open_checkpoint(folder_of("masked"))
    assert checkpoint.vocabulary == tuple(case.VOCABULARY) and checkpoint.lower_case is True


@pytest.mark.parametrize("name", NAMES)
def test_tokens_equal_those_of_the_tokenizer_of_the_checkpoint(name, recorded):
    checkpoint = huggingface.open_checkpoint(folder_of(name))
    tokenizer = tokenizers.Tokenizer(checkpoint.vocabulary, case.MAX_TOKENS, checkpoint.lower_case)
    np.testing.assert_array_equal(tokenizer(case.TEXTS), recorded(name)["tokens"])


def test_missing_keys_of_config_json_have_default_values():
    assert align.parse_config({}, "here") == {"backbone": "b7", "padding": "end", "width": 640}
    assert bert.parse_config({"hidden_act": None}, "here") == {
        "sizes": (12, 768, 12, 3072),
        "activation": "gelu",
        "positions": 512,
        "vocabulary_size": 30522,
    }


@pytest.mark.parametrize("name", ["align", "deep"])
def test_pixels_equal_those_of_the_image_processor_of_the_checkpoint(name, recorded):
    sizes = huggingface.open_checkpoint(folder_of(name)).image_sizes
    images = case.images(sizes["resize"] // 2)
    actual = [
        image_ops.preprocess_for_evaluation(tf.io.encode_png(image), Preprocessing(**sizes))
        for image in images
    ]
    levels = (recorded(name)["pixels"] + 1) * 127.5
    # The image processor also rounds the values between resizing the rows and the columns.
    assert np.abs(np.stack(actual) - levels).max() < 1.01


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """Returns a callable that copies a checkpoint to a folder that the test can change."""

    def copy_folder(name):
        shutil.copytree(folder_of(name), tmp_path / name)
        return tmp_path / name

    return copy_folder


def edit_json(path, **changes):
    """Sets values in a JSON file; "outer__inner" is the key "inner" of the object "outer"."""
    data = json.loads(path.read_text())
    for name, value in changes.items():
        outer, _, inner = name.rpartition("__")
        (data[outer] if outer else data)[inner] = value
    path.write_text(json.dumps(data))


def write_safetensors(path, tensors, dtype="F32"):
    """Writes a safetensors file whose header declares the bytes of all arrays as `dtype`."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        span = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": span}
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def read_floats(folder):
    """Returns copies of the float32 tensors of a checkpoint, {name: array}."""
    tensors = checkpoint_files.read_tensors(folder)
    return {name: np.array(x) for name, x in tensors.items() if x.dtype == np.float32}


def test_shards_are_merged():
    with open(os.path.join(folder_of("deep"), "model.safetensors.index.json")) as file:
        index = json.load(file)
    assert set(checkpoint_files.read_tensors(folder_of("deep"))) == set(index["weight_map"])
    assert len(set(index["weight_map"].values())) == 4


def test_half_precision_tensors_are_read(copy):
    folder = copy("bert")
    full = read_floats(folder)
    write_safetensors(
        folder / "model.safetensors", {n: x.astype(np.float16) for n, x in full.items()}, "F16"
    )
    for name, array in checkpoint_files.read_tensors(folder).items():
        np.testing.assert_allclose(array, full[name], rtol=1e-3, atol=1e-6)
    # A bfloat16 is the upper half of a float32. Omitting the lower half rounds towards zero.
    upper = {n: (x.view(np.uint32) >> 16).astype(np.uint16) for n, x in full.items()}
    write_safetensors(folder / "model.safetensors", upper, "BF16")
    for name, array in checkpoint_files.read_tensors(folder).items():
        assert array.dtype == np.float32 and array.shape == full[name].shape
        np.testing.assert_allclose(array, full[name], rtol=2**-7)
    write_safetensors(folder / "model.safetensors", {"a": np.zeros(1, np.uint8)}, "F8_E4M3")
    with pytest.raises(UserError, match=r"unknown dtype \(of .*model.safetensors: a\) 'F8_E4M3'"):
        checkpoint_files.read_tensors(folder)


def test_layer_norms_may_have_the_names_of_tensorflow(copy, loaded):
    folder = copy("bert")
    names = {"weight": "gamma", "bias": "beta"}

    def old_name(name):
        head, _, last = name.rpartition(".")
        return f"{head}.{names[last]}" if head.endswith("LayerNorm") else name

    renamed = {old_name(name): x for name, x in read_floats(folder).items()}
    assert sum("gamma" in name for name in renamed) == 5
    write_safetensors(folder / "model.safetensors", renamed)
    checkpoint = huggingface.open_checkpoint(str(folder))
    arrays, unused = huggingface.read_weights(checkpoint, loaded("bert").shapes)
    assert unused == []
    for path, expected in loaded("bert").arrays.items():
        np.testing.assert_array_equal(arrays[path], expected)


# --- refusals -------------------------------------------------------------------------------------


def edit_config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


def edit_tokenizer(**changes):
    return lambda folder: edit_json(folder / "tokenizer_config.json", **changes)


def edit_processor(**changes):
    return lambda folder: edit_json(folder / "preprocessor_config.json", **changes)


def remove(name):
    return lambda folder: os.remove(folder / name)


def add_two_pieces(folder):
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("more\nmost\n")


DESCRIPTIONS = [
    (remove("config.json"), "align has no config.json; expected the folder of a complete check"),
    (
        lambda f: (f / "config.json").write_text("{"),
        "config.json is not JSON .*; download it again",
    ),
    (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json: expected a JSON object, found l",
    ),
    (
        edit_config(model_type="clip"),
        r"unknown model_type \(of .*config.json\) 'clip'; known: align, b",
    ),
    (edit_config(model_type=None), "unknown model_type .* None; known: align, bert"),
    (
        edit_config(projection_dim=64),
        "projection_dim is 64, but the image tower has 96 output features; e",
    ),
    (
        edit_config(text_config__hidden_act="relu"),
        r"unknown hidden_act \(of .*\) 'relu'; known: gelu",
    ),
    (
        edit_config(text_config__layer_norm_eps=1e-5),
        "layer_norm_eps is 1e-05, but the text tower supports only 1",
    ),
    (
        edit_config(text_config__type_vocab_size=1),
        "type_vocab_size is 1, but the text tower supports only 2",
    ),
    (
        edit_config(text_config__position_embedding_type="relative_key"),
        "position_embedding_type is 'relative_key', but the text tower supports only 'absolute'",
    ),
    (
        edit_config(text_config__vocab_size=48),
        "vocab_size is 48, but the vocabulary in the same folder has 47 pi",
    ),
    (
        edit_config(vision_config__batch_norm_eps=1e-5),
        "vision_config.batch_norm_eps is 1e-05, but the",
    ),
    (
        edit_config(vision_config__depthwise_padding=[2]),
        r"depthwise_padding is \[2\], but the image to",
    ),
    (
        edit_config(vision_config__hidden_act="gelu"),
        "vision_config.hidden_act is 'gelu', but the image",
    ),
    (
        edit_config(vision_config__width_coefficient=0.7),
        "none of the EfficientNets tiny, b0, .* 0.7, d",
    ),
    (remove("vocab.txt"), "align has no vocab.txt and no tokenizer.json; download one of them"),
    (add_two_pieces, "vocab_size is 47, but the vocabulary in the same folder has 49 pieces"),
    (
        edit_tokenizer(tokenizer_class="BertJapaneseTokenizer"),
        "'BertJapaneseTokenizer', expected BertT",
    ),
    (
        edit_tokenizer(strip_accents=False),
        "do_lower_case is True, strip_accents is False; expected two equal values",
    ),
    (
        edit_tokenizer(tokenize_chinese_chars=False),
        "and the value True of tokenize_chinese_chars, as in BertTokenizer",
    ),
    (remove("preprocessor_config.json"), "has no preprocessor_config.json, which contains the ima"),
    (
        edit_processor(rescale_factor=1 / 255),
        r"rescale_factor is 0.0039\d*, expected 0.0078.*1/127.5",
    ),
    (
        edit_processor(rescale_offset=False),
        "rescale_offset is False, expected True; the inputs of the im",
    ),
    (
        edit_processor(do_normalize=True),
        "do_normalize is True, expected False; the inputs of the image",
    ),
    (edit_processor(include_top=True), "include_top is True, expected False"),
    (
        edit_processor(crop_size={"height": 33, "width": 30}),
        "crop_size is .* expected a square with he",
    ),
    (
        edit_processor(size={"shortest_edge": 40}),
        "size is {'shortest_edge': 40}, expected a square",
    ),
]


@pytest.mark.parametrize("damage, message", DESCRIPTIONS)
def test_an_unsupported_or_damaged_description_is_refused(damage, message, copy):
    folder = copy("align")
    damage(folder)
    with pytest.raises(UserError, match=message):
        huggingface.open_checkpoint(str(folder))


def test_without_a_crop_both_image_sizes_are_equal(copy):
    folder = copy("align")
    edit_json(folder / "preprocessor_config.json", do_center_crop=False)
    assert huggingface.open_checkpoint(str(folder)).image_sizes == {"resize": 40, "crop": 40}


def test_lower_case_is_the_default(copy):
    folder = copy("bert")
    edit_json(folder / "tokenizer_config.json", do_lower_case=None, strip_accents=None)
    assert huggingface.open_checkpoint(str(folder)).lower_case is True
    os.remove(folder / "tokenizer_config.json")
    assert huggingface.open_checkpoint(str(folder)).lower_case is True


def edit_tensors(change):
    def damage(folder):
        tensors = read_floats(folder)
        change(tensors)
        write_safetensors(folder / "model.safetensors", tensors)

    return damage


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


QUERY = "encoder.layer.1.attention.self.query.weight"
WEIGHTS = [
    (remove("model.safetensors"), "bert has no weights; expected model.safetensors"),
    (
        truncate,
        r"model.safetensors has \d+ bytes, expected \d+; it is truncated: download it again",
    ),
    (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 9),
        "is not a safetensors file, or it",
    ),
    (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        "is not a safetensors file, or it is truncated",
    ),
    (
        edit_tensors(lambda t: t.pop(QUERY)),
        f"do not match its config.json: {QUERY} is missing; expect",
    ),
    (
        edit_tensors(lambda t: t.update({QUERY: t[QUERY][:, :16]})),
        r"query.weight has shape \(32, 16\), expected \(32, 32\); expected a complete checkpoint",
    ),
    (
        edit_tensors(lambda t: t.update({QUERY: t[QUERY].reshape(16, 64)})),
        r"query.weight has shape \(16, 64\), expected \(32, 32\)",
    ),
    (
        edit_tensors(lambda t: t.update({QUERY.replace("1", "2"): t[QUERY]})),
        "have 1 tensors of layers that are not in its config.json: encoder.layer.2.attention",
    ),
    (
        edit_tensors(lambda t: t.pop("embeddings.word_embeddings.weight")),
        "have 0 tensors called embeddings.word_embeddings.weight, expected 1; is this a checkp",
    ),
    (
        edit_tensors(lambda t: t.update({"decoder.embeddings.word_embeddings.weight": t[QUERY]})),
        "have 2 tensors called embeddings.word_embeddings.weight, expected 1",
    ),
]


@pytest.mark.parametrize("damage, message", WEIGHTS)
def test_missing_or_damaged_weights_are_refused(damage, message, copy, loaded):
    folder = copy("bert")
    checkpoint = huggingface.open_checkpoint(str(folder))
    damage(folder)
    with pytest.raises(UserError, match=message):
        huggingface.read_weights(checkpoint, loaded("bert").shapes)


def test_a_missing_shard_is_refused(copy, loaded):
    folder = copy("deep")
    os.remove(folder / "model-00002-of-00004.safetensors")
    checkpoint = huggingface.open_checkpoint(str(folder))
    with pytest.raises(UserError, match="00004.safetensors is missing, but the index names it"):
        huggingface.read_weights(checkpoint, loaded("deep").shapes)


def test_heads_of_other_tasks_are_listed_as_unused(copy, loaded):
    folder = copy("bert")
    edit_tensors(lambda t: t.update({"classifier.bias": np.zeros(2, np.float32)}))(folder)
    checkpoint = huggingface.open_checkpoint(str(folder))
    assert huggingface.read_weights(checkpoint, loaded("bert").shapes)[1] == ["classifier.bias"]


# --- PyTorch's own format and downloads -----------------------------------------------------------


def test_pickled_weights_are_refused_with_the_command_that_converts_them(copy):
    folder = copy("bert")
    os.rename(folder / "model.safetensors", folder / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(UserError, match="00001.bin is a pickle, which may run any code") as error:
        checkpoint_files.read_tensors(str(folder))
    message = str(error.value)
    code = message.partition(': python -c "')[2].removesuffix('"')
    saved = {}

    class Tensor:
        def clone(self):
            return self

        def contiguous(self):
            return "contiguous"

    def unpickle(path, device, weights_only):
        assert path.endswith("00001.bin") and device == "cpu" and weights_only
        return {"a": Tensor()}

    def save_file(tensors, path):
        saved.update({path: tensors})

    safetensors = types.SimpleNamespace(torch=types.SimpleNamespace(save_file=save_file))
    fakes = {"torch": types.SimpleNamespace(load=unpickle), "safetensors": safetensors}
    fakes["safetensors.torch"] = safetensors.torch
    with pytest.MonkeyPatch.context() as patch:
        for name, module in fakes.items():
            patch.setitem(sys.modules, name, module)
        exec(code, {})
    assert saved == {str(folder / "model.safetensors"): {"a": "contiguous"}}
    assert "\n" not in message


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Replaces the hub by a fake that has only owner/bert; returns the list of requests."""
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    requests, response = [], types.SimpleNamespace(headers={}, request=None)
    errors = {
        "owner/gated": hub_errors.GatedRepoError("403", response=response),
        "owner/misspelt": hub_errors.RepositoryNotFoundError("404", response=response),
        "owner/offline": hub_errors.LocalEntryNotFoundError("no connection\nat all"),
    }

    def download(name, allow_patterns):
        requests.append(tuple(allow_patterns))
        if name in errors:
            raise errors[name]
        if name == "owner/pickle":
            allow_patterns = [p for p in allow_patterns if "safetensors" not in p]
        elif name != "owner/bert":
            raise OSError("404 Client Error\nand much more")
        (tmp_path / "snapshot").mkdir(exist_ok=True)
        for file in os.listdir(folder_of("bert")):
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                shutil.copy(os.path.join(folder_of("bert"), file), tmp_path / "snapshot")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return requests


def test_weights_are_downloaded_when_they_are_read(hub, loaded):
    checkpoint = huggingface.open_checkpoint("owner/bert")
    assert not os.path.exists("snapshot/model.safetensors")
    assert checkpoint.vocabulary == tuple(case.VOCABULARY) and checkpoint.name == "owner/bert"
    arrays, _ = huggingface.read_weights(checkpoint, loaded("bert").shapes)
    assert set(arrays) == set(loaded("bert").arrays)
    assert len(hub) == 2


@pytest.mark.parametrize("name", ["owner/other", "gpt"])
def test_a_failed_download_gives_a_message_of_one_line(hub, name):
    with pytest.raises(UserError) as error:
        huggingface.open_checkpoint(name)
    message = str(error.value)
    assert message.startswith(
        f"{name} cannot be downloaded from huggingface.co (404 Client Error); "
    )
    assert f"`hf download {name} --local-dir FOLDER`" in message and "\n" not in message


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("owner/gated", "the access is restricted: open https://huggingface.co/owner/gated, acc"),
        ("owner/misspelt", "there is no public model of this name: check the spelling, or log in"),
        ("owner/offline", "there is no connection, and no copy in the cache: connect this machine"),
    ],
)
def test_a_gated_a_misspelt_and_an_unreachable_name_have_different_messages(hub, name, advice):
    with pytest.raises(UserError, match=re.escape(f"; {advice}")) as error:
        huggingface.open_checkpoint(name)
    assert "\n" not in str(error.value)


def test_pickles_of_the_hub_are_not_downloaded(hub):
    checkpoint = huggingface.open_checkpoint("owner/pickle")
    with pytest.raises(UserError, match="owner/pickle has no model.safetensors .*is a pickle, do"):
        huggingface.read_weights(checkpoint, {})
    assert not any("bin" in pattern for patterns in hub for pattern in patterns)


@pytest.mark.parametrize("name", ["./bert", "/no/bert", "~/no/bert", "no/such/bert", ""])
def test_a_missing_folder_is_not_requested_from_the_hub(hub, name):
    with pytest.raises(UserError, match="^no folder .*; expected a folder with the config.json an"):
        huggingface.open_checkpoint(name)
    assert hub == []


def test_downloads_need_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub: pip install huggingface_hub, or"):
        huggingface.open_checkpoint("owner/bert")
