"""Builds the text backbones of BERT, DistilBERT and XLM-R with the layers of KerasHub.

Three differences between the classes of Hugging Face and those of KerasHub are bridged here:

    - KerasHub's `BertBackbone` has the tanh approximation of GELU, most published BERTs have exact
      GELU. KerasHub's `DistilBertBackbone` has exact GELU, and all other layers of a BERT except
      the embeddings of segments. All tokens belong to the first segment, whose embedding is
      therefore added to the embeddings of the positions.
    - The positions of XLM-R start at `pad_token_id` + 1. The first rows of its table are left out,
      because the positions of KerasHub start at 0. Padding is only at the end of texts.
    - XLM-R has one segment, which is treated as the first segment of a BERT.
"""

import dataclasses
import os

import numpy as np

from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import bert, weight_mapping

_BERT_LAYERS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "feedforward": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}
_DISTILBERT_LAYERS = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "feedforward": "ffn.lin2",
    "feedforward_norm": "output_layer_norm",
}
_EXACT, _APPROXIMATE = "gelu", "gelu_approximate"
# The backbones of KerasHub support only these values.
_ENCODER = {"position_embedding_type": "absolute", "is_decoder": False}
_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class Family:
    """How the checkpoints of one class of models are read.

    Attributes:
        defaults: values of keys that config.json omits.
        fixed: {key: the only supported value}.
        sizes: keys of the number of layers, the number of heads, the width and the width of the
            feed-forward layers.
        activation: key of the activation.
        dropout: key of the dropout rate.
        layers: {layer of the backbone: name of the module in a transformer layer}.
        encoder: name of the module that contains the transformer layers.
        has_segments: whether the checkpoint has embeddings of segments.
        has_offset: whether positions start at `pad_token_id` + 1.
    """

    defaults: dict
    fixed: dict
    sizes: tuple
    activation: str
    dropout: str
    layers: dict
    encoder: str
    has_segments: bool
    has_offset: bool = False


_BERT_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
_BERT = Family(
    defaults={**bert.DEFAULTS, "hidden_dropout_prob": 0.1},
    fixed={**_ENCODER, "layer_norm_eps": _EPSILON},
    sizes=_BERT_SIZES,
    activation="hidden_act",
    dropout="hidden_dropout_prob",
    layers=_BERT_LAYERS,
    encoder="encoder.layer",
    has_segments=True,
)
_XLM_R = dataclasses.replace(
    _BERT,
    defaults={**_BERT.defaults, "pad_token_id": 1},
    fixed={**_ENCODER, "layer_norm_eps": 1e-5},
    has_offset=True,
)
_DISTILBERT = Family(
    defaults={
        "vocab_size": 30522,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "activation": "gelu",
        "dropout": 0.1,
    },
    fixed={},
    sizes=("n_layers", "n_heads", "dim", "hidden_dim"),
    activation="activation",
    dropout="dropout",
    layers=_DISTILBERT_LAYERS,
    encoder="transformer.layer",
    has_segments=False,
)
FAMILIES = {"bert": _BERT, "distilbert": _DISTILBERT, "xlm-roberta": _XLM_R}


