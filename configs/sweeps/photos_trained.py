"""Projections of trained encoders on photographs: MURAL, its control, ETCL and the ablations.

Each run trains only the projections of stored features, see configs/examples/photos_trained.py.
"""

CONFIG = "configs/examples/photos_trained.py"
TITLE = "Average recall on 242 photographs, with trained encoders"
SEEDS = (0, 1, 2, 3, 4)
BASELINE = None


def make_run(stage, init=None, config=CONFIG, **overrides):
    """Returns a value of RUNS.

    Args:
        stage: name of the stage.
        init: row of the run with the initial weights; None: new projections.
        config: file of the config.
        **overrides: values of the config.
    """
    run = {"stage": stage, "config": config, "overrides": overrides}
    return run if init is None else {**run, "init": init}


# The teacher is the text encoder of the MURAL run with the same seed, for English texts.
_TEACHER = {
    "records": ("photos_trained/bitext",),
    "name": "teacher",
    "of": "texts",
    "languages": ("en",),
    "drop_images": True,
}
_TAUGHT = {"sources.translations.records": ("{vectors}/bitext",)}

RUNS = {
    "English captions": make_run("align"),
    "MURAL": make_run("mural"),
    "control": make_run("control", "MURAL"),
    "MURAL + ETCL": make_run("etcl", "MURAL"),
    "MURAL + pairs in 3 languages": make_run("sixlang", "MURAL"),
    "MURAL + distil": {**make_run("distil", "MURAL", **_TAUGHT), "vectors": _TEACHER},
    "MURAL + distil + ETCL": make_run("etcl", "MURAL + distil"),
}
LANGUAGES = ("en", "de", "fr", "cs", "pt", "zh", "ar", "nl")
COLUMNS = {code: (code,) for code in LANGUAGES} | {"cs to nl": LANGUAGES[3:]}
DIFFERENCES = {
    "MURAL - English captions": ("MURAL", "English captions"),
    "ETCL - control": ("MURAL + ETCL", "control"),
    "distil - control": ("MURAL + distil", "control"),
    "distil + ETCL - ETCL": ("MURAL + distil + ETCL", "MURAL + ETCL"),
    "ETCL - pairs in 3 languages": ("MURAL + ETCL", "MURAL + pairs in 3 languages"),
}
CHART = {
    "rows": ("English captions", "MURAL", "control", "MURAL + ETCL"),
    "groups": {"trained with photographs": LANGUAGES[:3], "without photographs": LANGUAGES[3:]},
}
