"""Reads the text encoders of Multilingual-CLIP (M-CLIP), such as M-CLIP/XLM-Roberta-Large-Vit-B-32.

Such an encoder averages the hidden states of the tokens that are not padding, and projects the
average linearly to the space of a CLIP. Its config.json has only the name of the transformer and
two widths. See https://github.com/FreddeFrallan/Multilingual-CLIP.
"""

import os

from tf_mural.errors import UserError
from tf_mural.huggingface import checkpoint_files, text_backbones, weight_mapping
from tf_mural.huggingface.sentence_transformers import SentenceModel

_HEAD, _PREFIX = "LinearTransformation", "transformer."


def _xlm_roberta(num_layers, width):
    return {
        "model_type": "xlm-roberta",
        "vocab_size": 250002,
        "hidden_size": width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }


def _bert(vocabulary_size):
    return {"model_type": "bert", "vocab_size": vocabulary_size}


# The configs of the transformers that the published models name. Others are read from the folder or
# from huggingface.co.
_TRANSFORMERS = {
    "xlm-roberta-base": _xlm_roberta(12, 768),
    "xlm-roberta-large": _xlm_roberta(24, 1024),
    "LaBSE": _bert(501153),
    "bert-base-multilingual-cased": _bert(119547),
}


class MClip(SentenceModel):
    """A text encoder of M-CLIP.

    Args:
        name: folder, or name on huggingface.co.
        folder: folder that contains config.json and the files of the tokenizer.
        config: content of config.json.

    Raises:
        UserError: config.json is incomplete, or its transformer is not supported.
    """

    def __init__(self, name, folder, config):
        where = os.path.join(folder, "config.json")
        for key, expected in (("modelBase", str), ("transformerDimensions", int), ("numDims", int)):
            if not isinstance(config.get(key), expected):
                raise UserError(
                    f"{where}: {key} is {config.get(key)!r}, expected {expected.__name__}; the "
                    "config.json of M-CLIP has modelBase, transformerDimensions and numDims"
                )
        self.name, self.folder, self.path, self.settings, self.prefix = name, folder, "", {}, ""
        base = config["modelBase"]
        transformer = _TRANSFORMERS.get(base.rpartition("/")[2])
        if transformer is None:
            transformer = checkpoint_files.read_json(_base_folder(folder, base), "config.json")
        self.backbone = text_backbones.TextBackbone(transformer, f"modelBase of {where}")
        if self.backbone.width != config["transformerDimensions"]:
            raise UserError(
                f"{where}: transformerDimensions is {config['transformerDimensions']}, but "
                f"modelBase={base} has {self.backbone.width}; expected the same number"
            )
        self.pooling, self.embedding_dim, self.dense = "average", config["numDims"], _HEAD
        self.dense_options = {"projection_bias": True}

    def tensors(self):
        """Returns {name: array} of the backbone; the weights are downloaded if necessary."""
        tensors = super().tensors()
        return {name: x for name, x in tensors.items() if name.startswith(_PREFIX)}

    def load_dense(self, layer):
        """Assigns the weights of the linear layer."""
        layers = weight_mapping.LayerMap()
        layers.dense(layer, _HEAD)
        layers.load(super().tensors(), self.name)


def _base_folder(folder, base):
    """Returns the folder of a transformer: a path, a path in `folder`, or a download."""
    inner = os.path.join(folder, base)
    return inner if os.path.isdir(inner) else checkpoint_files.fetch(base)