class TextBackbone:
    """The text backbone that config.json describes.

    Args:
        config: content of config.json.
        where: path of config.json, for messages.

    Attributes:
        width: width of the hidden states.
        vocabulary_size: number of token embeddings.
        positions: number of positions that texts can have.

    Raises:
        UserError: the class or an option of the model is not supported.
    """

    def __init__(self, config, where):
        model_type = config.get("model_type")
        self._family = family = lookup(FAMILIES, model_type, f"model_type of texts (of {where})")
        config = {**family.defaults, **{k: v for k, v in config.items() if v is not None}}
        for name, value in family.fixed.items():
            if config[name] != value:
                raise UserError(
                    f"{where}: {name} is {config[name]!r}, but only {value!r} is supported for "
                    f"{model_type}; choose another checkpoint"
                )
        kind = lookup(bert.ACTIVATIONS, config[family.activation], f"activation (of {where})")
        if kind == _APPROXIMATE and model_type != "bert":
            raise UserError(
                f"{where}: {family.activation} is {config[family.activation]!r}, but only 'gelu' "
                f"is supported for {model_type}; choose another checkpoint"
            )
        self._activation, self._dropout = kind, config[family.dropout]
        self._offset = config["pad_token_id"] + 1 if family.has_offset else 0
        self._num_segments = config["type_vocab_size"] if family.has_segments else 0
        self._sizes = [config[key] for key in family.sizes]
        self.width, self.vocabulary_size = self._sizes[2], config["vocab_size"]
        self.positions = config["max_position_embeddings"] - self._offset
        if self.width % self._sizes[1] or self.positions < 1:
            raise UserError(
                f"{where}: {self._sizes[1]} attention heads, the width {self.width} and "
                f"{self.positions} positions are not the sizes of a {model_type}"
            )

    def make(self):
        """Builds the backbone of KerasHub with random weights."""
        import keras_hub

        options = dict(
            vocabulary_size=self.vocabulary_size,
            dropout=self._dropout,
            max_sequence_length=self.positions,
        )
        names = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim")
        options |= dict(zip(names, self._sizes, strict=True))
        if self._activation == _APPROXIMATE:
            return keras_hub.models.BertBackbone(num_segments=self._num_segments, **options)
        if self._family is _XLM_R:
            return keras_hub.models.XLMRobertaBackbone(**options)
        return keras_hub.models.DistilBertBackbone(**options)

    def load(self, backbone, tensors, source):
        """Assigns the tensors of a checkpoint to the variables of a backbone.

        Args:
            backbone: result of `make`.
            tensors: {name: array} of the checkpoint.
            source: name of the checkpoint, for messages.

        Raises:
            UserError: tensors are missing, have other shapes, or belong to layers that the backbone
                does not have.
        """
        tensors = bert.rename_layer_norms(tensors)
        prefix = bert.find_prefix(tensors, source)
        layers = weight_mapping.LayerMap()
        if self._activation == _APPROXIMATE:
            used = self._map_embeddings(layers, backbone, f"{prefix}embeddings")
        else:
            used = self._map_merged_embeddings(layers, backbone, tensors, prefix, source)
        layers.norm(backbone.embeddings_layer_norm, f"{prefix}embeddings.LayerNorm")
        for i, block in enumerate(backbone.transformer_layers):
            self._map_block(layers, block, f"{prefix}{self._family.encoder}.{i}")
        layers.load(tensors, source)
        heads = tuple(f"{prefix}{name}." for name in ("embeddings", self._family.encoder))
        unknown = sorted(
            name
            for name in set(tensors) - layers.names - used
            if name.startswith(heads) and not name.endswith("position_ids")
        )
        if unknown:
            raise UserError(
                f"the weights of {source} have {len(unknown)} tensors of layers that are not in "
                f"its config.json: {', '.join(unknown[:3])}"
            )

    def _map_embeddings(self, layers, backbone, source):
        tables = {
            "word_embeddings": backbone.token_embedding.embeddings,
            "position_embeddings": backbone.position_embedding.position_embeddings,
            "token_type_embeddings": backbone.segment_embedding.embeddings,
        }
        for name, table in tables.items():
            layers.add(table, weight_mapping.embedding, f"{source}.{name}.weight")
        return set()

    def _map_merged_embeddings(self, layers, backbone, tensors, prefix, source):
        """Maps the embeddings, after adding that of the first segment to those of the positions.

        Returns:
            The set of the names of the used tensors that `layers` does not contain.
        """
        names = [
            f"{prefix}embeddings.{name}_embeddings.weight" for name in ("position", "token_type")
        ]
        shapes = [(self.positions + self._offset, self.width), (self._num_segments, self.width)]
        names = names if self._num_segments else names[:1]
        specs = {
            name: weight_mapping.embedding(name, shape)
            for name, shape in zip(names, shapes, strict=False)
        }
        weight_mapping.check(specs, tensors, source)
        positions = np.asarray(tensors[names[0]], np.float32)[self._offset :]
        if self._num_segments:
            positions = positions + np.asarray(tensors[names[1]][0], np.float32)
        tensors[names[0]] = positions
        table = backbone.embeddings.position_embedding.position_embeddings
        layers.add(table, weight_mapping.embedding, names[0])
        tokens = f"{prefix}embeddings.word_embeddings.weight"
        layers.add(backbone.token_embedding.embeddings, weight_mapping.embedding, tokens)
        return set(names)

    def _map_block(self, layers, block, source):
        names = {key: f"{source}.{name}" for key, name in self._family.layers.items()}
        attention = block._self_attention_layer
        for part in ("query", "key", "value"):
            layers.dense(getattr(attention, f"{part}_dense"), names[part])
        layers.dense(attention.output_dense, names["output"], num_input_axes=2)
        layers.norm(block._self_attention_layer_norm, names["attention_norm"])
        layers.dense(block._feedforward_intermediate_dense, names["intermediate"])
        layers.dense(block._feedforward_output_dense, names["feedforward"])
        layers.norm(block._feedforward_layer_norm, names["feedforward_norm"])


def read_text_backbone(config, folder):
    """Returns the `TextBackbone` of the config.json of a folder.

    Args:
        config: content of config.json.
        folder: its folder, for messages.

    Raises:
        UserError: see `TextBackbone`.
    """
    return TextBackbone(config, os.path.join(folder, "config.json"))
