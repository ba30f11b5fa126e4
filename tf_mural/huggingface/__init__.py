"""Reads public weights from checkpoints of Hugging Face, without the `transformers` library.

A checkpoint is a folder in the layout of `save_pretrained`, or a name on huggingface.co. Supported
models are ALIGN, which has weights for both towers, and BERT, which has weights for the text tower.
"""

import dataclasses
import os
import re

from tf_mural import models
from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import (
    align,
    bert,
    checkpoint_files,
    preprocessing_config,
    weight_mapping,
)

__all__ = ["Checkpoint", "open_checkpoint", "read_weights"]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The description of a checkpoint, without its weights.

    Attributes:
        name: folder, or name on huggingface.co.
        image: arguments "backbone" and "padding" of `models.image_tower`, or None for a BERT.
        image_sizes: {"resize": pixels, "crop": pixels}, or None for a BERT.
        text: arguments "sizes" and "activation" of `models.text_tower`.
        positions: number of position embeddings.
        embedding_dim: width of the shared embedding space, or None for a BERT.
        vocabulary: pieces in the order of their ids.
        lower_case: whether the tokenizer lower-cases texts and removes accents.
    """

    name: str
    image: dict | None
    image_sizes: dict | None
    text: dict
    positions: int
    embedding_dim: int | None
    vocabulary: tuple
    lower_case: bool


def open_checkpoint(name):
    """Reads the description of a checkpoint; returns a `Checkpoint`.

    Args:
        name: folder, or name on huggingface.co such as "kakaobrain/align-base".

    Raises:
        UserError: the checkpoint is not available, or its model or tokenizer is not supported.
    """
    folder = checkpoint_files.fetch(name)
    config = checkpoint_files.read_json(folder, "config.json")
    path = os.path.join(folder, "config.json")
    parse = lookup(_PARSERS, config.get("model_type"), f"model_type (of {path})")
    options = parse(config, folder, path)
    text = options.pop("text")
    pieces, lower_case = preprocessing_config.read_tokenizer(folder)
    if len(pieces) != text["vocabulary_size"]:
        raise UserError(
            f"{path}: vocab_size is {text['vocabulary_size']}, but the vocabulary in the same "
            f"folder has {len(pieces)} pieces; expected the files of a single model"
        )
    return Checkpoint(
        name=name,
        text={key: text[key] for key in ("sizes", "activation")},
        positions=text["positions"],
        vocabulary=tuple(pieces),
        lower_case=lower_case,
        **options,
    )


def is_supported(name):
    """Returns whether a checkpoint is an ALIGN, or a BERT with a WordPiece vocabulary.

    Args:
        name: folder, or name on huggingface.co.

    Raises:
        UserError: the checkpoint is not available.
    """
    folder = checkpoint_files.fetch(name)
    config = checkpoint_files.read_json(folder, "config.json", optional=True) or {}
    if config.get("model_type") != "bert" or os.path.exists(os.path.join(folder, "vocab.txt")):
        return config.get("model_type") in _PARSERS
    tokenizer = checkpoint_files.read_json(folder, "tokenizer.json", optional=True) or {}
    return (tokenizer.get("model") or {}).get("type") == "WordPiece"


def _parse_align(config, folder, path):
    image = align.parse_config(config.get("vision_config") or {}, path)
    width, embedding_dim = image.pop("width"), config.get("projection_dim", 640)
    if width != embedding_dim:
        raise UserError(
            f"{path}: projection_dim is {embedding_dim}, but the image tower has {width} output "
            "features; expected the same number, because ALIGN does not project images"
        )
    return {
        "text": bert.parse_config(config.get("text_config") or {}, path),
        "image": image,
        "image_sizes": preprocessing_config.read_image_sizes(folder),
        "embedding_dim": embedding_dim,
    }


def _parse_bert(config, folder, path):
    text = bert.parse_config(config, path)
    return {"text": text, "image": None, "image_sizes": None, "embedding_dim": None}


_PARSERS = {"align": _parse_align, "bert": _parse_bert}
# The towers do not need tensors whose names contain one of these strings.
_IGNORED = ("pooler.", "position_ids", "token_type_ids", "num_batches_tracked", "cls.")


def read_weights(checkpoint, shapes, towers=("image", "text")):
    """Reads the weights of a checkpoint.

    Args:
        checkpoint: `Checkpoint`.
        shapes: {variable path: shape} of a `models.DualEncoder` that was built with the arguments
            in `checkpoint`.
        towers: towers whose variables `shapes` contains.

    Returns:
        A tuple: {variable path: float32 array} of the variables that the checkpoint contains, and
        the list of the names of unused tensors. The list of unused tensors omits the tensors of
        poolers, pre-training heads and counters.

    Raises:
        UserError: tensors are missing, have another shape, or belong to layers that the towers do
            not have.
    """
    folder = checkpoint_files.fetch(checkpoint.name, weights=True)
    tensors = bert.rename_layer_norms(checkpoint_files.read_tensors(folder))
    prefix = bert.find_prefix(tensors, checkpoint.name)
    specs = {path: bert.tensor_spec(path, shape, prefix) for path, shape in shapes.items()}
    if checkpoint.image:
        blocks = list(models.block_shapes(models.EFFICIENTNETS[checkpoint.image["backbone"]]))
        for path, shape in shapes.items():
            specs[path] = (
                specs[path] or align.tensor_spec(path, shape, blocks) or _head_spec(path, shape)
            )
    specs = {path: spec for path, spec in specs.items() if spec}
    arrays = weight_mapping.convert(specs, shapes, tensors, checkpoint.name)
    unused = sorted(set(tensors) - {spec.name for spec in specs.values()})
    unused = [name for name in unused if not any(part in name for part in _IGNORED)]
    layers = {"text": rf"{re.escape(prefix)}(embeddings|encoder)\.", "image": r"vision_model\."}
    encoder = re.compile("|".join(layers[tower] for tower in towers))
    unknown = [name for name in unused if encoder.match(name)]
    if unknown:
        raise UserError(
            f"the weights of {checkpoint.name} have {len(unknown)} tensors of layers that are not "
            f"in its config.json: {', '.join(unknown[:3])}"
        )
    return arrays, unused


def _head_spec(path, shape):
    if path == "text_projection/kernel":
        return weight_mapping.dense("text_projection.weight", shape)
    if path.startswith("text_projection/"):
        return weight_mapping.vector("text_projection.bias", shape)
    return weight_mapping.vector("temperature", shape) if "/temperature_" in path else None
