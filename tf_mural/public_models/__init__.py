"""Public models of Hugging Face and KerasHub as encoders: weights, tokenizer and preprocessing.

A public model has a name with a prefix: "hf:" is followed by a name on huggingface.co or by a
folder in the layout of `save_pretrained`, and "keras_hub:" by a preset of KerasHub or its folder.
"""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from tf_mural import file_io
from tf_mural.errors import UserError, lookup

__all__ = ["HUGGING_FACE", "KERAS_HUB", "PublicModel", "is_public", "open_model"]

HUGGING_FACE = "hf:"
KERAS_HUB = "keras_hub:"
_SENTENCE_MODEL = ("sentence_transformers", "SentenceModel")
# The value of "model_type" in config.json, and the module of `tf_mural.huggingface` and its class
# that read such a checkpoint. The class is called with the name, the folder and the content of
# config.json. Its method `describe` returns the attributes of a `PublicModel`, except the name.
FAMILIES = {
    "align": ("align_model", "AlignModel"),
    "clip": ("clip", "ClipTowers"),
    "metaclip_2": ("clip", "ClipTowers"),
    "siglip": ("siglip", "SiglipTowers"),
    "siglip2": ("siglip", "SiglipTowers"),
    "bert": _SENTENCE_MODEL,
    "distilbert": _SENTENCE_MODEL,
    "xlm-roberta": _SENTENCE_MODEL,
    "M-CLIP": ("m_clip", "MClip"),
}


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """The description of a public model. Weights are read when an encoder is built.

    Attributes:
        name: name with a prefix, such as "hf:google/siglip2-base-patch16-224".
        modalities: ("image", "text"), ("image",) or ("text",).
        embedding_dim: width of the embedding space. None: the weights have no projection to an
            embedding space, and a run adds the projection.
        loss: name of the loss that trained the model, "contrastive" or "sigmoid", or None.
        preprocessing: `data.preprocessing.Preprocessing` of images, or None.
        tokenizer: an object with the interface of `data.tokenizers.Tokenizer`, or None.
        build: function with the arguments of `encoder`, which calls it.
        read_scalars: function without arguments that returns `scalars`.
    """

    name: str
    modalities: tuple[str, ...]
    build: Callable[..., Any]
    embedding_dim: int | None = None
    loss: str | None = None
    preprocessing: Any = None
    tokenizer: Any = None
    read_scalars: Callable[[], Mapping[str, float]] = dict

    @functools.cached_property
    def scalars(self) -> Mapping[str, float]:
        """The "temperature" and the "bias" of the loss with which the model was trained.

        They have the convention of `losses`: logits are divided by the temperature. {} if they are
        unknown. They are read from the weights, which are downloaded if necessary.
        """
        return self.read_scalars()

    def encoder(
        self,
        modality: str,
        *,
        dim: int | None = None,
        weights: bool = True,
        image_size: int | None = None,
        max_tokens: int | None = None,
        pooling: str | None = None,
    ) -> Any:
        """Builds the encoder of a modality, with its tokenizer or its preprocessing.

        Args:
            modality: one of `modalities`.
            dim: width of the embeddings. None: the width of the model. Another width adds a linear
                projection with random weights.
            weights: False builds the encoder with random weights; nothing is downloaded.
            image_size: height and width of images in pixels. None: the size of the model. For
                another size, the table of positions is interpolated.
            max_tokens: number of tokens per text. None: the number of the model. For another
                number, the table of positions is truncated or interpolated.
            pooling: another pooling of the features than that of the model, see
                `models.ImageEncoder` and `models.TextEncoder`. The layers of the model that follow
                its own pooling are then left out.

        Returns:
            `models.ImageEncoder` or `models.TextEncoder`.

        Raises:
            UserError: the model does not have the modality, the weights do not fit its description,
                or an argument does not fit the model.
        """
        if modality not in self.modalities:
            raise UserError(
                f"{self.name} has no encoder of modality {modality!r}; it has: "
                f"{', '.join(self.modalities)}"
            )
        unused = "max_tokens" if modality == "image" else "image_size"
        if {"image_size": image_size, "max_tokens": max_tokens}[unused] is not None:
            raise UserError(f"the {modality} encoder of {self.name} has no {unused}: omit it")
        return self.build(
            modality,
            dim=dim,
            weights=weights,
            image_size=image_size,
            max_tokens=max_tokens,
            pooling=pooling,
        )


def is_public(name: Any) -> bool:
    """Returns whether a name is that of a public model, "hf:..." or "keras_hub:..."."""
    is_name = isinstance(name, str) and name.startswith((HUGGING_FACE, KERAS_HUB))
    return is_name and not file_io.is_on_hub(name)  # "hf://user/name" is a preset.


def absolute_name(name: str) -> str:
    """Returns the name of a model, with an absolute path if it names a folder.

    Args:
        name: name of a public model, a path, or the handle of a preset on a hub.
    """
    prefix = name[: name.index(":") + 1] if is_public(name) else ""
    path = name.removeprefix(prefix)
    return prefix + os.path.abspath(path) if os.path.exists(path) else name


def open_model(name: str) -> PublicModel:
    """Reads the description and the tokenizer of a public model, but no weights.

    Args:
        name: "hf:<name or folder>" or "keras_hub:<preset or folder>".

    Raises:
        UserError: the name has no such prefix, the model is not available, or its class is not
            supported.
    """
    if not is_public(name):
        raise UserError(
            f"{name!r} is not a public model; expected hf:<name or folder> or "
            "keras_hub:<preset or folder>"
        )
    if name.startswith(KERAS_HUB):
        presets = importlib.import_module("tf_mural.public_models.keras_hub_presets")
        return presets.open_preset(name)
    return _open_hugging_face(name)


def _open_hugging_face(name):
    from tf_mural.huggingface import checkpoint_files  # imports Keras

    source = name.removeprefix(HUGGING_FACE)
    folder = checkpoint_files.fetch(source)
    # In old models of sentence-transformers, config.json lies in a subfolder.
    has_modules = os.path.exists(os.path.join(folder, "modules.json"))
    config = checkpoint_files.read_json(folder, "config.json", optional=has_modules) or {}
    family = _SENTENCE_MODEL
    if config or not has_modules:
        where = f"model_type (of {os.path.join(folder, 'config.json')})"
        family = lookup(FAMILIES, config.get("model_type"), where)
    module = importlib.import_module(f"tf_mural.huggingface.{family[0]}")
    checkpoint = getattr(module, family[1])(source, folder, config)
    return PublicModel(name=name, **checkpoint.describe())
