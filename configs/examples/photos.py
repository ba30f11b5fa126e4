"""Example: MURAL, the control of ETCL, ETCL and code-switching on photographs of Flickr30K.

    git clone https://github.com/multi30k/dataset photos_raw/multi30k
    (copy the photographs of Flickr30K to photos_raw/flickr30k-images)
    python tools/convert.py --dataset=multi30k --raw_dir=photos_raw --out_dir=data/photos \\
        --split=train,val,bitext --vocab_size=16000
    python tools/train.py --config=configs/examples/photos.py --stage=etcl

MURAL trains on photographs with English captions, and on translations: the captions of 29,000
photographs in any two languages. ETCL trains on photographs with captions in English, German and
French. For Czech there are no image-text pairs. To add Portuguese, also without image-text pairs,
clone github.com/FrameNetBrasil/framed-multi30k into photos_raw, and add a flag to the conversion:

    --multi30k.texts=multi30k/data,framed-multi30k/data/multi30k

The stage `codeswitch` replaces words of the English captions by translations, which the first
command learns from the pairs of MURAL:

    python tools/lexicon.py bitext --records=data/photos/bitext --out_dir=data/photos/lexicon
    python tools/train.py --config=configs/examples/photos.py --stage=codeswitch
"""

from . import own

LANGUAGES = ("en", "de", "fr")
_FOLLOW_UP = (600, 0, 4e-3)
RECIPES = {  # steps, warm-up steps, peak learning rate
    "mural": (2_000, 200, 1e-2),
    "control": _FOLLOW_UP,
    "etcl": _FOLLOW_UP,
    "codeswitch": _FOLLOW_UP,
}


def get_config(stage, folder="photos", recipes=RECIPES):
    """Returns the config of a stage on photographs.

    Args:
        stage: name of the stage, a key of `recipes`.
        folder: folder of the record sets, relative to --data_dir.
        recipes: {stage: (steps, warm-up steps, peak learning rate)}.

    Raises:
        ValueError: the stage is unknown.
    """
    config = own.get_config(
        stage, folder, ("en",), LANGUAGES, bitext=f"{folder}/bitext", recipes=recipes
    )
    config.batch_size = 128
    config.evaluate_every = 400
    return config
