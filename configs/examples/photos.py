"""Photographs with captions that people wrote: MURAL, its control, and ETCL on Flickr30K.

    git clone https://github.com/multi30k/dataset photos_raw/multi30k
    (and Flickr30K's photographs into photos_raw/flickr30k-images)
    python tools/convert.py --dataset=multi30k --raw_dir=photos_raw --out_dir=data/photos \\
        --split=train,val,bitext --vocab_size=16000
    python tools/train.py --config=configs/examples/photos.py --stage=etcl

English captions come with the photographs, and translations are the texts of 29,000 of them in any
two languages. ETCL sees the photographs with captions in English, German and French. Czech never
meets a photograph, nor does Portuguese, which joins where
github.com/FrameNetBrasil/framed-multi30k is cloned into photos_raw too, and named to the converter:

    --multi30k.texts=multi30k/data,framed-multi30k/data/multi30k
"""

from configs.examples import own

LANGUAGES = ("en", "de", "fr")
_FOLLOW_UP = (600, 0, 4e-3)
RECIPES = {  # steps, warm-up, peak rate
    "mural": (2_000, 200, 1e-2),
    "control": _FOLLOW_UP,
    "etcl": _FOLLOW_UP,
}


def get_config(stage):
    """A stage of `RECIPES` on the records in <data_dir>/photos.

    Raises:
        ValueError: an unknown stage.
    """
    if stage not in RECIPES:
        raise ValueError(f"unknown stage {stage!r}; known: {', '.join(RECIPES)}")
    config = own.get_config(
        stage, "photos", first=("en",), triples=LANGUAGES, bitext="photos/bitext"
    )
    config.batch_size = 128
    recipe = RECIPES[stage]
    config.steps, config.optimizer.warmup_steps, config.optimizer.learning_rate = recipe
    config.evaluate_every = 400
    return config
