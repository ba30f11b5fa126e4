"""Adaptation: MURAL continued on German captions, or on ETCL's triples, with fewer trained weights.

    python tools/sweep.py configs/sweeps/lora.py --seeds=0

The image encoder is an EfficientNet, which has no attention layers. The rows with LoRA therefore
freeze the image encoder, or train all of it.
"""

from . import table7

FROZEN_IMAGES = {"model.image.adapt": "frozen"}
LORA = {"model.text.adapt": "lora:8"}


def _german(**overrides):
    return {"stage": "one_language", "init": "MURAL", "overrides": {"language": "de"} | overrides}


def _etcl(**overrides):
    return {"stage": "etcl", "init": "MURAL", "overrides": overrides}


TITLE = "Average recall after continued training of all weights, or of adapters (LoRA)"
SEEDS = (0, 1, 2)
BASELINE = "MURAL"
RUNS = {
    "MURAL": {"stage": "mural"},
    "German, all weights": _german(),
    "German, text encoder": _german(**FROZEN_IMAGES),
    "German, LoRA of the text encoder": _german(**FROZEN_IMAGES, **LORA),
    "German, LoRA of the text encoder, all image weights": _german(**LORA),
    "ETCL, all weights": _etcl(),
    "ETCL, text encoder": _etcl(**FROZEN_IMAGES),
    "ETCL, LoRA of the text encoder": _etcl(**FROZEN_IMAGES, **LORA),
}
COLUMNS = {"de": ("de",), **table7.COLUMNS}
