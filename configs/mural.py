"""MURAL: training on pairs (image, English caption) and on pairs of translations."""

from . import base


def get_config(size="tiny"):
    """Returns a config with L_MURAL = 1/2 (L_image-caption + L_source-target)."""
    config = base.base_config("mural", size)
    config.sources.captions = base.source(
        size, "captions", dict(image="image", caption="text"), ["en"]
    )
    config.sources.bitext = base.source(size, "bitext", dict(source="text", target="text"))
    config.terms.image_caption = base.term("image", "caption", weight=1 / 2)
    config.terms.source_target = base.term("source", "target", weight=1 / 2)
    recipe = {  # batch size of each source, steps, warm-up steps, peak learning rate
        "tiny": (128, 600, 60, 1e-2),
        "b3_mini": (16_384, 100_000, 10_000, 5e-3),
        "paper": (16_384, 800_000, 10_000, 1e-3),
    }[size]
    config.batch_size, config.steps = recipe[:2]
    config.optimizer.warmup_steps, config.optimizer.learning_rate = recipe[2:]
    return config
