"""Example: projections of trained encoders, on photographs of Flickr30K (`make photos`).

The encoders are public models whose weights do not change: an image encoder that was trained on
ImageNet, and a multilingual text encoder. tools/extract.py stores their features in the records
once. A run only trains two linear projections of these features, which takes less than a minute.
docs/data.md lists the commands, and docs/evidence.md the results.

    python tools/train.py --config=configs/examples/photos_trained.py --stage=etcl

MURAL trains on photographs with English captions, and on translations into German, French, Czech
and Portuguese. ETCL trains on photographs with captions in English, German and French. Chinese,
Arabic and Dutch occur only in the evaluation. The stage `align` trains the projections on English
captions only.

The stage `codeswitch` replaces words of the English captions by translations from a lexicon:

    python tools/lexicon.py bitext --records=data/photos_trained/bitext \\
        --out_dir=data/photos_trained/lexicon
    python tools/train.py --config=configs/examples/photos_trained.py --stage=codeswitch

The features of the changed captions cannot be stored, so the text encoder runs in each step, and a
run takes about as long as the extraction of the features of 400,000 texts.
"""

from . import photos

# Folders that benchmarks/trained_weights.py writes. Any public models may take their places, see
# docs/running.md; the features in the records must come from the same models.
ENCODERS = {"image": "keras_hub:data/presets/lite0", "text": "keras_hub:data/presets/e5"}
FEATURES = {"image": "lite0", "text": "e5"}  # names of the features in the records
_FIRST, _FOLLOW_UP = (520, 52, 1e-3), (260, 0, 5e-4)
RECIPES = {  # steps, warm-up steps, peak learning rate
    "align": _FIRST,
    "mural": _FIRST,
    "control": _FOLLOW_UP,
    "etcl": _FOLLOW_UP,
    "sixlang": _FOLLOW_UP,
    "one_language": _FOLLOW_UP,
    "distil": _FOLLOW_UP,
    "codeswitch": _FOLLOW_UP,
}


def get_config(stage):
    """Returns the config of a stage of `RECIPES` on the records in <data_dir>/photos_trained.

    Raises:
        ValueError: the stage is unknown.
    """
    config = photos.get_config(stage, "photos_trained", RECIPES)
    train_projections(config)
    return config


def train_projections(config):
    """Changes a config so that it trains linear projections of the encoders of `ENCODERS`.

    Args:
        config: config of a stage, changed in place.
    """
    _use_features(config)
    if config.stage == "codeswitch":
        config.model.text.vectors = None
    config.batch_size = 512
    config.optimizer.name = "adam"
    config.optimizer.exclude_from_layer_adaptation = ()
    # A learned temperature falls to 0.01, and the projections then fit only the training captions.
    config.model.scalars.temperature.shared, config.optimizer.scalar_lr_multiplier = 0.05, 0.0
    for term in config.terms.values():
        if term.loss == "contrastive":
            term.margin = 0.0
    # A run takes seconds, so that only its last step is saved and evaluated.
    config.checkpoint_every, config.evaluate_every, config.log_every = None, None, 50
    config.report.show = 0


def _use_features(config):
    """Makes the encoders those of `ENCODERS`, of which a step only runs the projections."""
    config.model.embedding_dim = 512
    for name, tower in (("image", config.model.image), ("text", config.model.text)):
        tower.backbone, tower.vectors = ENCODERS[name], FEATURES[name]
        if tower.adapt != "frozen":  # The stage `distil` does not train the image encoder.
            tower.adapt = "last:0"
