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
from benchmarks import input_sides
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
def written(photos, tmp_path_factory):
    """(what the benchmark said, what it wrote) of few images and sentences, without the steps."""
    folder = tmp_path_factory.mktemp("benchmark")
    for name, text in SENTENCES.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "input.py"), "--no-peer"]
    command += ["--parts=images,tokens", f"--photos={photos}", f"--tatoeba={folder}"]
    command += ["--count=6", "--batch=4", "--batches=2", "--rounds=2", "--json=input.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "input.json").read_text())


@pytest.mark.slow
def test_every_side_has_its_turns(written):
    said, found = written
    assert set(found["images"]) == {"crop alone", "resize and crop"}
    for sides in found["images"].values():
        assert set(sides) == {"ours", "decoding"}
        assert all(len(rates) == 2 and min(rates) > 0 for rates in sides.values())
    assert found["tokens"]["sentences"] == 6 and found["tokens"]["different"] == 0
    assert {"cpu", "cores", "load", "bytes_per_image"} <= set(found["machine"])
    assert "of decoding alone" in said and "times Hugging Face's" in said


def test_both_sides_read_the_same_bytes(photos, tmp_path):
    size = input_sides.prepare(str(photos), str(tmp_path), count=5, shards=2)
    opened = list(records.RecordSet.open(tmp_path / "records"))
    in_tars = {}
    for path in sorted((tmp_path / "tars").glob("*.tar")):
        with tarfile.open(path) as tar:
            in_tars |= {one.name: tar.extractfile(one).read() for one in tar}
    assert len(opened) == 5 and len(in_tars) == 10
    for number, record in enumerate(opened):
        assert in_tars[f"{number:07d}.jpg"] == record.images[0]
        assert in_tars[f"{number:07d}.txt"].decode() == record.texts[0][1]
    assert opened[3].images == opened[0].images != opened[1].images  # three photographs, in turn
    assert Image.open(io.BytesIO(opened[0].images[0])).size == (346, 346)
    assert size == pytest.approx(np.mean([len(record.images[0]) for record in opened]))


def test_ratios_are_of_medians_and_of_the_better_peer():
    sides = {
        "ours": [90.0, 300.0, 310.0],
        "decoding": [400.0, 400.0, 10.0],
        "webdataset, 1": [150.0, 100.0, 160.0],
        "webdataset, 2": [120.0, 500.0, 110.0],
    }
    results = {
        "images": {"crop alone": sides, "resize and crop": {**sides, "ours": [200.0]}},
        "scenes": {"ours": [50.0]},
        "steps": {"b0": 2.0, "scenes": 10.0},
        "tokens": {"rates": {"ours": [6.0], "theirs": [4.0]}, "different": 0, "sentences": 9},
    }
    found = benchmark.compared(results)
    assert found["images"]["crop alone"] == {"peer": 2.0, "decoding": 0.75}
    assert found["steps"] == {"b0": 100.0, "scenes": 5.0}
    assert found["tokens"] == 1.5
    lines = "\n".join(benchmark.table(results))
    assert "crop alone: 75% of decoding alone, 2.00 times webdataset" in lines
    assert "b0: 100.0 times what the training step takes" in lines


def test_sides_take_turns_and_the_first_is_not_counted():
    calls = []

    class Side:
        def __init__(self, name):
            self.name, self.rate = name, 0.0

        def call(self, method, batches):
            self.rate += 1.0
            calls.append((self.name, method, batches))
            return self.rate, None, None

        def close(self):
            calls.append((self.name, "close"))

    found = benchmark.measure({n: lambda n=n: Side(n) for n in "ab"}, 7, 2, "test")
    assert found == {"a": [2.0, 3.0], "b": [2.0, 3.0]}
    assert [call[0] for call in calls] == list("abababab")[: len(calls)]


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_the_peer_crops_and_mirrors():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :, 0] = np.arange(8)
    augmented = input_sides._Augmented(8, 6)
    found = {tuple(augmented(Image.fromarray(pixels)).numpy()[0, :, 0]) for _ in range(200)}
    ways = [tuple(range(left, left + 6)) for left in range(3)]
    assert found == {*ways, *(way[::-1] for way in ways)}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--parts=images"], "--photos is missing"),
        (["--parts=pictures"], "unknown pictures; known: images"),
        (["--parts=steps", "--cases=b9"], "unknown b9; known: b0"),
        (["--parts=scenes", "--rounds=0"], "from 1"),
    ],
)
def test_wrong_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["--no-peer", *flags])
    assert message in capsys.readouterr().err
