"""The conversion benchmark: its sides and its ratios."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import convert
from tf_mural.datasets import table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_a_unit_has_as_many_records_as_in_the_data_set():
    assert convert.RECORDS_PER_UNIT == table._RECORDS_PER_UNIT


@pytest.mark.slow
def test_every_side_is_measured(tmp_path):
    folder = tmp_path / "images" / "subfolder"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "convert.py")]
    flags = [f"--images={tmp_path / 'images'}", "--limit=30", "--pairs=20000", "--rounds=1"]
    path = tmp_path / "results.json"
    process = subprocess.run(
        [*command, *flags, "--processes=1", f"--json={path}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(path.read_text())
    assert results["images"]["images"] == 30
    assert set(results["images"]["runs"]) == {"loop", "tf_mural"}
    assert results["bitext"]["pairs"] == 20_000
    for rate in ("median", "read_random", "read_in_order"):
        assert results["bitext"][rate] > 0
    assert "share of the loop without writing" in process.stdout and "pairs" in process.stdout


def test_the_table_contains_the_ratios():
    median = {"loop": 200.0, "tf_mural": 150.0, "img2dataset": 100.0}
    images = {"median": median, "share_of_loop": 0.75, "ratio": 1.5}
    lines = convert.table({"machine": {"cpu": "x"}, "processes": 2, "images": images})
    assert any("75%" in line for line in lines) and any("1.50" in line for line in lines)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=f"no JPEG files in {tmp_path}"):
        convert.measure_images(str(tmp_path), str(tmp_path), 10, 1, 1)
