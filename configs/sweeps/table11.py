"""The paper's Table 11: MURAL with several numbers of steps, without and with ETCL."""

from . import table7

TITLE = "Average recall over the steps of MURAL, without and with ETCL after them"
SEEDS = (0, 1, 2)
BASELINE = None
STEPS = (150, 300, 600)
RUNS = {f"MURAL {steps}": {"stage": "mural", "overrides": {"steps": steps}} for steps in STEPS} | {
    f"MURAL {steps} + ETCL": {"stage": "etcl", "init": f"MURAL {steps}"} for steps in STEPS
}
COLUMNS = table7.COLUMNS
