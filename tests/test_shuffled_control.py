"""Shuffled control: ETCL on pictures that belong to other texts gains nothing. `make test-slow`.

What ETCL adds could come from more steps, from its texts, or from a leak of the test scenes. All
of that stays when the pictures are dealt to the wrong records; what goes is the pairing alone.
"""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from tf_mural.data import records

SEED = 0
# The recipe of size tiny, shortened.
SHORT = """
from configs import base, control, etcl, mural

def get_config(stage):
    config = {"mural": mural, "control": control, "etcl": etcl}[stage].get_config("tiny")
    config.steps, config.optimizer.warmup_steps = (400, 40) if stage == "mural" else (120, 0)
    config.evaluation.retrieval.languages = base.TRIPLE_LANGUAGES
    return config
"""


def train(folder, *arguments):
    tool = [sys.executable, os.path.join(ROOT, "tools", "train.py"), "--strategy=one"]
    done = subprocess.run(
        [*tool, "--config=short.py", "--stage=etcl", f"--seed={SEED}", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def deranged(paired, generator):
    """Records with the texts of `paired`, in their order, and never with their own image.

    Images change places among the records that ETCL draws from, those with texts in two languages.
    """
    drawn = [i for i, record in enumerate(paired) if len(record.texts) > 1]
    givers = generator.permutation(drawn)
    out = list(paired)
    # In a ring everyone gets the image of another.
    for giver, taker in zip(givers, np.roll(givers, 1), strict=True):
        out[taker] = dataclasses.replace(paired[taker], images=paired[giver].images)
    return out, drawn


def shuffle(folder):
    """Writes data/shuffled/train: data/scenes/train, deranged."""
    source = records.RecordSet.open(folder / "data" / "scenes" / "train")
    paired = list(source)
    shuffled, drawn = deranged(paired, np.random.default_rng(SEED))
    assert len(drawn) == 1500
    assert all(paired[i].images != shuffled[i].images for i in drawn)
    assert all(paired[i].texts == shuffled[i].texts for i in range(len(paired)))
    assert {paired[i].images for i in drawn} == {shuffled[i].images for i in drawn}
    augmentations = source.manifest["augmentations"]
    out = folder / "data" / "shuffled" / "train"
    records.write(out, shuffled, "shuffled", "train", augmentations=augmentations)


def average_recall(folder, run):
    """{language: average recall in percent} of a run."""
    values = json.loads((folder / run / "results.json").read_text())["evaluation"]["retrieval"]
    return {code: score["average_recall"] for code, score in values["values"].items()}


@pytest.mark.slow
def test_etcl_gains_by_the_pairing_alone(tmp_path):
    (tmp_path / "short.py").write_text(SHORT)
    train(tmp_path)  # MURAL and the control too
    shuffle(tmp_path)
    runs = {name: f"runs/tiny/{name}-s{SEED}" for name in ("mural", "control", "etcl")}
    runs["shuffled"] = "runs/shuffled"
    train(
        tmp_path,
        f"--init={runs['mural']}",
        f"--workdir={runs['shuffled']}",
        "--config.sources.triples.records=shuffled/train",
    )
    mean = {}
    for name, run in runs.items():
        scores = average_recall(tmp_path, run)
        print(f"{name:9}", *(f"{code} {value:4.1f}" for code, value in scores.items()))
        mean[name] = np.mean([value for code, value in scores.items() if code != "en"])
    print("mean of de fr cs zh ja:", *(f"{name} {value:.1f}" for name, value in mean.items()))
    # Seeds 0, 1, 2: ETCL is 62, 61 and 67 points over the control, and the shuffled run 15, 7 and
    # 14 below MURAL, since learning wrong pairs costs what was known of the right ones.
    assert mean["etcl"] > mean["control"] + 30
    assert mean["shuffled"] < min(mean["mural"], mean["control"])
