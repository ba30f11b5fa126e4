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

RECIPES = photos_trained.RECIPES


def get_config(stage):
    """Returns the config of a stage of `RECIPES` on the records in <data_dir>/emoji_trained.

    Raises:
        ValueError: the stage is unknown.
    """
    config = own.get_config(
        stage, "emoji_trained", first=("en",), triples=base.TRIPLE_LANGUAGES, recipes=RECIPES
    )
    photos_trained.train_projections(config)
    return config
