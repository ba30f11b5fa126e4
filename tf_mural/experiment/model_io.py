"""What a run leaves behind, and how a model is made of it again."""

import contextlib
import dataclasses
import functools
import hashlib
import os

import numpy as np
from keras import ops

from tf_mural import file_io, models
from tf_mural.data import image_ops
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError
from tf_mural.evaluation.batch_embedder import Embedder
from tf_mural.experiment.backend import rooms
from tf_mural.training import checkpoints


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model, ready to embed.

    Attributes:
        encoder: `models.DualEncoder`.
        tokenizer: `text.Tokenizer`.
        embed: `embedder.Embedder` of both.
        sizes: {"resize", "crop"} of images, in pixels.
    """

    encoder: models.DualEncoder
    tokenizer: Tokenizer
    embed: Embedder
    sizes: dict


def describe(config, tokenizer):
    """What rebuilds the model without its config: the content of model.json."""
    return {
        "model": config.model.to_dict(),
        "images": config.images.to_dict(),
        "vocabulary_size": tokenizer.size,
        "vocabulary_hash": tokenizer.hash,
        "max_tokens": tokenizer.max_tokens,
        "lower_case": config.lower_case,
        "pretrained": config.pretrained,
        # The weights are float32 in any case. What reads this scores them as the run itself did.
        "precision": config.get("precision", "float32"),
    }


def model_arguments(description):
    """Keyword arguments of `models.dual_encoder`."""
    model = models.rename_arguments(description["model"])
    image, text = dict(model["image"]), dict(model["text"])
    # Flags cannot say None: 0 is a replica's whole share (and -1 the whole batch of all replicas),
    # "" no preset, () no sizes but a name's.
    image["virtual_batch_size"] = image.get("virtual_batch_size") or None
    image["preset"], text["preset"] = image["preset"] or None, text["preset"] or None
    text["sizes"] = tuple(text.get("sizes", ())) or None
    text["vocabulary_size"] = description["vocabulary_size"]
    precision = description.get("precision", "float32")
    return {**model, "image": image, "text": text, "precision": precision}


def load(path, strategy=None, batch_size=128):
    """A trained model.

    Args:
        path: workdir of a finished run, or a preset (see `presets`), which may lie on a hub.
        strategy: what `make_strategy` of the backend's room made, to embed on all of its replicas;
            None is one device.
        batch_size: see `embedder.Embedder`; rounded up to a multiple of the replicas.

    Raises:
        UserError: there is no model, or its vocabulary is not the one it was trained with.
    """
    with strategy.scope() if strategy else contextlib.nullcontext():
        encoder, tokenizer, sizes = _read(path)
    embed = embedder(encoder, tokenizer, sizes, batch_size, strategy)
    return Model(encoder, tokenizer, embed, sizes)


def _read(path):
    # Looked for first: what a preset is made of is a heavy import.
    if file_io.is_on_hub(path) or not file_io.exists(os.path.join(path, checkpoints.MODEL)):
        from tf_mural.export import presets

        if presets.is_preset(path):
            return presets.load_preset(path)
    description = checkpoints.read_model(path)
    tokenizer = Tokenizer(
        os.path.join(path, checkpoints.VOCABULARY),
        description["max_tokens"],
        description.get("lower_case", False),
    )
    if tokenizer.hash != description["vocabulary_hash"]:
        raise UserError(
            f"{os.path.join(path, checkpoints.VOCABULARY)} has hash {tokenizer.hash}, but the "
            f"model was trained with {description['vocabulary_hash']}: put the right one back"
        )
    encoder = models.dual_encoder(**model_arguments(description))
    checkpoints.load_weights(path, encoder)
    return encoder, tokenizer, description["images"]


def embedder(encoder, tokenizer, sizes, batch_size=128, strategy=None):
    """An `Embedder` over the towers of `encoder`; sizes: {"resize", "crop"} in pixels."""

    distribute, _ = rooms()
    towers = distribute.encoder_functions(encoder, strategy=strategy)
    replicas = strategy.num_replicas_in_sync if strategy else 1
    preprocess = functools.partial(
        image_ops.preprocess_for_evaluation, resize_to=sizes["resize"], size=sizes["crop"]
    )
    return Embedder(
        towers["image"],
        towers["text"],
        tokenizer,
        preprocess,
        width=encoder.towers["text"].output.shape[-1],
        batch_size=-(-batch_size // replicas) * replicas,
    )


def fingerprint(encoder, tokenizer, sizes):
    """Names a model by all that its embeddings depend on: weights, vocabulary, image sizes.

    Returns:
        32 hexadecimal digits, the same wherever the model is kept.
    """
    digest = hashlib.sha256(
        f"{tokenizer.hash} {tokenizer.max_tokens} {sorted(sizes.items())}".encode()
    )
    for variable in checkpoints.variables_by_path(encoder).values():
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value)))
    return digest.hexdigest()[:32]
