"""Projections of trained encoders on photographs: the paper's Tables 5, 6 and 11.

Tables 5 and 6 continue MURAL on pairs of photographs and captions in one language. Table 11 varies
the number of steps of MURAL.
"""

from . import photos_trained
from .photos_trained import make_run

TITLE = "Average recall after MURAL with fewer steps, and after captions in one language"
SEEDS = (0, 1, 2)
BASELINE = None
STEPS = (130, 260)
RUNS = {
    "MURAL": make_run("mural"),
    "+ English captions": make_run("one_language", "MURAL", language="en"),
    "+ German captions": make_run("one_language", "MURAL", language="de"),
    "+ French captions": make_run("one_language", "MURAL", language="fr"),
    "+ ETCL": make_run("etcl", "MURAL"),
}
for steps in STEPS:
    RUNS[f"MURAL {steps}"] = make_run("mural", steps=steps)
    RUNS[f"MURAL {steps} + ETCL"] = make_run("etcl", f"MURAL {steps}")
COLUMNS = photos_trained.COLUMNS
DIFFERENCES = {
    "German captions - English captions": ("+ German captions", "+ English captions"),
    "French captions - English captions": ("+ French captions", "+ English captions"),
    "ETCL after 130 steps of MURAL": ("MURAL 130 + ETCL", "MURAL 130"),
    "ETCL after 260 steps of MURAL": ("MURAL 260 + ETCL", "MURAL 260"),
    "ETCL after 520 steps of MURAL": ("+ ETCL", "MURAL"),
}
