"""Writes tiny checkpoints in the layout of Hugging Face, with random weights drawn from a seed.

Each function `clip`, `metaclip_2`, `siglip` and `siglip_2` writes a folder with config.json,
preprocessor_config.json, the files of a tokenizer and model.safetensors. The weights are the same
in each call with the same seed, so that tests compare outputs with those recorded in
tests/golden/public_towers.npz.
"""

import json
import os

import numpy as np

SIZE, PATCH = 32, 8
TEXTS = ["a red dog", "A Blue cat!", "", "red blue red blue red blue red blue red blue"]
_WORDS = ["a", "red", "blue", "dog", "cat"]
_LETTERS = "abcdeglortu!"
_CONTROL, _UNKNOWN, _NORMAL = 3, 2, 1


def clip(folder, seed=0, **changes):
    """Writes a `CLIPModel`, whose tokenizer is a byte-level BPE, and returns the folder.

    Args:
        folder: output folder.
        seed: seed of the weights.
        **changes: entries of config.json that replace or complete the defaults.
    """
    vocabulary, merges = clip_vocabulary()
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 16}
    text |= {"eos_token_id": len(vocabulary) - 1, "bos_token_id": len(vocabulary) - 2}
    _write_clip(folder, seed, "clip", text, changes)
    _write_json(folder, "vocab.json", {piece: i for i, piece in enumerate(vocabulary)})
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    end = {"content": "<|endoftext|>"}
    _write_json(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": {"content": "<|startoftext|>"},
            "eos_token": end,
            "pad_token": end,
            "unk_token": end,
            "model_max_length": 16,
        },
    )
    return folder


