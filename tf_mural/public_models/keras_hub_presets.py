"""Reads presets of KerasHub as public models: image backbones, text backbones, and both.

A preset is a folder that `save_to_preset` wrote, or the name or handle of such a folder on a hub.
KerasHub stores the backbone, the tokenizer and the image converter. The file tf_mural.json may be
added to a preset; it is a JSON object with settings for which KerasHub has no place:

    preprocessing   attributes of `data.preprocessing.Preprocessing`, which replace those of the
                    image converter, for example the padding of an EfficientNet
    pooling         pooling of the features, see `models.ImageEncoder` and `models.TextEncoder`
    max_tokens      number of tokens per text
    prefix          string that is put before each text, such as "query: " of E5
"""

import contextlib
import dataclasses
import inspect
import math
import os
import warnings

import keras

from tf_mural import models
from tf_mural.data import encoder_inputs
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.sentencepiece_tokenizer import SentencePieceTokenizer
from tf_mural.errors import UserError, lookup
from tf_mural.public_models import KERAS_HUB, PublicModel

SETTINGS = "tf_mural.json"
_KEYS = ("preprocessing", "pooling", "max_tokens", "prefix")
_DEFAULT_MAX_TOKENS, _LONGEST_DEFAULT = 64, 128
_DEFAULT_IMAGE_SIZE = 224
_POOLING_MODES = {"mean": "average", "cls": "cls", "max": "max"}


@dataclasses.dataclass(frozen=True)
class _TwoTowers:
    """How the encoders of a backbone with an image tower and a text tower are built.

    Attributes:
        loss: name of the loss that trained the model.
        head: name of the layer with the scalars of the loss.
        poolings: {modality: argument `pooling` of the encoder}.
        norm: name of the layer normalization behind the pooling of images, or None.
        projects: whether a linear layer without bias follows.
    """

    loss: str
    head: str
    poolings: dict
    norm: str | None = None
    projects: bool = True


_CLIP_POOLINGS = {"image": "cls", "text": "eos"}
_TWO_TOWERS = {
    "CLIPBackbone": _TwoTowers("contrastive", "clip_head", _CLIP_POOLINGS),
    "MetaCLIP2Backbone": _TwoTowers(
        "contrastive", "metaclip_2_head", _CLIP_POOLINGS, "vision_post_layer_norm"
    ),
    "SigLIPBackbone": _TwoTowers(
        "sigmoid", "siglip_head", {"image": "auto", "text": "auto"}, projects=False
    ),
}
# Names of the parts of these backbones in KerasHub.
_PARTS = {"image": "vision", "text": "text"}


