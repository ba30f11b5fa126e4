"""ALIGN: images and English captions."""

from . import base


def get_config(size="tiny"):
    """Returns the config of ALIGN, whose loss is L_image-caption.

    The size b3_mini has the recipe of coyo-align on CC3M, for which results are published.
    """
    config = base.base_config("align", size)
    config.sources.captions = base.source(
        size, "captions", dict(image="image", caption="text"), ["en"]
    )
    config.terms.image_caption = base.term("image", "caption", weight=1.0)
    recipe = {  # batch size, steps, warm-up steps, peak learning rate
        "tiny": (128, 600, 60, 1e-2),
        "b3_mini": (16_384, 100_000, 10_000, 5e-3),
        "paper": (16_384, 800_000, 10_000, 1e-3),
    }[size]
    config.batch_size, config.steps = recipe[:2]
    config.optimizer.warmup_steps, config.optimizer.learning_rate = recipe[2:]
    return config
