"""Writes tiny text encoders in the layout of Hugging Face and sentence-transformers.

The weights are random and drawn from a seed, so that tests compare outputs with those recorded in
tests/golden/sentence_models.npz. Names of folders are those of published models, because the prefix
of E5 depends on the name.
"""

import json
import os

import numpy as np

from helpers.public_checkpoints import write_safetensors

TEXTS = ["a red dog", "A Blue cat!", "", "ein roter Hund und ein Auto", "un perro rojo, 红色的狗"]
MAX_TOKENS = 24
WIDTH, HIDDEN, DIM, LAYERS, HEADS = 16, 24, 10, 2, 2
_CONTROL, _UNKNOWN, _NORMAL = 3, 2, 1
_WORDS = "▁a ▁red ▁blue ▁dog ▁cat ▁ein ▁un ▁hund 红色 狗 query ▁query : ,".split()
_LETTERS = "▁abcdefghijklmnopqrstuvwxyzABEHP!色的红"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_PIECES = "a red blue dog cat ein ##er hund un perro ! , 红 色 的 狗".split()
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [*_SPECIAL, *_PIECES, *_ALPHABET[1:], *(f"##{letter}" for letter in _ALPHABET)]
_TRANSFORMER = "sentence_transformers.models.Transformer"


def _bert(vocabulary_size, **changes):
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": vocabulary_size,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        **changes,
    }


def _xlm_r(**changes):
    return _bert(
        len(sentencepieces()) + 2,
        **{"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "pad_token_id": 1},
        **{"bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
        **{"max_position_embeddings": 34, **changes},
    )


def xlm_roberta(folder, seed=0, **changes):
    """Writes an XLM-R with the head of its pre-training, and returns the folder."""
    return _write(folder, _xlm_r(**changes), seed, prefix="roberta.", extra={"lm_head.bias": (9,)})


def bert(folder, seed=0, **changes):
    """Writes a BERT with the tanh approximation of GELU and an old style of names."""
    config = _bert(len(VOCABULARY), hidden_act="gelu_new", **changes)
    return _write(folder, config, seed, prefix="bert.", old_names=True)


def e5(folder, seed=0, **changes):
    """Writes a BERT with the tokenizer of XLM-R, mean pooling and normalization."""
    config = _bert(len(sentencepieces()) + 2, **changes)
    _write(folder, config, seed, tokenizer="xlm-r")
    return _write_modules(folder, {"pooling_mode": "mean"}, normalize=True)


def bge(folder, seed=0, **changes):
    """Writes an XLM-R with the pooling of the first token and normalization."""
    _write(folder, _xlm_r(**changes), seed)
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    return _write_modules(folder, {**flags, "pooling_mode_max_tokens": False}, normalize=True)


def multilingual_clip(folder, seed=0, **changes):
    """Writes a DistilBERT with mean pooling and a linear layer without a bias."""
    config = {"model_type": "distilbert", "architectures": ["DistilBertModel"], "dim": WIDTH}
    config |= {"vocab_size": len(VOCABULARY), "n_layers": LAYERS, "n_heads": HEADS}
    config |= {"hidden_dim": HIDDEN, "max_position_embeddings": 32, **changes}
    _write(folder, config, seed, lower_case=False)
    dense = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    return _write_modules(folder, {"pooling_mode_mean_tokens": True}, dense=dense, seed=seed)


def labse(folder, seed=0, **changes):
    """Writes a BERT with the pooling of [CLS], a linear layer with tanh, and normalization."""
    _write(folder, _bert(len(VOCABULARY), **changes), seed, lower_case=False)
    dense = {"bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    return _write_modules(folder, pooling, dense=dense, normalize=True, seed=seed)


def m_clip(folder, seed=0, **changes):
    """Writes an encoder of M-CLIP, whose transformer is described in a subfolder."""
    config = {"model_type": "M-CLIP", "architectures": ["MultilingualCLIP"], "modelBase": "base"}
    config |= {"transformerDimensions": WIDTH, "numDims": DIM, **changes}
    head = {"LinearTransformation.weight": (DIM, WIDTH), "LinearTransformation.bias": (DIM,)}
    os.makedirs(os.path.join(folder, "base"), exist_ok=True)
    write_json(folder, "base/config.json", _xlm_r())
    shapes = _shapes(_xlm_r(), "transformer.") | head
    _write_weights(folder, shapes, seed)
    write_json(folder, "config.json", config)
    _write_sentencepiece(folder)
    return folder


MODELS = {
    "xlm-roberta-base": xlm_roberta,
    "bert-base-multilingual-cased": bert,
    "multilingual-e5-small": e5,
    "bge-m3": bge,
    "clip-ViT-B-32-multilingual-v1": multilingual_clip,
    "LaBSE": labse,
    "XLM-Roberta-Large-Vit-B-32": m_clip,
}


def sentencepieces():
    """Returns the pieces (piece, score, type) of a SentencePiece model of XLM-R."""
    special = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    names = list(dict.fromkeys([*_WORDS, *_LETTERS]))
    return [*special, *((name, -1.0 - 0.1 * i, _NORMAL) for i, name in enumerate(names))]


def write_json(folder, name, content):
    """Writes a JSON file of a folder."""
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


# --- parts of the folders -------------------------------------------------------------------------


def _write(
    folder, config, seed, *, prefix="", tokenizer=None, lower_case=True, old_names=False, extra=None
):
    os.makedirs(folder, exist_ok=True)
    write_json(folder, "config.json", config)
    _write_weights(folder, _shapes(config, prefix) | (extra or {}), seed, old_names)
    if (tokenizer or config["model_type"]) in ("xlm-r", "xlm-roberta"):
        _write_sentencepiece(folder)
        return folder
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("".join(f"{piece}\n" for piece in VOCABULARY))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case}
    write_json(folder, "tokenizer_config.json", {**settings, "model_max_length": 32})
    return folder


def _write_sentencepiece(folder):
    from tf_mural.data import sentencepiece_model

    content = sentencepiece_model.build_model(sentencepieces()).SerializeToString()
    with open(os.path.join(folder, "sentencepiece.bpe.model"), "wb") as file:
        file.write(content)
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 32}
    write_json(folder, "tokenizer_config.json", settings)


def _write_modules(folder, pooling, dense=None, normalize=False, seed=0):
    modules = [("", _TRANSFORMER), ("1_Pooling", "sentence_transformers.models.Pooling")]
    os.makedirs(os.path.join(folder, "1_Pooling"), exist_ok=True)
    pooling = {"word_embedding_dimension": WIDTH, **pooling}
    write_json(folder, "1_Pooling/config.json", pooling)
    if dense is not None:
        modules.append(("2_Dense", "sentence_transformers.models.Dense"))
        os.makedirs(os.path.join(folder, "2_Dense"), exist_ok=True)
        sizes = {"in_features": WIDTH, "out_features": DIM}
        write_json(folder, "2_Dense/config.json", {**sizes, **dense})
        shapes = {"linear.weight": (DIM, WIDTH)}
        shapes |= {"linear.bias": (DIM,)} if dense["bias"] else {}
        _write_weights(os.path.join(folder, "2_Dense"), shapes, seed + 1)
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "sentence_transformers.models.Normalize"))
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(modules)
    ]
    write_json(folder, "modules.json", entries)
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS})
    return folder


