"""Example: projections of trained encoders, on emoji with names in 95 languages.

The encoders and the recipe are those of photos_trained.py, and the data are those of emoji.py.
docs/data.md lists the commands (`make emoji`), and docs/evidence.md the results.

    python tools/train.py --config=configs/examples/emoji_trained.py --stage=etcl

MURAL trains on images with English names, and on translations: names of the same image in any two
languages. ETCL trains on images with names in six languages. The other 89 languages are never
paired with an image in training.
"""

from .. import base
from . import own, photos_trained

_FIRST, _FOLLOW_UP = (520, 52, 1e-3), (260, 0, 5e-4)
RECIPES = {  # steps, warm-up steps, peak learning rate
    "align": _FIRST,
    "mural": _FIRST,
    "control": _FOLLOW_UP,
    "etcl": _FOLLOW_UP,
    "sixlang": _FOLLOW_UP,
    "one_language": _FOLLOW_UP,
    "distil": _FOLLOW_UP,
}


def get_config(stage):
    """Returns the config of a stage of `RECIPES` on the records in <data_dir>/emoji_trained.

    Raises:
        ValueError: the stage is unknown.
    """
    if stage not in RECIPES:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(RECIPES)}")
    config = own.get_config(stage, "emoji_trained", first=("en",), triples=base.TRIPLE_LANGUAGES)
    recipe = RECIPES[stage]
    config.steps, config.optimizer.warmup_steps, config.optimizer.learning_rate = recipe
    photos_trained.train_projections(config)
    return config
