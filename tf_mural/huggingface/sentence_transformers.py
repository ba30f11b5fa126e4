"""Reads text encoders of sentence-transformers, and plain BERT, DistilBERT and XLM-R.

A model of sentence-transformers consists of modules: modules.json names a transformer, its pooling
(1_Pooling/config.json), and sometimes a linear layer with an activation (2_Dense) and a
normalization. Embeddings are always normalized by `DualEncoder.encode`.
"""

import json
import os
import re

from tf_mural import models
from tf_mural.data.tokenizer_files import open_tokenizer
from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import checkpoint_files, text_backbones, weight_mapping
from tf_mural.huggingface.preprocessing_config import check_tokenizer_size

# Values of the key "pooling_mode", and of the keys of earlier versions, "pooling_mode_*".
_POOLINGS = {"mean": "average", "cls": "cls", "max": "max", "lasttoken": "last"}
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
# The models that are called E5 expect one of the prefixes "query: " and "passage: " before each
# text, and their authors recommend the first for symmetric tasks. Their files do not say so.
_E5 = re.compile(r"(multilingual-)?e5-(small|base|large)(-v2)?", re.IGNORECASE)
_E5_PREFIX = "query: "
# A longer text than the pairs of image and text have would only cost time: all rows are padded.
_LONGEST_DEFAULT = 128


class SentenceModel:
    """A text encoder: a backbone, a pooling, and possibly a linear layer.

    Args:
        name: folder, or name on huggingface.co.
        folder: folder that contains the description of the checkpoint.
        config: content of config.json, or {} if the transformer lies in a subfolder.

    Attributes:
        backbone: `text_backbones.TextBackbone`.
        pooling: argument `pooling` of `models.TextEncoder`.
        dense: folder of the linear layer relative to `folder`, or None.
        embedding_dim: width of the embeddings, or None if the model has no pooling of its own.

    Raises:
        UserError: a file is missing or damaged, or a module is not supported.
    """

    def __init__(self, name, folder, config):
        self.name, self.folder = name, folder
        parts = _read_modules(folder)
        self.path = parts.get("Transformer", "")
        if self.path:
            config = checkpoint_files.read_json(os.path.join(folder, self.path), "config.json")
        where = os.path.join(folder, self.path)
        self.backbone = text_backbones.read_text_backbone(config, where)
        self.pooling, self.embedding_dim, self.dense = "auto", None, parts.get("Dense")
        self.dense_options = {}
        if "Pooling" in parts:
            self.pooling = _read_pooling(folder, parts["Pooling"])
            self.embedding_dim = self.backbone.width
        if self.dense is not None:
            self.embedding_dim, self.dense_options = _read_dense(
                folder, self.dense, self.backbone.width
            )
        settings = checkpoint_files.read_json(where, "sentence_bert_config.json", optional=True)
        self.settings = settings or {}
        self.prefix = _read_prefix(name, folder)

    def describe(self):
        """Returns the attributes of a `public_models.PublicModel`, except its name."""
        tokenizer = self.open_tokenizer()
        check_tokenizer_size(tokenizer, self.backbone.vocabulary_size, self.folder)
        return {
            "modalities": ("text",),
            "embedding_dim": self.embedding_dim,
            "tokenizer": tokenizer,
            "build": self.build,
        }

    def open_tokenizer(self, max_tokens=None):
        """Returns the tokenizer with a number of tokens; None: the number of the model."""
        if max_tokens is None:
            stated = self.settings.get("max_seq_length") or self.backbone.positions
            # Other defaults are those of `open_tokenizer`, unless the backbone has fewer positions.
            if min(stated, self.backbone.positions) <= _LONGEST_DEFAULT:
                max_tokens = min(stated, self.backbone.positions)
        lower_case = True if self.settings.get("do_lower_case") else None
        path = os.path.join(self.folder, self.path)
        return open_tokenizer(path, max_tokens, lower_case=lower_case, prefix=self.prefix)

    def tensors(self):
        """Returns {name: array} of the backbone; the weights are downloaded if necessary."""
        folder = checkpoint_files.fetch(self.name, weights=True)
        return checkpoint_files.read_tensors(os.path.join(folder, self.path))

    def load_dense(self, layer):
        """Assigns the weights of the linear layer."""
        folder = os.path.join(checkpoint_files.fetch(self.name, weights=True), self.dense)
        layers = weight_mapping.LayerMap()
        layers.dense(layer, "linear")
        layers.load(checkpoint_files.read_tensors(folder), folder)

    def build(self, modality, *, dim, weights, image_size, max_tokens, pooling):
        """Builds the text encoder, see `public_models.PublicModel.encoder`."""
        tokenizer = self.open_tokenizer(max_tokens)
        backbone = self.backbone.make()
        if weights:
            self.backbone.load(backbone, self.tensors(), self.name)
        if tokenizer.max_tokens > self.backbone.positions:
            backbone = models.resize_backbone(backbone, max_tokens=tokenizer.max_tokens)
        is_own = pooling in (None, self.pooling)
        is_complete = is_own and dim in (None, self.embedding_dim)
        options = {"dim": dim}
        if self.dense is not None and is_complete:
            options = {"dim": self.embedding_dim, "projection": True, **self.dense_options}
        pooling = self.pooling if is_own else pooling
        encoder = models.TextEncoder(backbone, tokenizer, pooling=pooling, **options)
        if weights and self.dense is not None and is_complete:
            self.load_dense(encoder.get_layer("text_projection"))
        return encoder


