"""Shuffled control: ETCL on images with the texts of other images gains nothing (slow).

The gain of ETCL could come from the pairing of images and texts, from more steps, from the texts,
or from a leak of the test scenes. Exchanging the images between records removes the pairing, and
changes none of the other three causes.
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
# A config file with the recipe of size tiny, but fewer steps.
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


def derange_images(paired, generator):
    """Returns a copy of the records `paired`, in which no record that ETCL uses keeps its image.

    ETCL uses the records with two or more texts. Images are exchanged only among these records.

    Returns:
        (records, indices of the records that ETCL uses).
    """
    used = [i for i, record in enumerate(paired) if len(record.texts) > 1]
    sources = generator.permutation(used)
    shuffled = list(paired)
    # A cyclic shift gives no record its own image.
    for source, target in zip(sources, np.roll(sources, 1), strict=True):
        shuffled[target] = dataclasses.replace(paired[target], images=paired[source].images)
    return shuffled, used


def write_shuffled_records(folder):
    """Writes data/shuffled/train, the records of data/scenes/train with exchanged images."""
    source = records.RecordSet.open(folder / "data" / "scenes" / "train")
    paired = list(source)
    shuffled, used = derange_images(paired, np.random.default_rng(SEED))
    assert len(used) == 1500
    assert all(paired[i].images != shuffled[i].images for i in used)
    assert all(paired[i].texts == shuffled[i].texts for i in range(len(paired)))
    assert {paired[i].images for i in used} == {shuffled[i].images for i in used}
    augmentations = source.manifest["augmentations"]
    out = folder / "data" / "shuffled" / "train"
    records.write(out, shuffled, "shuffled", "train", augmentations=augmentations)


def average_recalls(folder, run):
    """Returns {language: average recall in percent} of a run."""
    values = json.loads((folder / run / "results.json").read_text())["evaluation"]["retrieval"]
    return {code: score["average_recall"] for code, score in values["values"].items()}


@pytest.mark.slow
def test_etcl_gains_only_from_the_pairing(tmp_path):
    (tmp_path / "short.py").write_text(SHORT)
    train(tmp_path)  # also trains MURAL and the control
    write_shuffled_records(tmp_path)
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
        scores = average_recalls(tmp_path, run)
        print(f"{name:9}", *(f"{code} {value:4.1f}" for code, value in scores.items()))
        mean[name] = np.mean([value for code, value in scores.items() if code != "en"])
    print("mean of de fr cs zh ja:", *(f"{name} {value:.1f}" for name, value in mean.items()))
    # With the seeds 0, 1 and 2, the mean of ETCL was 62, 61 and 67 percentage points above that of
    # the control, and the mean of the shuffled run was 15, 7 and 14 percentage points below that of
    # MURAL.
    assert mean["etcl"] > mean["control"] + 30
    assert mean["shuffled"] < min(mean["mural"], mean["control"])
