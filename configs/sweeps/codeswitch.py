"""Code-switched captions: one or several languages per text, probabilities, and lexicons.

    python tools/lexicon.py bitext --records=data/scenes/bitext --out_dir=data/lexicons/bitext
    python tools/sweep.py configs/sweeps/codeswitch.py

The lexicon "scenes" has the vocabulary of the grammar, and "lexicons/bitext" the one that the first
command learns from the translation pairs of MURAL. Only English captions have images.
"""


def _switched(**options):
    values = {f"sources.captions.code_switch.{name}": value for name, value in options.items()}
    return {"stage": "codeswitch", "init": "MURAL", "overrides": values}


_BITEXT = "lexicons/bitext"

TITLE = "Average recall after training on code-switched English captions"
SEEDS = (0, 1, 2)
BASELINE = "control"
RUNS = {
    "MURAL": {"stage": "mural"},
    "control": {"stage": "control", "init": "MURAL"},
    "multilingual, p 0.5, grammar": _switched(),
    "bilingual, p 0.5, grammar": _switched(per="text"),
    "multilingual, p 0.5, bitext": _switched(lexicon=_BITEXT),
    "bilingual, p 0.5, bitext": _switched(lexicon=_BITEXT, per="text"),
    "multilingual, p 1, grammar": _switched(probability=1.0),
    "multilingual, p 0.25, grammar": _switched(probability=0.25),
    "multilingual, p 0.75, grammar": _switched(probability=0.75),
}
COLUMNS = {
    "en": ("en",),
    "de fr cs zh ja": ("de", "fr", "cs", "zh", "ja"),
    "es it ko sw tr uk": ("es", "it", "ko", "sw", "tr", "uk"),
    "11 languages": ("de", "fr", "cs", "zh", "ja", "es", "it", "ko", "sw", "tr", "uk"),
}
