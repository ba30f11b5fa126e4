"""Builds the encoders of a checkpoint that has an image tower and a text tower."""

import functools
import math

import numpy as np

from tf_mural import models
from tf_mural.data import tokenizer_files
from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import checkpoint_files, image_processor
from tf_mural.huggingface.preprocessing_config import check_tokenizer_size


class TwoTowers:
    """Base class of checkpoints with an image tower and a text tower.

    A subclass defines the class attributes, `make_backbone`, `map_backbone` and `map_head`.

    Args:
        name: folder, or name on huggingface.co.
        folder: folder that contains config.json and the files of the tokenizer.
        config: content of config.json.

    Attributes:
        loss: name of the loss that trained the model.
        processor: key of `image_processor.DEFAULTS`.
        poolings: {modality: argument `pooling` of the encoder}.
        prefixes: {modality: prefix of the names of the tensors of a tower}.
        projects: {modality: whether a linear layer without bias follows the pooling}.
        pooled_norms: {modality: epsilon of the layer normalization behind the pooling, or None}.
        embedding_dim: width of the embedding space.
        text, vision: settings of the towers in config.json.
        image_size: height and width of images in pixels.
        max_tokens: number of tokens per text.
    """

    loss = None
    processor = None
    poolings = {"image": "auto", "text": "auto"}
    prefixes = {"image": "vision_model.", "text": "text_model."}
    projects = {"image": False, "text": False}
    pooled_norms = {"image": None, "text": None}
    embedding_dim = image_size = max_tokens = end_id = text = vision = None

    def __init__(self, name, folder, config):
        self.name, self.folder, self.config = name, folder, config

    def make_backbone(self, modality, size):
        """Builds the backbone of a tower for an image size or a number of tokens."""
        raise NotImplementedError

    def map_backbone(self, modality, backbone):
        """Returns the `LayerMap` of a backbone that `make_backbone` built."""
        raise NotImplementedError

    def map_head(self, modality, encoder, has_projection):
        """Returns the `LayerMap` of the layers of an encoder behind its backbone.

        Args:
            modality: "image" or "text".
            encoder: the encoder, with the pooling of the model.
            has_projection: whether the encoder has the projection of the model.
        """
        raise NotImplementedError

    def prepare(self, tensors):
        """Renames or splits tensors {name: array} in place. By default, nothing is changed."""

    @functools.cached_property
    def preprocessing(self):
        """`Preprocessing` of images."""
        preprocessing = image_processor.read_preprocessing(self.folder, self.processor)
        if preprocessing.crop != self.image_size:
            raise UserError(
                f"{self.folder}: the images have {preprocessing.crop} pixels in "
                f"preprocessor_config.json and {self.image_size} pixels in config.json; expected "
                "the files of a single model"
            )
        return preprocessing

    def open_tokenizer(self, max_tokens):
        """Returns the tokenizer of the checkpoint for rows of `max_tokens` tokens."""
        return tokenizer_files.open_tokenizer(self.folder, max_tokens)

    def tensors(self):
        """Returns {name: array} of all tensors; the weights are downloaded if necessary."""
        folder = checkpoint_files.fetch(self.name, weights=True)
        tensors = checkpoint_files.read_tensors(folder)
        self.prepare(tensors)
        return tensors

    def describe(self):
        """Returns the attributes of a `public_models.PublicModel`, except its name."""
        tokenizer = self.open_tokenizer(self.max_tokens)
        check_tokenizer_size(tokenizer, self.text["vocab_size"], self.folder)
        return {
            "modalities": ("image", "text"),
            "embedding_dim": self.embedding_dim,
            "loss": self.loss,
            "preprocessing": self.preprocessing,
            "tokenizer": tokenizer,
            "build": self.build,
            "read_scalars": self.read_scalars,
        }

    def read_scalars(self):
        """Returns the "temperature", and the "bias" if the checkpoint has one."""
        tensors = self.tensors()
        if "logit_scale" not in tensors:
            raise UserError(f"the weights of {self.name} have no logit_scale; download them again")
        scalars = {"temperature": math.exp(-float(np.reshape(tensors["logit_scale"], ())))}
        if "logit_bias" in tensors:
            scalars["bias"] = float(np.reshape(tensors["logit_bias"], ()))
        return scalars

    def build(self, modality, *, dim, weights, image_size, max_tokens, pooling):
        """Builds an encoder, see `public_models.PublicModel.encoder`."""
        is_image = modality == "image"
        own_size = self.image_size if is_image else self.max_tokens
        size = (image_size if is_image else max_tokens) or own_size
        if is_image and size < (patch := self.vision["patch_size"]):
            raise UserError(
                f"image_size is {size}, but the patches of {self.name} have {patch} pixels: set "
                f"image_size={patch} or more"
            )
        tensors = self.tensors() if weights else None
        backbone = self.make_backbone(modality, own_size if weights else size)
        if weights:
            layers = self.map_backbone(modality, backbone)
            layers.load(tensors, self.name)
            key = "image_size" if is_image else "max_tokens"
            backbone = models.resize_backbone(backbone, **{key: size})
        is_own = pooling in (None, self.poolings[modality])
        is_complete = is_own and dim in (None, self.embedding_dim)
        encoder = self._encoder(modality, backbone, dim, size, pooling, is_own, is_complete)
        if weights and is_own:
            head = self.map_head(modality, encoder, is_complete)
            head.load(tensors, self.name)
            if is_complete:
                self._check_unused(modality, tensors, layers.names | head.names)
        return encoder

    def _encoder(self, modality, backbone, dim, size, pooling, is_own, is_complete):
        """Returns an encoder.

        Args:
            is_own: whether the encoder has the pooling of the model.
            is_complete: whether the encoder has the pooling and the projection of the model.
        """
        options = {
            "dim": dim or self.embedding_dim,
            "pooling": self.poolings[modality] if is_own else pooling,
            "pooled_norm": self.pooled_norms[modality] if is_own else None,
            "projection": self.projects[modality] if is_complete else True,
            "projection_bias": not is_complete,
        }
        if modality == "image":
            preprocessing = self.preprocessing.with_size(size)
            return models.ImageEncoder(backbone, preprocessing=preprocessing, **options)
        tokenizer = self.open_tokenizer(size)
        return models.TextEncoder(backbone, tokenizer, end_id=self.end_id, **options)

    def _check_unused(self, modality, tensors, used):
        unused = sorted(
            name
            for name in set(tensors) - used
            if name.startswith(self.prefixes[modality]) and not name.endswith("position_ids")
        )
        if unused:
            raise UserError(
                f"the weights of {self.name} have {len(unused)} tensors of layers that are not in "
                f"its config.json: {', '.join(unused[:3])}"
            )


