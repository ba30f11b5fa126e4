"""ALIGN: image and English caption alone, the smallest stage of all."""

from configs import base


def get_config(size="tiny"):
    """L_image-caption; at b3_mini the recipe of coyo-align on CC3M, which has published values."""
    config = base.base_config("align", size)
    config.sources.captions = base.source(
        size, "captions", dict(image="image", caption="text"), ["en"]
    )
    config.terms.image_caption = base.term("image", "caption", weight=1.0)
    recipe = {  # batch, steps, warm-up, peak rate
        "tiny": (128, 600, 60, 1e-2),
        "b3_mini": (16_384, 100_000, 10_000, 5e-3),
        "paper": (16_384, 800_000, 10_000, 1e-3),
    }[size]
    config.batch_size, config.steps = recipe[:2]
    config.optimizer.warmup_steps, config.optimizer.learning_rate = recipe[2:]
    return config
