"""MURAL, its control and ETCL from scratch, on emoji with names in 95 languages.

configs/examples/emoji.py lists the command that converts the emoji.
"""

from ..base import TRIPLE_LANGUAGES

_CONFIG = "configs/examples/emoji.py"
TITLE = "Average recall on 176 emoji, with models that are trained from scratch"
SEEDS = (0, 1, 2)
BASELINE = None
RUNS = {
    "MURAL": {"stage": "mural", "config": _CONFIG},
    "control": {"stage": "control", "config": _CONFIG, "init": "MURAL"},
    "MURAL + ETCL": {"stage": "etcl", "config": _CONFIG, "init": "MURAL"},
}
# All 95 languages of the records except those of the triples.
OTHERS = """
af ak am ar as az be bg bn bs ca chr cy da dsb el es et eu fa fi fil fo ga gd gl gu ha he hi hr hsb
hu hy id ig is it jv ka kk km kn ko kok ky lo lt lv mk ml mn mr ms my ne nl no or pa pcm pl ps pt ro
ru sd si sk sl so sq sr sv sw ta te th ti tk tr uk ur uz vi yo yue zh-Hant zu
""".split()
COLUMNS = {
    "en": ("en",),
    **{code: (code,) for code in TRIPLE_LANGUAGES[1:]},
    "de to ja": TRIPLE_LANGUAGES[1:],
    "others": tuple(OTHERS),
}
DIFFERENCES = {"ETCL - control": ("MURAL + ETCL", "control")}
