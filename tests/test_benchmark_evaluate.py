import importlib.util
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from benchmarks import embedding, evaluate
from benchmarks.recalls import Recalls


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(what the benchmark said, what it wrote) of small towers and few items."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "evaluate.py"), "--no-peer"]
    command += ["--retrieval_images=60", "--width=32", "--text=nano", "--sentences=50"]
    command += ["--text_batch=8", "--image=tiny", "--image_size=64", "--images=6"]
    command += ["--image_batch=4", "--rounds=1", "--json=evaluate.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "evaluate.json").read_text())


def test_the_three_are_measured_in_one_run(written):
    said, found = written
    ways = found["recalls"]["ways"]
    assert set(ways) == {"ours", "numpy"} and ways["ours"]["peak_mib"] > 10
    assert found["recalls"]["largest_difference"] == 0.0
    texts, images = found["texts"], found["images"]
    assert (texts["items"], images["items"]) == (50, 6)
    sides = ["bare cut", "embed cut", "bare padded", "embed padded"]
    assert list(texts["seconds"]) == sides and list(images["seconds"]) == sides[:2]
    assert texts["largest_difference"] < 1e-5
    assert sum(texts["batches"].values()) == 7 and len(texts["batches"]) > 1
    assert images["batches"] == {"64": 2}
    assert {"cpu", "cores", "load"} <= set(found["machine"])
    assert "rate of the bare tower reached" in said and "faster than padding all" in said


def test_rates_are_those_of_the_seconds(written):
    texts = written[1]["texts"]
    seconds = {side: walls[0] for side, walls in texts["seconds"].items()}
    assert texts["of_bare"] == pytest.approx(seconds["bare cut"] / seconds["embed cut"])
    assert texts["speedup"] == pytest.approx(seconds["embed padded"] / seconds["embed cut"])


def test_the_ways_to_score_agree_on_recalls_that_say_something():
    case = Recalls(1000, 3, 16)
    ours = case.ours()
    assert case.numpy() == pytest.approx(ours)
    assert 1 < ours["i2t_r1"] < ours["i2t_r10"] < 99.9 and 1 < ours["average_recall"] < 99
    if all(importlib.util.find_spec(name) for name in ("torch", "clip_benchmark")):
        assert case.clip_benchmark() == pytest.approx(ours, abs=1e-4)


def test_a_way_that_disagrees_is_refused(monkeypatch):
    class Told:
        def __init__(self, *_, **__):
            pass

        def call(self, method, *_):
            value = 60.0 if method == "ours" else 40.0
            return {"average_recall": value}, 1.0, 1.0

        def close(self):
            pass

    monkeypatch.setattr(evaluate, "Worker", Told)
    with pytest.raises(RuntimeError, match="the ways do not agree"):
        evaluate.measure_recalls(100, 5, 8, rounds=1, peer=False)


def test_sentences_are_those_of_the_files(tmp_path):
    (tmp_path / "tatoeba.deu-eng.deu").write_text("zwei\neins \n", encoding="utf-8")
    (tmp_path / "tatoeba.deu-eng.eng").write_text("one\n\neins\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("read me\n", encoding="utf-8")
    assert embedding.read_sentences(tmp_path) == ["eins", "one", "zwei"]


def test_jpegs_decode_to_different_pictures_of_a_size():
    files = [Image.open(io.BytesIO(data)) for data in embedding.jpegs(2, 48)]
    pictures = [np.asarray(file) for file in files]
    assert [file.format for file in files] == ["JPEG"] * 2
    assert [picture.shape for picture in pictures] == [(96, 128, 3)] * 2
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 20


@pytest.mark.parametrize(
    "flags, message",
    [(["--parts=texts,pictures"], "unknown pictures; known: recalls"), (["--rounds=0"], "from 1")],
)
def test_wrong_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        evaluate.parse(["--no-peer", *flags])
    assert message in capsys.readouterr().err
