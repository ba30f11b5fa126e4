"""Public weights: what a checkpoint of Hugging Face says of its model, and its tensors as ours.

Read by numpy alone. A checkpoint is a folder as `save_pretrained` writes it, or a name of
huggingface.co: ALIGN (both towers) or any BERT (the text tower).
"""

import dataclasses
import os
import re

from tf_mural import models
from tf_mural.errors import UserError, lookup
from tf_mural.huggingface import align, bert, files, preprocessing_config, weight_mapping

__all__ = ["Checkpoint", "open_checkpoint", "weights"]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What the small files of a checkpoint say.

    Attributes:
        name: folder, or name of huggingface.co.
        image: {"name", "padding"} of the image tower, or None where there is none.
        images: {"resize", "crop"} in pixels, or None.
        text: {"sizes", "activation"} of the text tower.
        positions: rows of its position table.
        embedding_dim: width of the shared space, or None where there is none.
        vocabulary: pieces in the order of their ids.
        lower_case: whether texts lose case and accents first.
    """

    name: str
    image: dict | None
    images: dict | None
    text: dict
    positions: int
    embedding_dim: int | None
    vocabulary: tuple
    lower_case: bool


def open_checkpoint(name):
    """Reads what describes a checkpoint, not its weights.

    Args:
        name: a folder, or a name of huggingface.co such as "kakaobrain/align-base".

    Raises:
        UserError: it cannot be had, or is of a model or a tokenizer that the towers are not.
    """
    folder = files.find(name)
    config, where = files.read_json(folder, "config.json"), os.path.join(folder, "config.json")
    read = lookup(_MODELS, config.get("model_type"), f"model_type (of {where})")
    found = read(config, folder, where)
    text = found.pop("text")
    pieces, lower_case = preprocessing_config.tokens(folder)
    if len(pieces) != text["vocabulary_size"]:
        raise UserError(
            f"{where}: vocab_size is {text['vocabulary_size']}, but the vocabulary beside it has "
            f"{len(pieces)} pieces; expected those of one model"
        )
    return Checkpoint(
        name=name,
        text={key: text[key] for key in ("sizes", "activation")},
        positions=text["positions"],
        vocabulary=tuple(pieces),
        lower_case=lower_case,
        **found,
    )


def _read_align(config, folder, where):
    image = align.describe(config.get("vision_config") or {}, where)
    width, embedding_dim = image.pop("width"), config.get("projection_dim", 640)
    if width != embedding_dim:
        raise UserError(
            f"{where}: projection_dim is {embedding_dim}, but the image tower is {width} wide; "
            "expected the same, since ALIGN has no projection of images"
        )
    return {
        "text": bert.describe(config.get("text_config") or {}, where),
        "image": image,
        "images": preprocessing_config.images(folder),
        "embedding_dim": embedding_dim,
    }


def _read_bert(config, folder, where):
    text = bert.describe(config, where)
    return {"text": text, "image": None, "images": None, "embedding_dim": None}


_MODELS = {"align": _read_align, "bert": _read_bert}
# What a checkpoint has and the towers do without, on purpose.
_NOT_OURS = ("pooler.", "position_ids", "token_type_ids", "num_batches_tracked", "cls.")


def weights(checkpoint, shapes):
    """Reads the weights.

    Args:
        checkpoint: `Checkpoint`.
        shapes: {path: shape} of the variables of a `models.DualEncoder` of that description.

    Returns:
        ({path: float32 array} of the variables that the checkpoint has, names of its tensors that
        have no place; poolers, heads of pre-training and counters are passed over).

    Raises:
        UserError: tensors are missing, too many or of another shape.
    """
    tensors = _modern(files.tensors(files.find(checkpoint.name, weights=True)))
    prefix = bert.prefix_of(tensors, checkpoint.name)
    found = {path: bert.place(path, shape, prefix) for path, shape in shapes.items()}
    if checkpoint.image:
        blocks = list(models.block_shapes(models.EFFICIENTNETS[checkpoint.image["name"]]))
        for path, shape in shapes.items():
            found[path] = found[path] or align.place(path, shape, blocks) or _head(path, shape)
    found = {path: place for path, place in found.items() if place}
    arrays = weight_mapping.fill(found, shapes, tensors, checkpoint.name)
    rest = sorted(set(tensors) - {place.name for place in found.values()})
    rest = [name for name in rest if not any(part in name for part in _NOT_OURS)]
    ours = re.compile(rf"{re.escape(prefix)}(embeddings|encoder)\.|vision_model\.")
    layers = [name for name in rest if ours.match(name)]
    if layers:
        raise UserError(
            f"the weights of {checkpoint.name} have {len(layers)} tensors of layers that its "
            f"config.json does not tell of: {', '.join(layers[:3])}"
        )
    return arrays, rest


def _modern(tensors):
    """Layer norms that were converted from TensorFlow long ago call their parts as that does."""
    renamed = {"gamma": "weight", "beta": "bias"}
    parts = {name: name.rpartition(".") for name in tensors}
    return {
        f"{head}.{renamed[last]}" if last in renamed else name: tensors[name]
        for name, (head, _, last) in parts.items()
    }


def _head(path, shape):
    if path.startswith("text_projection/"):
        kernel = path.endswith("kernel")
        name = f"text_projection.{'weight' if kernel else 'bias'}"
        return (weight_mapping.dense if kernel else weight_mapping.vector)(name, shape)
    return weight_mapping.vector("temperature", shape) if "/temperature_" in path else None
