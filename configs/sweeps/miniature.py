"""A miniature of MURAL and ETCL, which takes a minute or two per seed.

    python tools/convert.py --dataset=scenes --out_dir=data/miniature --split=train,bitext \\
        --scenes.count=128 --scenes.units=1
    python tools/sweep.py configs/sweeps/miniature.py

The runs memorize 128 scenes: the training records are also the evaluation records. The result
therefore does not show that a method works, but that the code still computes what it computed.
"""

TITLE = "Average recall on the 128 training images of a miniature of scenes"
SEEDS = (0, 1, 2, 3)
BASELINE = None
_RECORDS = ("miniature/train",)
_MODEL = {
    "batch_size": 32,
    "evaluation.retrieval.records": _RECORDS[0],
    "images.resize": 36,
    "images.crop": 32,
    "model.image.image_size": 32,
    "optimizer.warmup_steps": 8,
    "auto_convert": (),
    "checkpoint_every": None,
    "evaluate_every": None,
    "mask_duplicates": True,
    "report.show": 0,
}
RUNS = {
    "MURAL": {
        "stage": "mural",
        "overrides": {
            **_MODEL,
            "steps": 120,
            "sources.captions.records": _RECORDS,
            "sources.bitext.records": ("miniature/bitext",),
        },
    },
    "MURAL + ETCL": {
        "stage": "etcl",
        "init": "MURAL",
        "overrides": {**_MODEL, "steps": 60, "sources.triples.records": _RECORDS},
    },
}
COLUMNS = {"en": ("en",), "trained": ("de", "fr", "cs", "zh", "ja")}
DIFFERENCES = {"ETCL - MURAL": ("MURAL + ETCL", "MURAL")}
