"""ETCL: training on triples (image, text A, text B) in a few languages, after MURAL."""

from . import base

# {size: tuple (batch size, steps, learning rate)}. The learning rate falls linearly to 0, and there
# is no warm-up. The control and the ablations have the same recipes.
RECIPES = {
    "tiny": (128, 180, 4e-3),
    "b3_mini": (16_384, 3_000, 5e-4),
    "paper": (32_768, 3_000, 1e-4),
}


def follow_up(config, size):
    """Sets the schedule of ETCL and the initial stage MURAL in `config`, and returns `config`."""
    config.init_stage = "mural"
    config.batch_size, config.steps, config.optimizer.learning_rate = RECIPES[size]
    return config


def get_config(size="tiny"):
    """Returns a config with L_ETCL = 1/3 (L_image-textA + L_textA-textB + L_textB-image).

    An epoch visits each image with each unordered pair of its languages once.
    """
    config = follow_up(base.base_config("etcl", size), size)
    fields = dict(image="image", text_a="text", text_b="text")
    config.sources.triples = base.source(
        size, "triples", fields, base.TRIPLE_LANGUAGES, epoch_unit="combinations"
    )
    config.terms.image_text_a = base.term("image", "text_a", weight=1 / 3)
    config.terms.text_a_text_b = base.term("text_a", "text_b", weight=1 / 3)
    config.terms.text_b_image = base.term("text_b", "image", weight=1 / 3)
    if size == "tiny":
        config.report.compare_with, config.report.control = ("mural", "control"), "control"
    return config