def _read_modules(folder):
    """Returns {type of a module: its path} of modules.json; {} if this file does not exist."""
    path = os.path.join(folder, "modules.json")
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            modules = json.load(file)
        modules = [(module["type"].rpartition(".")[2], module["path"]) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not a list of modules with type and path ({error!r}); download it again"
        ) from error
    kinds = [kind for kind, _ in modules]
    known = ("Transformer", "Pooling", "Dense", "Normalize")
    # The modules must be in this order, and each of them may occur once.
    if [kind for kind in known if kind in kinds] != kinds or kinds[:2] != list(known[:2]):
        raise UserError(
            f"{path} has the modules {', '.join(kinds)}; supported are Transformer and Pooling, "
            "then possibly one Dense and Normalize. If a module is a CLIP, give its folder: "
            f"hf:{os.path.join(folder, modules[0][1]) if modules else folder}"
        )
    return dict(modules)


def _read_pooling(folder, path):
    config = checkpoint_files.read_json(os.path.join(folder, path), "config.json")
    where = os.path.join(folder, path, "config.json")
    mode = config.get("pooling_mode")
    if mode is None:
        active = [mode for key, mode in _POOLING_KEYS.items() if config.get(key)]
        mode = active[0] if len(active) == 1 else active or "mean"
    if not isinstance(mode, str):
        raise UserError(
            f"{where}: the poolings {', '.join(mode)} are concatenated; supported is one of "
            f"{', '.join(_POOLINGS)}"
        )
    return lookup(_POOLINGS, mode, f"pooling (of {where})")


def _read_dense(folder, path, width):
    """Returns the width of a linear layer, and arguments of `models.TextEncoder`."""
    config = checkpoint_files.read_json(os.path.join(folder, path), "config.json")
    where = os.path.join(folder, path, "config.json")
    for key in ("in_features", "out_features"):
        if not isinstance(config.get(key), int):
            raise UserError(f"{where}: {key} is {config.get(key)!r}, expected an int")
    if config["in_features"] != width:
        raise UserError(
            f"{where}: in_features is {config['in_features']}, but the features have {width} "
            "values; expected the files of a single model"
        )
    # Without this key, sentence-transformers uses Tanh.
    name = (config.get("activation_function") or "Tanh").rpartition(".")[2]
    activation = lookup(_ACTIVATIONS, name, f"activation_function (of {where})")
    options = {"projection_bias": config.get("bias", True), "projection_activation": activation}
    return config["out_features"], options


def _read_prefix(name, folder):
    """Returns the string that is put before each text.

    It is the default prompt of sentence-transformers or, for the models that are called E5, which
    have no such prompt, "query: ".
    """
    file = "config_sentence_transformers.json"
    config = checkpoint_files.read_json(folder, file, optional=True) or {}
    default = config.get("default_prompt_name")
    if default is not None:
        where = f"default_prompt_name (of {os.path.join(folder, file)})"
        return lookup(config.get("prompts") or {}, default, where)
    is_e5 = _E5.fullmatch(os.path.basename(os.path.normpath(name)))
    return _E5_PREFIX if is_e5 else ""
