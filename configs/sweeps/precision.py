"""Half precision: MURAL and ETCL with encoders in float32, bfloat16 and float16."""

from . import table7

HALVES = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def _pair(suffix="", **overrides):
    before = f"MURAL{suffix}"
    return {
        before: {"stage": "mural", "overrides": overrides},
        f"ETCL{suffix}": {"stage": "etcl", "init": before, "overrides": overrides},
    }


TITLE = "Average recall with encoders in half precision"
SEEDS = (0, 1, 2)
BASELINE = None
RUNS = _pair()
for _name, _policy in HALVES.items():
    RUNS |= _pair(f", {_name}", precision=_policy)
COLUMNS = table7.COLUMNS
