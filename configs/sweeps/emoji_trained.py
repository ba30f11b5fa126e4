"""Projections of trained encoders on emoji with names in 95 languages (`make emoji`).

Each run trains only the projections of stored features, see configs/examples/emoji_trained.py.
"""

from ..base import TRIPLE_LANGUAGES
from . import emoji
from .photos_trained import make_run

CONFIG = "configs/examples/emoji_trained.py"
TITLE = "Average recall on 176 emoji, with trained encoders"
SEEDS = (0, 1, 2, 3, 4)
BASELINE = None
RUNS = {
    "English names": make_run("align", config=CONFIG),
    "MURAL": make_run("mural", config=CONFIG),
    "control": make_run("control", "MURAL", CONFIG),
    "MURAL + ETCL": make_run("etcl", "MURAL", CONFIG),
    "MURAL + pairs in 6 languages": make_run("sixlang", "MURAL", CONFIG),
}
COLUMNS = emoji.COLUMNS
DIFFERENCES = {
    "MURAL - English names": ("MURAL", "English names"),
    "ETCL - control": ("MURAL + ETCL", "control"),
    "ETCL - pairs in 6 languages": ("MURAL + ETCL", "MURAL + pairs in 6 languages"),
}
EXAMPLES = ("nl", "es", "ru", "ar", "hi", "ko", "sw", "tr", "yue", "zh-Hant")
CHART = {
    "rows": ("English names", "MURAL", "control", "MURAL + ETCL"),
    "groups": {"trained with images": TRIPLE_LANGUAGES, "examples without images": EXAMPLES},
}
