"""The paper's Table 7: image-text pairs in six languages, compared with ETCL's triples."""

TITLE = "Average recall after training on image-text pairs in six languages, or on triples"
SEEDS = (0, 1, 2)
BASELINE = "MURAL"
RUNS = {
    "MURAL": {"stage": "mural"},
    "MURAL, as many steps more": {"stage": "control", "init": "MURAL"},
    "+ 6 languages": {"stage": "sixlang", "init": "MURAL"},
    "+ ETCL": {"stage": "etcl", "init": "MURAL"},
}
COLUMNS = {
    "en": ("en",),
    "trained": ("de", "fr", "cs", "zh", "ja"),
    "unseen": ("ko", "it", "es", "uk", "tr", "sw"),
}
DIFFERENCES = {"ETCL - control": ("+ ETCL", "MURAL, as many steps more")}
