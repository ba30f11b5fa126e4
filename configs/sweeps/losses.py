"""Ablations of the loss of ETCL: margin, terms, and separate temperatures."""

from . import table7

OWN = "configs/sweeps/own_temperatures.py"
TERMS = ("image_text_a", "text_a_text_b", "text_b_image")


def _etcl(**overrides):
    return {"stage": "etcl", "init": "MURAL", "overrides": overrides}


TITLE = "Average recall of ETCL with parts of its loss changed"
SEEDS = (0, 1, 2)
BASELINE = "ETCL"
RUNS = {
    "MURAL": {"stage": "mural"},
    "ETCL": _etcl(),
    "margin 0": _etcl(**{f"terms.{term}.margin": 0.0 for term in TERMS}),
    "without text A, text B": _etcl(**{"terms.text_a_text_b.weight": 0.0}),
    "without text B, image": _etcl(**{"terms.text_b_image.weight": 0.0}),
    "without both": _etcl(**{"terms.text_a_text_b.weight": 0.0, "terms.text_b_image.weight": 0.0}),
    "MURAL, two temperatures": {"stage": "mural", "config": OWN},
    "ETCL, two temperatures": {"stage": "etcl", "config": OWN, "init": "MURAL, two temperatures"},
}
COLUMNS = table7.COLUMNS
