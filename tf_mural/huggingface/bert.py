"""Parses the config.json of BERT, and maps variables of the text tower to tensors of BERT."""

import re

from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import weight_mapping

# Keys that config.json omits have these values.
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_fast": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
}
# The text tower supports only the default values of these keys.
_FIXED = ("type_vocab_size", "layer_norm_eps", "position_embedding_type", "is_decoder")

# The following dicts map names of layers in KerasHub to names in the checkpoint.
_EMBEDDINGS = {
    "token_embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "segment_embedding": "token_type_embeddings",
}
_BLOCK_LAYERS = {
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_layer_norm": "output.LayerNorm",
    "self_attention_layer/query": "attention.self.query",
    "self_attention_layer/key": "attention.self.key",
    "self_attention_layer/value": "attention.self.value",
    "self_attention_layer/attention_output": "attention.output.dense",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
}
_TOKEN_EMBEDDING = "embeddings.word_embeddings.weight"


def parse_config(config, where):
    """Returns the options of the text tower that has the architecture of a checkpoint.

    Args:
        config: content of the config.json of a BERT, or value of "text_config" of an ALIGN, a dict.
        where: path of config.json, for messages.

    Returns:
        A dict with four entries: "sizes" is (layers, width, heads, feed-forward width),
        "activation" is the name of the feed-forward activation, "positions" is the number of
        position embeddings, and "vocabulary_size" is the number of token embeddings.

    Raises:
        UserError: the text tower does not support this BERT.
    """
    config = {**DEFAULTS, **{k: v for k, v in config.items() if v is not None}}
    for name in _FIXED:
        if config[name] != DEFAULTS[name]:
            raise UserError(
                f"{where}: {name} is {config[name]!r}, but the text tower supports only "
                f"{DEFAULTS[name]!r}; choose another checkpoint"
            )
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    return {
        "sizes": tuple(config[name] for name in sizes),
        "activation": lookup(ACTIVATIONS, config["hidden_act"], f"hidden_act (of {where})"),
        "positions": config["max_position_embeddings"],
        "vocabulary_size": config["vocab_size"],
    }


def rename_layer_norms(tensors):
    """Renames gamma and beta of layer norms to weight and bias.

    Checkpoints that were converted from TensorFlow contain the names gamma and beta.

    Args:
        tensors: {name: array} of a checkpoint.

    Returns:
        {name: array} with the same arrays.
    """
    renamed = {"gamma": "weight", "beta": "bias"}
    parts = {name: name.rpartition(".") for name in tensors}
    return {
        f"{head}.{renamed[last]}" if last in renamed else name: tensors[name]
        for name, (head, _, last) in parts.items()
    }


def find_prefix(tensors, source):
    """Returns the prefix of the tensor names of a BERT, such as "bert." or "text_model.".

    Args:
        tensors: {name: array} of a checkpoint.
        source: name of the checkpoint, for messages.

    Raises:
        UserError: the checkpoint contains no BERT, or more than one.
    """
    prefixes = [
        name.removesuffix(_TOKEN_EMBEDDING) for name in tensors if name.endswith(_TOKEN_EMBEDDING)
    ]
    if len(prefixes) != 1:
        raise UserError(
            f"the weights of {source} have {len(prefixes)} tensors called {_TOKEN_EMBEDDING}, "
            "expected 1; is this a checkpoint of BERT?"
        )
    return prefixes[0]


def tensor_spec(path, shape, prefix):
    """Returns the `TensorSpec` of a variable of the BERT, or None for other variables.

    Args:
        path: path of the variable.
        shape: shape of the variable.
        prefix: see `find_prefix`.
    """
    layer, _, variable = path.rpartition("/")
    if layer in _EMBEDDINGS:
        name = f"{prefix}embeddings.{_EMBEDDINGS[layer]}.weight"
        return weight_mapping.embedding(name, shape, truncate=layer == "position_embedding")
    suffix = "bias" if variable in ("bias", "beta") else "weight"
    if layer == "embeddings_layer_norm":
        return weight_mapping.vector(f"{prefix}embeddings.LayerNorm.{suffix}", shape)
    block = re.fullmatch(r"transformer_layer_(\d+)/(.+)", layer)
    if not block:
        return None
    name = f"{prefix}encoder.layer.{block[1]}.{_BLOCK_LAYERS[block[2]]}.{suffix}"
    if variable != "kernel":
        return weight_mapping.vector(name, shape)
    # The output projection of attention has a kernel with two input axes, heads and head width.
    num_input_axes = 2 if "attention_output" in layer else 1
    return weight_mapping.dense(name, shape, num_input_axes)
