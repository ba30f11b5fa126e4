"""MURAL continued on image-text pairs of one language, as in the paper's Tables 5, 6 and 13."""

TITLE = "Average recall after continued training on image-text pairs of one language"
SEEDS = (0, 1, 2)
BASELINE = "MURAL"
RUNS = {
    "MURAL": {"stage": "mural"},
    **{
        f"+ {code}": {"stage": "one_language", "init": "MURAL", "overrides": {"language": code}}
        for code in ("cs", "fr", "ja", "zh", "de")
    },
}
COLUMNS = {code: (code,) for code in ("ko", "uk", "it", "es", "tr", "sw")}
COLUMNS["unseen"] = ("ko", "uk", "it", "es", "tr", "sw")
COLUMNS["trained"] = ("cs", "fr", "ja", "zh", "de")
COLUMNS["en"] = ("en",)
