"""What a run leaves behind, and how a model is made of it again."""

import functools
import os

from tf_mural import checkpoints, images, models
from tf_mural.base import UserError
from tf_mural.build.backend import rooms
from tf_mural.embedder import Embedder
from tf_mural.text import Tokenizer


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
    model = {**description["model"]}
    image, text = dict(model["image"]), dict(model["text"])
    # Flags cannot say None: 0 is a replica's whole share (and -1 the whole batch of all replicas),
    # "" no preset, () no sizes but a name's.
    image["batch_norm_group"] = image["batch_norm_group"] or None
    image["preset"], text["preset"] = image["preset"] or None, text["preset"] or None
    text["sizes"] = tuple(text.get("sizes", ())) or None
    text["vocabulary_size"] = description["vocabulary_size"]
    precision = description.get("precision", "float32")
    return {**model, "image": image, "text": text, "precision": precision}


def load(folder):
    """The encoder, tokenizer and embedder of a finished run.

    Args:
        folder: workdir of a run.

    Returns:
        (`models.DualEncoder`, `text.Tokenizer`, `embedder.Embedder`).

    Raises:
        UserError: there is no model, or its vocabulary is not the one it was trained with.
    """
    description = checkpoints.read_model(folder)
    tokenizer = Tokenizer(
        os.path.join(folder, checkpoints.VOCABULARY),
        description["max_tokens"],
        description.get("lower_case", False),
    )
    if tokenizer.hash != description["vocabulary_hash"]:
        raise UserError(
            f"{os.path.join(folder, checkpoints.VOCABULARY)} has hash {tokenizer.hash}, but the "
            f"model was trained with {description['vocabulary_hash']}: put the right one back"
        )
    encoder = models.dual_encoder(**model_arguments(description))
    checkpoints.load_weights(folder, encoder)
    return encoder, tokenizer, embedder(encoder, tokenizer, description["images"])


def embedder(encoder, tokenizer, sizes, batch_size=128):
    """An `Embedder` over the towers of `encoder`; sizes: {"resize", "crop"} in pixels."""

    distribute, _ = rooms()
    towers = distribute.encoder_functions(encoder)
    preprocess = functools.partial(
        images.for_evaluation, resize_to=sizes["resize"], size=sizes["crop"]
    )
    return Embedder(
        towers["image"],
        towers["text"],
        tokenizer,
        preprocess,
        width=encoder.towers["text"].output.shape[-1],
        batch_size=batch_size,
    )
