"""BERT: what its config.json says, and where its tensors are."""

import re

from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import weight_mapping

# What a config.json that leaves a value out means.
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
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_fast": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
}
# Of the layer norms and sums of the tower nothing can be chosen.
_FIXED = ("type_vocab_size", "layer_norm_eps", "position_embedding_type", "is_decoder")

_EMBEDDINGS = {
    "token_embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "segment_embedding": "token_type_embeddings",
}
_NORMS = {
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_layer_norm": "output.LayerNorm",
}
_DENSE = {
    "self_attention_layer/query": "attention.self.query",
    "self_attention_layer/key": "attention.self.key",
    "self_attention_layer/value": "attention.self.value",
    "self_attention_layer/attention_output": "attention.output.dense",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
}
_WORDS = "embeddings.word_embeddings.weight"


def describe(config, where):
    """What the text tower must be.

    Args:
        config: of BERT, plain data.
        where: the file, for messages.

    Returns:
        {"sizes": (layers, width, heads, feed-forward width), "activation", "positions",
        "vocabulary_size"}.

    Raises:
        UserError: it is a BERT that the tower cannot be.
    """
    config = {**DEFAULTS, **{k: v for k, v in config.items() if v is not None}}
    for name in _FIXED:
        if config[name] != DEFAULTS[name]:
            raise UserError(
                f"{where}: {name} is {config[name]!r}, but the text tower has {DEFAULTS[name]!r}; "
                "take another checkpoint"
            )
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    return {
        "sizes": tuple(config[name] for name in sizes),
        "activation": lookup(_ACTIVATIONS, config["hidden_act"], f"hidden_act (of {where})"),
        "positions": config["max_position_embeddings"],
        "vocabulary_size": config["vocab_size"],
    }


def prefix_of(tensors, where):
    """What stands before the names of BERT's tensors, such as "bert." or "text_model.".

    Raises:
        UserError: no BERT is in there, or more than one.
    """
    found = [name.removesuffix(_WORDS) for name in tensors if name.endswith(_WORDS)]
    if len(found) != 1:
        raise UserError(
            f"the weights of {where} have {len(found)} tensors called {_WORDS}, expected 1; is "
            "this a checkpoint of BERT?"
        )
    return found[0]


def place(path, shape, prefix):
    """The `places.Place` of a variable of the text tower, None if it is not BERT's."""
    layer, _, variable = path.rpartition("/")
    if layer in _EMBEDDINGS:
        name = f"{prefix}embeddings.{_EMBEDDINGS[layer]}.weight"
        return weight_mapping.table(name, shape, first_rows=layer == "position_embedding")
    suffix = "bias" if variable in ("bias", "beta") else "weight"
    if layer == "embeddings_layer_norm":
        return weight_mapping.vector(f"{prefix}embeddings.LayerNorm.{suffix}", shape)
    block = re.fullmatch(r"transformer_layer_(\d+)/(.+)", layer)
    if not block:
        return None
    theirs = {**_NORMS, **_DENSE}[block[2]]
    name = f"{prefix}encoder.layer.{block[1]}.{theirs}.{suffix}"
    if variable != "kernel":
        return weight_mapping.vector(name, shape)
    return weight_mapping.dense(name, shape, inputs=2 if "attention_output" in layer else 1)