def _write_weights(folder, shapes, seed, old_names=False):
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape)
        if len(shape) > 1:
            value = noise / (2.0 if "embeddings." in name else shape[1] ** 0.5)
        else:
            value = name.endswith("weight") + 0.2 * noise
        if old_names and "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        tensors[name] = np.asarray(value, np.float32)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)


def _shapes(config, prefix):
    is_distilbert = config["model_type"] == "distilbert"
    embeddings = f"{prefix}embeddings."
    positions, tokens = config["max_position_embeddings"], config["vocab_size"]
    shapes = {f"{embeddings}word_embeddings.weight": (tokens, WIDTH)}
    shapes[f"{embeddings}position_embeddings.weight"] = (positions, WIDTH)
    if not is_distilbert:
        shapes[f"{embeddings}token_type_embeddings.weight"] = (config["type_vocab_size"], WIDTH)
    shapes |= _norm(f"{embeddings}LayerNorm")
    for i in range(LAYERS):
        layer = f"{prefix}{'transformer' if is_distilbert else 'encoder'}.layer.{i}."
        shapes |= _distilbert_layer(layer) if is_distilbert else _bert_layer(layer)
    if not is_distilbert:
        shapes |= _linear(f"{prefix}pooler.dense", WIDTH, WIDTH)
    return shapes


def _bert_layer(layer):
    shapes = _norm(f"{layer}attention.output.LayerNorm") | _norm(f"{layer}output.LayerNorm")
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= _linear(f"{layer}attention.{part}", WIDTH, WIDTH)
    shapes |= _linear(f"{layer}intermediate.dense", WIDTH, HIDDEN)
    return shapes | _linear(f"{layer}output.dense", HIDDEN, WIDTH)


def _distilbert_layer(layer):
    shapes = _norm(f"{layer}sa_layer_norm") | _norm(f"{layer}output_layer_norm")
    for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
        shapes |= _linear(f"{layer}attention.{part}", WIDTH, WIDTH)
    shapes |= _linear(f"{layer}ffn.lin1", WIDTH, HIDDEN)
    return shapes | _linear(f"{layer}ffn.lin2", HIDDEN, WIDTH)


def _linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name):
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
