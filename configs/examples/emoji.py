"""Example: MURAL, the control of ETCL, and ETCL on emoji with names in 95 languages.

    python tools/convert.py --dataset=table --raw_dir=emoji_raw --out_dir=data/emoji \\
        --table.image_column=image_id --table.image_dir=images --table.image_suffix=.png \\
        --table.split_column=split --table.quoting=none --augmentations=crop --vocab_size=16000
    python tools/train.py --config=configs/examples/emoji.py --stage=etcl

There are 1,499 images for training and 176 for evaluation. MURAL trains on images with English
names, and on translations: names of the same image in any two languages. ETCL trains on all images
with names in six languages. For the other 89 languages there are no image-text pairs.
"""

from .. import base
from . import own

_FOLLOW_UP = (400, 0, 4e-3)
RECIPES = {  # steps, warm-up steps, peak learning rate
    "mural": (1_200, 120, 1e-2),
    "control": _FOLLOW_UP,
    "etcl": _FOLLOW_UP,
    "sixlang": _FOLLOW_UP,
}


def get_config(stage):
    """Returns the config of a stage of `RECIPES` on the records in <data_dir>/emoji.

    Raises:
        ValueError: the stage is unknown.
    """
    config = own.get_config(
        stage, "emoji", first=("en",), triples=base.TRIPLE_LANGUAGES, recipes=RECIPES
    )
    # Only 0.6 % of the names have more than 20 tokens.
    config.model.text.max_tokens = 20
    config.batch_size = 128
    config.evaluate_every = 400
    return config
