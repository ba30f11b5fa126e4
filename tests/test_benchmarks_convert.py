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


def test_a_unit_is_that_of_the_data_set():
    assert convert.UNIT == table._RECORDS_PER_UNIT


@pytest.mark.slow
def test_every_side_is_timed_and_told(tmp_path):
    pictures = tmp_path / "pictures" / "deeper"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.jpg")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "convert.py")]
    flags = [f"--images={tmp_path / 'pictures'}", "--limit=30", "--pairs=20000", "--rounds=1"]
    out = tmp_path / "numbers.json"
    done = subprocess.run(
        [*command, *flags, "--processes=1", f"--json={out}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["images"]["images"] == 30 and set(found["images"]["runs"]) == {"bare", "ours"}
    assert found["bitext"]["pairs"] == 20_000
    for rate in ("median", "read_random", "read_in_order"):
        assert found["bitext"][rate] > 0
    assert "share of the bare loop" in done.stdout and "pairs" in done.stdout


def test_ratios_are_of_medians():
    median = {"bare": 200.0, "ours": 150.0, "peer": 100.0}
    part = {"median": median, "share_of_bare": 0.75, "ratio": 1.5}
    lines = convert.table_of({"machine": {"cpu": "x"}, "processes": 2, "images": part})
    assert any("75%" in line for line in lines) and any("1.50" in line for line in lines)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=f"no JPEG files in {tmp_path}"):
        convert.images(str(tmp_path), str(tmp_path), 10, 1, 1)