class Preset:
    """A preset of KerasHub.

    Args:
        source: folder, name or handle.

    Attributes:
        backbone_class: class of the backbone.
        towers: `_TwoTowers`, or None if the backbone has one modality.
        settings: content of tf_mural.json.

    Raises:
        UserError: the preset is not available, or a file is damaged.
    """

    def __init__(self, source):
        self.source = source
        with _one_line(source):
            self._loader = _preset_utils().get_preset_loader(source)
            self.backbone_class = self._loader.check_backbone_class()
        self.settings = self._read_json(SETTINGS) or {}
        for key in self.settings:
            lookup(dict.fromkeys(_KEYS), key, f"key of {SETTINGS} (of {source})")
        self.towers = _TWO_TOWERS.get(self.backbone_class.__name__)
        arguments = inspect.signature(self.backbone_class.__init__).parameters
        is_text = "vocabulary_size" in arguments
        self.modalities = ("image", "text") if self.towers else ("text",) if is_text else ("image",)

    def describe(self):
        """Returns the attributes of a `PublicModel`, except its name."""
        return {
            "modalities": self.modalities,
            "embedding_dim": self._embedding_dim(),
            "loss": self.towers and self.towers.loss,
            "preprocessing": self._preprocessing() if "image" in self.modalities else None,
            "tokenizer": self._tokenizer() if "text" in self.modalities else None,
            "build": self.build,
            "read_scalars": self.read_scalars,
        }

    def build(self, modality, *, dim, weights, image_size, max_tokens, pooling):
        """Builds an encoder, see `PublicModel.encoder`."""
        whole = self._load_backbone(weights)
        own = self.settings.get("pooling") or self._task_pooling() or "auto"
        backbone, options, head = whole, {"dim": dim}, {}
        if self.towers:
            backbone = getattr(whole, f"{_PARTS[modality]}_encoder")
            own = self.towers.poolings[modality]
        is_own = pooling in (None, own)
        if self.towers:
            is_complete = is_own and dim in (None, self._embedding_dim())
            options, head = self._head(whole, modality, dim, is_own, is_complete)
        options["pooling"] = own if is_own else pooling
        if modality == "image":
            encoder = self._image_encoder(backbone, image_size, options)
        else:
            encoder = self._text_encoder(backbone, whole, max_tokens, options)
        for name, layer in head.items():
            encoder.get_layer(name).set_weights(layer.get_weights())
        return encoder

    def read_scalars(self):
        """Returns the "temperature", and the "bias" if the model has one."""
        if not self.towers:
            return {}
        layer = self._load_backbone(weights=True).get_layer(self.towers.head)
        scalars = {"temperature": math.exp(-float(keras.ops.convert_to_numpy(layer.logit_scale)))}
        if hasattr(layer, "logit_bias"):
            scalars["bias"] = float(keras.ops.convert_to_numpy(layer.logit_bias))
        return scalars

    # --- encoders ---------------------------------------------------------------------------------

    def _head(self, whole, modality, dim, is_own, is_complete):
        """Returns arguments of an encoder, and {name of its layer: layer with the weights}."""
        towers, head = self.towers, {}
        options = {"dim": dim or self._embedding_dim()}
        if towers.norm and modality == "image" and is_own:
            norm = whole.get_layer(towers.norm)
            options["pooled_norm"], head["pooled_norm"] = norm.epsilon, norm
        if towers.projects and is_complete:
            options |= {"projection": True, "projection_bias": False}
            head[f"{modality}_projection"] = whole.get_layer(f"{_PARTS[modality]}_projection")
        elif not is_complete:
            options["projection"] = True
        return options, head

    def _image_encoder(self, backbone, image_size, options):
        preprocessing = self._preprocessing()
        fixed = _image_size(backbone.get_config())
        if fixed and preprocessing.crop != fixed:
            preprocessing = preprocessing.with_size(fixed)
        if image_size and image_size != preprocessing.crop:
            preprocessing = preprocessing.with_size(image_size)
            if fixed:
                backbone = models.resize_backbone(backbone, image_size=image_size)
        return models.ImageEncoder(backbone, preprocessing=preprocessing, **options)

    def _text_encoder(self, backbone, whole, max_tokens, options):
        tokenizer = self._tokenizer(max_tokens)
        length = tokenizer.max_tokens if tokenizer else max_tokens or self._max_tokens()
        positions = getattr(backbone, "max_sequence_length", None)
        is_siglip = self.towers is _TWO_TOWERS["SigLIPBackbone"]
        if positions and (length > positions or (is_siglip and length != positions)):
            backbone = models.resize_backbone(backbone, max_tokens=length)
        if options["pooling"] == "eos" and tokenizer is None:
            pooler = whole.get_layer("text_pooler")
            # In CLIP, the token with the largest id is at the end of each text.
            options["end_id"] = getattr(pooler, "eos_token_id", backbone.vocabulary_size - 1)
        return models.TextEncoder(backbone, tokenizer, max_tokens=length, **options)

    # --- files of the preset ----------------------------------------------------------------------

    def _load_backbone(self, weights):
        with _one_line(self.source):
            loader = self._loader
            if "registered_name" in loader.config:
                # Without these entries, the layers get the global dtype policy, as all others do.
                loader.config = _without_dtypes(loader.config)
            return loader.load_backbone(self.backbone_class, weights)

    def _read_json(self, name):
        """Returns the content of a JSON file of the preset, or None if it does not exist."""
        utils = _preset_utils()
        with _one_line(self.source):
            if not utils.check_file_exists(self.source, name):
                return None
            content = utils.load_json(self.source, name)
        if not isinstance(content, dict):
            raise UserError(f"{self.source}: {name} is not a JSON object; save the preset again")
        return content

    def _config(self, part=None):
        """Returns the config of the backbone or of one of its towers; {} if it is unknown."""
        config = self._loader.config.get("config", {})
        return config.get(f"{part}_encoder", {}).get("config", {}) if part else config

    def _embedding_dim(self):
        if not self.towers:
            return None
        dim = self._config().get("projection_dim")
        return dim or self._config("vision").get("hidden_dim")

    def _task_pooling(self):
        """Returns the pooling of a text embedder of KerasHub, or None."""
        task = self._read_json("task.json") or {}
        mode = task.get("config", {}).get("pooling_mode")
        return None if mode is None else lookup(_POOLING_MODES, mode, f"pooling ({self.source})")

    def _preprocessing(self):
        stated = self.settings.get("preprocessing")
        if stated is not None:
            return Preprocessing.from_config(stated)
        config = self._config("vision" if self.towers else None)
        with _one_line(self.source):
            converter = self._load_converter()
        size = getattr(converter, "image_size", None) or (None,)
        size = size[0] or _image_size(config) or _DEFAULT_IMAGE_SIZE
        preprocessing = encoder_inputs.as_preprocessing(converter, size)
        if getattr(converter, "pad_to_aspect_ratio", False):
            warnings.warn(
                f"the image converter of {self.source} pads images to squares, which this package "
                "does not; images are resized to squares instead",
                stacklevel=3,
            )
        keeps = getattr(converter, "crop_to_aspect_ratio", False)
        return dataclasses.replace(preprocessing, keep_aspect_ratio=bool(keeps))

    def _load_converter(self):
        import keras_hub

        if "registered_name" not in self._loader.config:
            try:
                return keras_hub.layers.ImageConverter.from_preset(self.source)
            except (ValueError, FileNotFoundError):  # The class has no image converter.
                return None
        if self._read_json("image_converter.json") is None:
            return None
        return self._loader.load_image_converter(keras_hub.layers.ImageConverter)

    def _max_tokens(self):
        """Returns the number of tokens per text if none is asked for."""
        config = self._config("text" if self.towers else None)
        positions = config.get("max_sequence_length") or math.inf
        if stated := self.settings.get("max_tokens"):
            return stated
        preprocessor = self._read_json("preprocessor.json") or {}
        length = preprocessor.get("config", {}).get("sequence_length") or positions
        length = length if length <= _LONGEST_DEFAULT else _DEFAULT_MAX_TOKENS
        return int(min(length, positions))

    def _tokenizer(self, max_tokens=None):
        import keras_hub

        max_tokens = max_tokens or self._max_tokens()
        with _one_line(self.source):
            if "registered_name" not in self._loader.config:
                tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(self.source)
            elif self._read_json("tokenizer.json") is None:
                return None
            else:
                tokenizer = self._loader.load_tokenizer(keras_hub.tokenizers.Tokenizer)
        tokenizer = encoder_inputs.as_tokenizer(tokenizer, max_tokens)
        return _with_prefix(tokenizer, self.settings.get("prefix", ""), self.source)


