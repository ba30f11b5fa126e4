"""Distillation from MURAL's English texts, with each form of the loss, beside ETCL and a mixture.

    python tools/sweep.py configs/sweeps/distil.py --seeds=0

The teacher of a run is the MURAL run with the same seed, from whose weights the run starts.
"""

from . import table7

TEACHER = {
    "records": ("scenes/train", "scenes/bitext"),
    "name": "teacher",
    "of": "texts",
    "languages": ("en",),
    "drop_images": True,
}
TAUGHT = ("{vectors}/train", "{vectors}/bitext")


def _distil(config=None, **overrides):
    overrides = {"sources.translations.records": TAUGHT, **overrides}
    row = {"stage": "distil", "init": "MURAL", "vectors": TEACHER, "overrides": overrides}
    return row if config is None else {**row, "config": config}


TITLE = "Average recall after distillation from MURAL's English texts"
SEEDS = (0, 1, 2, 3, 4)
BASELINE = "MURAL"
RUNS = {
    "MURAL": {"stage": "mural"},
    "control": {"stage": "control", "init": "MURAL"},
    "ETCL": {"stage": "etcl", "init": "MURAL"},
    "distil, cosine": _distil(**{"terms.text_teacher.form": "cosine"}),
    "distil, contrastive": _distil(**{"terms.text_teacher.form": "contrastive"}),
    "distil, mse": _distil(**{"terms.text_teacher.form": "mse"}),
    "distil, translation pairs and ETCL": _distil("configs/examples/mixture.py"),
}
COLUMNS = table7.COLUMNS
