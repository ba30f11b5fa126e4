"""Fine-tuning on the captions of one data set in one language."""

from . import base


def get_config(size="tiny"):
    """Returns a config with the loss L_image-caption on English captions.

    `--config.sources.captions.languages=de` selects German captions instead.
    """
    config = base.base_config("finetune", size)
    config.init_stage = "etcl"
    config.evaluate_before_training = True
    config.sources.captions = base.source(
        size, "captions", dict(image="image", caption="text"), ["en"]
    )
    if size != "tiny":
        config.sources.captions.records = ("multi30k/train",)
        config.evaluation.retrieval = base.retrieval("multi30k/val")
    config.terms.image_caption = base.term("image", "caption", weight=1.0)
    recipe = {  # batch size, steps, learning rate
        "tiny": (128, 50, 1e-3),
        "b3_mini": (2_048, 3_000, 1e-5),
        "paper": (2_048, 3_000, 1e-5),
    }
    config.batch_size, config.steps, config.optimizer.learning_rate = recipe[size]
    return config