def metaclip_2(folder, seed=0, **changes):
    """Writes a `MetaClip2Model`, whose tokenizer is that of XLM-R; see `clip`."""
    pieces = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL), *_pieces()]
    text = {"vocab_size": len(pieces) + 2, "max_position_embeddings": 14, "eos_token_id": 2}
    _write_clip(folder, seed, "metaclip_2", text, changes)
    _write_sentencepiece(folder, "sentencepiece.bpe.model", pieces)
    _write_json(folder, "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})
    return folder


def siglip(folder, seed=0, **changes):
    """Writes a `SiglipModel`, whose tokenizer is a unigram SentencePiece model; see `clip`."""
    pieces = [("<pad>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL), ("<unk>", 0.0, _UNKNOWN)]
    pieces += _pieces()
    _write_siglip(folder, seed, len(pieces), 12, changes)
    _write_sentencepiece(folder, "spiece.model", pieces)
    settings = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>"}
    _write_json(folder, "tokenizer_config.json", settings | {"unk_token": "<unk>"})
    return folder


def siglip_2(folder, seed=0, **changes):
    """Writes a SigLIP 2 with a fixed image size, whose tokenizer is that of Gemma; see `clip`.

    Its model is a `SiglipModel`, as that of the published checkpoints.
    """
    special = ("<pad>", "<eos>", "<bos>")
    pieces = [*((name, 0.0, _CONTROL) for name in special), ("<unk>", 0.0, _UNKNOWN), *_pieces()]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    _write_siglip(folder, seed, len(pieces), 10, changes)
    _write_sentencepiece(folder, "tokenizer.model", pieces, bpe=True)
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}
    tokens = {"eos_token": "<eos>", "pad_token": "<pad>", "bos_token": "<bos>"}
    _write_json(folder, "tokenizer_config.json", {**settings, **tokens})
    return folder


def tokens(config, seed=0):
    """Returns rows of tokens for a checkpoint with the given config.json, int32 (4, max_tokens).

    The rows are those of a tokenizer, except that their pieces are random: texts of different
    lengths between the tokens at the start and at the end, and padding.
    """
    text, rng = config["text_config"], np.random.default_rng(seed)
    size, length = text["vocab_size"], text["max_position_embeddings"]
    start, end, pad = {
        "clip": ([size - 2], size - 1, size - 1),
        "metaclip_2": ([0], 2, 1),
        "siglip": ([], 1, 0),
    }[config["model_type"]]
    rows = np.full((4, length), pad, np.int32)
    for row, count in zip(rows, (0, 2, 5, length - 1 - len(start)), strict=True):
        pieces = rng.integers(4, size - 2, count)
        row[: len(start) + count + 1] = [*start, *pieces, end]
    return rows


FAMILIES = {"clip": clip, "metaclip_2": metaclip_2, "siglip": siglip, "siglip_2": siglip_2}


def clip_vocabulary():
    """Returns the pieces and the merges of a byte-level vocabulary like that of CLIP."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    alphabet = [chr(b) if b in set(printable) else chr(next(others)) for b in range(256)]
    merges = [("r", "e"), ("re", "d</w>"), ("d", "o"), ("do", "g</w>"), ("b", "l"), ("bl", "u")]
    merges.append(("blu", "e</w>"))
    pieces = [*alphabet, *(f"{c}</w>" for c in alphabet), *(a + b for a, b in merges)]
    return [*pieces, "<|startoftext|>", "<|endoftext|>"], merges


def write_safetensors(path, tensors):
    """Writes {name: float32 array} to a safetensors file."""
    header, start = {}, 0
    for name, array in tensors.items():
        end = start + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    content = json.dumps(header).encode("utf-8")
    content += b" " * (-len(content) % 8)
    with open(path, "wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for array in tensors.values():
            file.write(array.tobytes())


# --- parts of the folders -------------------------------------------------------------------------


def _write_json(folder, name, content):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def _pieces():
    words = [(f"▁{word}", -float(i + 1), _NORMAL) for i, word in enumerate(_WORDS)]
    letters = [(letter, -float(i + 9), _NORMAL) for i, letter in enumerate("▁" + _LETTERS)]
    return words + [piece for piece in letters]


def _write_sentencepiece(folder, name, pieces, bpe=False):
    from tf_mural.data import sentencepiece_model

    if bpe:  # Without pieces for their parts, whole words cannot be merged.
        pieces = (
            [p for p in pieces if not p[0].startswith("▁") or len(p[0]) == 1]
            + [(f"{a}{b}", -float(i), _NORMAL) for i, (a, b) in enumerate([("▁", "a"), ("r", "e")])]
            + [(f"[unused{i}]", -99.0, 5) for i in range(len(_WORDS) - 2)]
        )
    model = sentencepiece_model.build_model(
        pieces,
        sentencepiece_model.BPE if bpe else sentencepiece_model.UNIGRAM,
        dummy_prefix=not bpe,
        single_spaces=not bpe,
    )
    with open(os.path.join(folder, name), "wb") as file:
        file.write(model.SerializeToString())


_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def _write_clip(folder, seed, model_type, text, changes):
    vision = {"hidden_size": 16, "image_size": SIZE, "patch_size": PATCH, **_SIZES}
    text = {"hidden_size": 12, **_SIZES, **text}
    config = {"model_type": model_type, "projection_dim": 12}
    name = {"clip": "CLIPModel", "metaclip_2": "MetaClip2Model"}[model_type]
    config |= {"architectures": [name], "vision_config": vision, "text_config": text, **changes}
    processor = {"image_processor_type": "CLIPImageProcessor", "resample": 3}
    processor |= {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    processor |= {"do_center_crop": True, "image_mean": mean, "image_std": std}
    _write(folder, config, processor, _clip_shapes(config), seed)


def _write_siglip(folder, seed, vocabulary_size, max_tokens, changes):
    vision = {"hidden_size": 16, "image_size": SIZE, "patch_size": PATCH, **_SIZES}
    text = {"vocab_size": vocabulary_size, "max_position_embeddings": max_tokens}
    text |= {"hidden_size": 12, "projection_size": 16, **_SIZES}
    config = {"model_type": "siglip", "architectures": ["SiglipModel"]}
    config |= {"vision_config": vision, "text_config": text, **changes}
    processor = {"image_processor_type": "SiglipImageProcessor", "resample": 2}
    processor |= {"size": {"height": SIZE, "width": SIZE}}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    _write(folder, config, processor, _siglip_shapes(config), seed)


def _write(folder, config, processor, shapes, seed):
    os.makedirs(folder, exist_ok=True)
    _write_json(folder, "config.json", config)
    _write_json(folder, "preprocessor_config.json", processor)
    rng = np.random.default_rng(seed)
    tensors = {name: draw(rng, name, shape) for name, shape in shapes.items()}
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)


def draw(rng, name, shape):
    """Returns a random tensor. Equal weights would hide a mix-up of tensors."""
    if name in ("logit_scale", "logit_bias"):
        value = {"logit_scale": np.log(20.0), "logit_bias": -8.0}[name]
        return np.full(shape, value, np.float32)
    noise = rng.standard_normal(shape)
    if len(shape) > 1:
        fan_in = np.prod(shape[1:]) if "embedding." not in name else 4
        return np.asarray(noise / fan_in**0.5, np.float32)
    is_scale = name.endswith("weight")
    return np.asarray(is_scale + 0.2 * noise, np.float32)


def _layer_shapes(prefix, settings):
    width, hidden = settings["hidden_size"], settings["intermediate_size"]
    shapes = {}
    for i in range(settings["num_hidden_layers"]):
        layer = f"{prefix}encoder.layers.{i}."
        for part in ("k", "v", "q", "out"):
            shapes |= _linear(f"{layer}self_attn.{part}_proj", width, width)
        shapes |= _norm(f"{layer}layer_norm1", width) | _norm(f"{layer}layer_norm2", width)
        shapes |= _linear(f"{layer}mlp.fc1", width, hidden)
        shapes |= _linear(f"{layer}mlp.fc2", hidden, width)
    return shapes


def _linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _tower_shapes(config, num_prefix):
    """Returns the shapes of embeddings and transformer layers of both towers."""
    text, vision = config["text_config"], config["vision_config"]
    shapes, width, side = {}, vision["hidden_size"], vision["patch_size"]
    prefix = "text_model."
    for name, count in (
        ("token", text["vocab_size"]),
        ("position", text["max_position_embeddings"]),
    ):
        shapes[f"{prefix}embeddings.{name}_embedding.weight"] = (count, text["hidden_size"])
    shapes |= _layer_shapes(prefix, text) | _norm(f"{prefix}final_layer_norm", text["hidden_size"])
    prefix = "vision_model."
    count = (vision["image_size"] // side) ** 2 + num_prefix
    shapes[f"{prefix}embeddings.patch_embedding.weight"] = (width, 3, side, side)
    shapes[f"{prefix}embeddings.position_embedding.weight"] = (count, width)
    shapes |= _layer_shapes(prefix, vision) | _norm(f"{prefix}post_layernorm", width)
    return shapes


def _clip_shapes(config):
    text, vision = config["text_config"], config["vision_config"]
    shapes = _tower_shapes(config, num_prefix=1)
    shapes["vision_model.embeddings.class_embedding"] = (vision["hidden_size"],)
    shapes |= _norm("vision_model.pre_layrnorm", vision["hidden_size"])
    dim = config["projection_dim"]
    shapes["visual_projection.weight"] = (dim, vision["hidden_size"])
    shapes["text_projection.weight"] = (dim, text["hidden_size"])
    return {**shapes, "logit_scale": ()}


def _siglip_shapes(config):
    text, vision = config["text_config"], config["vision_config"]
    shapes, width = _tower_shapes(config, num_prefix=0), vision["hidden_size"]
    shapes["vision_model.embeddings.patch_embedding.bias"] = (width,)
    shapes |= _linear("text_model.head", text["hidden_size"], text["projection_size"])
    head = "vision_model.head."
    shapes[f"{head}probe"] = (1, 1, width)
    shapes[f"{head}attention.in_proj_weight"] = (3 * width, width)
    shapes[f"{head}attention.in_proj_bias"] = (3 * width,)
    shapes |= _linear(f"{head}attention.out_proj", width, width) | _norm(f"{head}layernorm", width)
    shapes |= _linear(f"{head}mlp.fc1", width, vision["intermediate_size"])
    shapes |= _linear(f"{head}mlp.fc2", vision["intermediate_size"], width)
    return {**shapes, "logit_scale": (1,), "logit_bias": (1,)}
