"""MURAL with several numbers of steps, and ETCL after each of these runs (the paper's Table 11)."""

from . import table7

TITLE = "Average recall by the number of steps of MURAL, without ETCL and after ETCL"
SEEDS = (0, 1, 2)
BASELINE = None
STEPS = (150, 300, 600)
RUNS = {f"MURAL {steps}": {"stage": "mural", "overrides": {"steps": steps}} for steps in STEPS} | {
    f"MURAL {steps} + ETCL": {"stage": "etcl", "init": f"MURAL {steps}"} for steps in STEPS
}
COLUMNS = table7.COLUMNS
