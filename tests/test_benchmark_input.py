"""The input benchmark: its loaders, its turns, and its ratios."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from benchmarks import input as benchmark
from benchmarks import input_loaders, remote_input
from tf_mural.data import records

SENTENCES = {
    "tatoeba.deu-eng.deu": "Das Haus ist rot.\nDer Hund sieht die Katze.\nEin Haus.\n",
    "tatoeba.deu-eng.eng": "The house is red.\nThe dog sees the cat.\nA house.\n",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def outputs(photos, tmp_path_factory):
    """Returns the output and the results for few images and sentences, without training steps."""
    folder = tmp_path_factory.mktemp("benchmark")
    for name, text in SENTENCES.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "input.py"), "--no-peer"]
    command += ["--parts=images,tokens", f"--photos={photos}", f"--tatoeba={folder}"]
    command += ["--count=6", "--batch=4", "--batches=2", "--rounds=2", "--json=input.json"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads((folder / "input.json").read_text())


@pytest.mark.slow
def test_a_run_measures_every_side_in_every_round(outputs):
    text, results = outputs
    assert set(results["images"]) == {"crop only", "resize and crop"}
    for sides in results["images"].values():
        assert set(sides) == {"tf_mural", "decoding"}
        assert all(len(rates) == 2 and min(rates) > 0 for rates in sides.values())
    assert results["tokens"]["sentences"] == 6 and results["tokens"]["different"] == 0
    assert {"cpu", "cores", "load", "bytes_per_image"} <= set(results["machine"])
    assert "of JPEG decoding" in text and "times Hugging Face's" in text


def test_records_and_tars_contain_the_same_bytes(photos, tmp_path):
    size = input_loaders.prepare(str(photos), str(tmp_path), count=5, shards=2)
    examples = list(records.RecordSet.open(tmp_path / "records"))
    members = {}
    for path in sorted((tmp_path / "tars").glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    assert len(examples) == 5 and len(members) == 10
    for number, example in enumerate(examples):
        assert members[f"{number:07d}.jpg"] == example.images[0]
        assert members[f"{number:07d}.txt"].decode() == example.texts[0][1]
    # The three photographs are repeated, so the fourth example has the first photograph.
    assert examples[3].images == examples[0].images != examples[1].images
    assert Image.open(io.BytesIO(examples[0].images[0])).size == (346, 346)
    assert size == pytest.approx(np.mean([len(example.images[0]) for example in examples]))


def test_ratios_are_computed_from_medians_and_the_faster_peer():
    sides = {
        "tf_mural": [90.0, 300.0, 310.0],
        "decoding": [400.0, 400.0, 10.0],
        "webdataset, 1": [150.0, 100.0, 160.0],
        "webdataset, 2": [120.0, 500.0, 110.0],
    }
    results = {
        "images": {"crop only": sides, "resize and crop": {**sides, "tf_mural": [200.0]}},
        "scenes": {"tf_mural": [50.0]},
        "steps": {"b0": 2.0, "scenes": 10.0},
        "tokens": {
            "rates": {"tf_mural": [6.0], "tokenizers": [4.0]},
            "different": 0,
            "sentences": 9,
        },
    }
    ratios = benchmark.ratios(results)
    assert ratios["images"]["crop only"] == {"peer": 2.0, "decoding": 0.75}
    assert ratios["steps"] == {"b0": 100.0, "scenes": 5.0}
    assert ratios["tokens"] == 1.5
    lines = "\n".join(benchmark.table(results))
    assert "crop only: 75% of JPEG decoding, 2.00 times webdataset" in lines
    assert "b0: 100.0 times the rate of the training step" in lines


def test_sides_alternate_and_the_first_turn_is_not_counted():
    calls = []

    class FakeWorker:
        def __init__(self, name):
            self.name, self.rate = name, 0.0

        def call(self, method, batches):
            self.rate += 1.0
            calls.append((self.name, method, batches))
            return self.rate, None, None

        def close(self):
            calls.append((self.name, "close"))

    factories = {name: lambda name=name: FakeWorker(name) for name in "ab"}
    assert benchmark.measure(factories, 7, 2, "test") == {"a": [2.0, 3.0], "b": [2.0, 3.0]}
    assert [call[0] for call in calls] == list("abababab")[: len(calls)]


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_the_augmentation_of_the_peer_crops_and_flips():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :, 0] = np.arange(8)
    augment = input_loaders._Augmentation(8, 6)
    rows = {tuple(augment(Image.fromarray(pixels)).numpy()[0, :, 0]) for _ in range(200)}
    crops = [tuple(range(left, left + 6)) for left in range(3)]
    assert rows == {*crops, *(crop[::-1] for crop in crops)}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--parts=images"], "--photos is missing"),
        (["--parts=pictures"], "unknown pictures; known: images"),
        (["--parts=steps", "--cases=b9"], "unknown b9; known: b0"),
        (["--parts=scenes", "--rounds=0"], "at least 1"),
    ],
)
def test_invalid_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["--no-peer", *flags])
    assert message in capsys.readouterr().err


def test_remote_rates_are_compared_with_local_rates():
    first = {"shards": 1000, "seconds": 2.0, "open_files": 5}
    rates = {"local": [100.0, 200.0, 300.0], "in memory": [180.0], "requested": [20.0]}
    results = {"images": rates, "pairs": rates, "first_batch": first}
    assert remote_input.ratios(results)["images"] == {"in memory": 0.9, "requested": 0.1}
    text = "\n".join(remote_input.lines(results))
    assert "90% of local" in text and "first batch of 1,000 shards: 2.0 s, 5 open files" in text