@contextlib.contextmanager
def _one_line(source):
    """Context manager that turns errors of KerasHub into a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # hubs, the network, the disk and Keras raise errors of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the preset {source!r} cannot be loaded ({reason}); expected the name, the hf:// or "
            "kaggle:// handle or the folder of a KerasHub preset"
        ) from error


def _preset_utils():
    from keras_hub.src.utils import preset_utils

    return preset_utils


def _image_size(config):
    """Returns the height of the images that a config of a backbone states, or None."""
    shape = config.get("image_shape") or config.get("input_shape")
    return shape[0] if shape else None


def _without_dtypes(config):
    """Returns a serialized object without plain dtype policies; those of quantization remain."""
    if isinstance(config, list):
        return [_without_dtypes(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _without_dtypes(value)
        for key, value in config.items()
        if key != "dtype" or not isinstance(value, dict) or value.get("class_name") != "DTypePolicy"
    }


def _with_prefix(tokenizer, prefix, source):
    """Returns a tokenizer that puts a string before each text."""
    if not prefix:
        return tokenizer
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise UserError(
            f"{source}: {SETTINGS} has the prefix {prefix!r}, but the {type(tokenizer).__name__} "
            "has no prefix: only SentencePiece models have one"
        )
    return SentencePieceTokenizer(
        tokenizer.model,
        tokenizer.max_tokens,
        start=tokenizer.start,
        end=tokenizer.end,
        pad_id=tokenizer.pad_id,
        steps=tokenizer.steps,
        prefix=prefix,
    )


def open_preset(name):
    """Reads the description and the tokenizer of a preset, but no weights.

    Args:
        name: "keras_hub:<preset or folder>".

    Returns:
        `PublicModel`.

    Raises:
        UserError: the preset is not available, or a file is damaged.
    """
    source = name.removeprefix(KERAS_HUB)
    folder = os.path.expanduser(source)
    return PublicModel(name=name, **Preset(folder if os.path.isdir(folder) else source).describe())