def with_defaults(config, key, defaults):
    """Returns the settings of a tower.

    Args:
        config: content of config.json.
        key: "vision_config" or "text_config". Files of earlier versions of transformers may have a
            second entry, such as "text_config_dict", which takes precedence.
        defaults: values of missing keys.
    """
    parts = [config.get(key) or {}]
    if config.get(f"{key}_dict"):
        parts.append({**defaults, **config[f"{key}_dict"]})
    merged = dict(defaults)
    for part in parts:
        merged |= {name: value for name, value in part.items() if value is not None}
    return merged


def transformer_sizes(settings, activations, where):
    """Returns the arguments that the transformers of KerasHub's towers have in common.

    Args:
        settings: result of `with_defaults`.
        activations: {value of "hidden_act": activation of KerasHub}.
        where: path of config.json, for messages.
    """
    activation = lookup(activations, settings["hidden_act"], f"hidden_act (of {where})")
    return {
        "hidden_dim": settings["hidden_size"],
        "num_layers": settings["num_hidden_layers"],
        "num_heads": settings["num_attention_heads"],
        "intermediate_dim": settings["intermediate_size"],
        "intermediate_activation": activation,
    }


def require(settings, expected, where):
    """Raises a `UserError` if a setting has another value than that which is supported."""
    for key, value in expected.items():
        if settings[key] != value:
            raise UserError(
                f"{where}: {key} is {settings[key]!r}, but only {value!r} is supported; choose "
                "another checkpoint"
            )
