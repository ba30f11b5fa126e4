"""Record sets that are read in windows of blocks, compared with a global shuffle.

The sets of the windows have blocks of 64 records; the scenes have 6,000 images, so that a window
of 8 blocks has a twelfth of them:

    python tools/convert.py --dataset=scenes --out_dir=data/scenes_blocks --block_records=64
"""

from . import table7

SOURCES = {"mural": {"captions": "train", "bitext": "bitext"}, "etcl": {"triples": "train"}}


def _windows(stage):
    overrides = {}
    for source, split in SOURCES[stage].items():
        overrides[f"sources.{source}.records"] = (f"scenes_blocks/{split}",)
        overrides[f"sources.{source}.shuffle_limit"] = 0
        overrides[f"sources.{source}.window_blocks"] = 8
    return overrides


TITLE = "Average recall with a global shuffle, and with windows of 8 blocks of 64 records"
SEEDS = (0, 1, 2)
BASELINE = None
RUNS = {
    "MURAL": {"stage": "mural"},
    "ETCL": {"stage": "etcl", "init": "MURAL"},
    "MURAL, windows": {"stage": "mural", "overrides": _windows("mural")},
    "ETCL, windows": {
        "stage": "etcl",
        "init": "MURAL, windows",
        "overrides": _windows("etcl"),
    },
}
COLUMNS = table7.COLUMNS
