"""Four families of image encoders and four of text encoders: public models with tiny weights."""

import os

from helpers import keras_hub_presets, public_checkpoints, sentence_checkpoints

# Dropout draws other masks on JAX than on TensorFlow.
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _two_stages():
    """Returns an EfficientNet of KerasHub with two stages."""
    backbone = keras_hub_presets.IMAGE_BACKBONES["efficientnet"]()
    config = backbone.get_config()
    config |= {key: 2 * value for key, value in config.items() if key.startswith("stackwise_")}
    return type(backbone).from_config(config)


def _image_preset(make):
    def write(folder):
        size = (keras_hub_presets.SIZE, keras_hub_presets.SIZE)
        options = {"image_size": size, "scale": 1 / 127.5, "offset": -1.0}
        keras_hub_presets.save(folder, keras_hub_presets.randomize(make()), **options)

    return write


def _bert(folder):
    backbone, tokenizer = keras_hub_presets.bert()
    backbone = type(backbone).from_config(backbone.get_config() | {"dropout": 0.0})
    keras_hub_presets.save(folder, keras_hub_presets.randomize(backbone), tokenizer)


def _xlm_roberta(folder):
    sentence_checkpoints.xlm_roberta(folder, **_NO_DROPOUT)


# {family: (prefix of its public names, function that writes it to a folder)}.
_CLIP, _SIGLIP_2 = ("hf", public_checkpoints.clip), ("hf", public_checkpoints.siglip_2)
IMAGES = {
    "efficientnet": ("keras_hub", _image_preset(_two_stages)),
    "vit": ("keras_hub", _image_preset(keras_hub_presets.vit)),
    "clip": _CLIP,
    "siglip_2": _SIGLIP_2,
}
TEXTS = {
    "bert": ("keras_hub", _bert),
    "xlm_roberta": ("hf", _xlm_roberta),
    "clip": _CLIP,
    "siglip_2": _SIGLIP_2,
}


def write(folder):
    """Writes the models of all families to a folder."""
    for family, (_, write_model) in {**IMAGES, **TEXTS}.items():
        write_model(os.path.join(folder, family))


def name(folder, family):
    """Returns the name of the public model of a family, which `write` wrote to a folder."""
    prefix, _ = {**IMAGES, **TEXTS}[family]
    return f"{prefix}:{os.path.join(folder, family)}"
