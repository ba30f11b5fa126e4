"""The evaluation benchmark: recalls of several implementations, and the embedder."""

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
def outputs(tmp_path_factory):
    """Returns the output and the results of the benchmark with small towers and few items."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "evaluate.py"), "--no-peer"]
    command += ["--retrieval_images=60", "--width=32", "--text=nano", "--sentences=50"]
    command += ["--text_batch=8", "--image=tiny", "--image_size=64", "--images=6"]
    command += ["--image_batch=4", "--rounds=1", "--json=evaluate.json"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads((folder / "evaluate.json").read_text())


@pytest.mark.slow
def test_a_run_measures_recalls_texts_and_images(outputs):
    text, results = outputs
    implementations = results["recalls"]["implementations"]
    assert set(implementations) == {"tf_mural", "numpy"}
    assert implementations["tf_mural"]["peak_mib"] > 10
    assert results["recalls"]["largest_difference"] == 0.0
    texts, images = results["texts"], results["images"]
    assert (texts["items"], images["items"]) == (50, 6)
    sides = ["tower bucketed", "embedder bucketed", "tower padded", "embedder padded"]
    assert list(texts["seconds"]) == sides and list(images["seconds"]) == sides[:2]
    assert texts["largest_difference"] < 1e-5
    assert sum(texts["batches"].values()) == 7 and len(texts["batches"]) > 1
    assert images["batches"] == {"64": 2}
    assert {"cpu", "cores", "load"} <= set(results["machine"])
    assert "share of the rate of the bare tower" in text and "speedup over padding" in text


def test_ratios_are_computed_from_the_seconds(outputs):
    texts = outputs[1]["texts"]
    seconds = {side: walls[0] for side, walls in texts["seconds"].items()}
    embedder = seconds["embedder bucketed"]
    assert texts["share_of_tower"] == pytest.approx(seconds["tower bucketed"] / embedder)
    assert texts["speedup"] == pytest.approx(seconds["embedder padded"] / embedder)


def test_all_implementations_give_the_same_recalls():
    case = Recalls(1000, 3, 16)
    recalls = case.tf_mural()
    assert case.numpy() == pytest.approx(recalls)
    assert 1 < recalls["i2t_r1"] < recalls["i2t_r10"] < 99.9
    assert 1 < recalls["average_recall"] < 99
    if all(importlib.util.find_spec(name) for name in ("torch", "clip_benchmark")):
        assert case.clip_benchmark() == pytest.approx(recalls, abs=1e-4)


def test_different_recalls_are_refused(monkeypatch):
    class FakeWorker:
        def __init__(self, *_, **__):
            pass

        def call(self, method, *_):
            value = 60.0 if method == "tf_mural" else 40.0
            return {"average_recall": value}, 1.0, 1.0

        def close(self):
            pass

    monkeypatch.setattr(evaluate, "Worker", FakeWorker)
    with pytest.raises(RuntimeError, match="the implementations do not agree"):
        evaluate.measure_recalls(100, 5, 8, rounds=1, peer=False)


def test_sentences_are_unique_and_sorted(tmp_path):
    (tmp_path / "tatoeba.deu-eng.deu").write_text("zwei\neins \n", encoding="utf-8")
    (tmp_path / "tatoeba.deu-eng.eng").write_text("one\n\neins\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("read me\n", encoding="utf-8")
    assert embedding.read_sentences(tmp_path) == ["eins", "one", "zwei"]


def test_jpegs_are_different_images_of_the_same_size():
    files = [Image.open(io.BytesIO(data)) for data in embedding.jpegs(2, 48)]
    images = [np.asarray(file) for file in files]
    assert [file.format for file in files] == ["JPEG"] * 2
    assert [image.shape for image in images] == [(96, 128, 3)] * 2
    assert np.abs(images[0].astype(int) - images[1]).mean() > 20


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--parts=texts,pictures"], "unknown pictures; known: recalls"),
        (["--rounds=0"], "at least 1"),
    ],
)
def test_invalid_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        evaluate.parse(["--no-peer", *flags])
    assert message in capsys.readouterr().err
