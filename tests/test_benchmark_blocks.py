"""The benchmark of blocks: a synthetic set is opened in little memory, and orders are measured."""

import json
import os
import time
import tracemalloc

import numpy as np
import pytest

from benchmarks import blocks
from tf_mural.data.records import RecordSet

SHARDS, SHARD_RECORDS, BLOCK = 200, 40_000, 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 8 million records in 62,600 blocks, without records."""
    folder = str(tmp_path_factory.mktemp("synthetic"))
    blocks.write_set(folder, SHARDS, SHARD_RECORDS, BLOCK)
    return folder


def test_a_large_set_is_opened_and_started_with_100_bytes_per_block(folder):
    from tf_mural.data import block_sampling  # noqa: F401 - imports TensorFlow

    tracemalloc.start()
    began = time.process_time()
    opened = RecordSet.open(folder)
    sampler = blocks.make_sampler(opened, window_blocks=4)
    # The memory of the order does not depend on the step.
    for draw in (0, 10**6, 10**15):
        sampler._set_samplers[0]._epoch(draw // len(opened))
    assert time.process_time() - began < 5
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(opened) == SHARDS * SHARD_RECORDS and len(opened.blocks) == 62_600
    # The file is mapped into memory, and the order of two epochs is in memory as well.
    size = os.path.getsize(os.path.join(folder, "blocks.index"))
    assert size + kept < 110 * len(opened.blocks) + 2000 * SHARDS, (size, kept)
    assert size + peak < 200 * len(opened.blocks) + 2000 * SHARDS, (size, peak)
    assert "columns" not in vars(opened._indexes)


def test_windows_of_a_synthetic_set_can_be_read(folder):
    blocks.fill_windows(folder, [7])
    batch = blocks.read_batch(blocks.make_sampler(RecordSet.open(folder)), 7)
    assert set(batch) == {blocks._payload()}


def test_the_measures_of_an_order_are_those_of_a_random_order():
    count, batch = 1 << 16, 512
    whole, windows = blocks.run_shuffle(count, [64], [32], batch)
    # Two numbers from a uniform distribution differ by less than 1 - 1 / sqrt(2) in half of cases.
    assert whole["distance"] == pytest.approx(1 - 0.5**0.5, abs=0.02)
    assert whole["near"] == pytest.approx(20 * batch / count, rel=0.15)
    # The blocks of a window are spread over the set, and its records are in 2,048 places.
    assert windows["distance"] == pytest.approx(1 - 0.5**0.5, abs=0.06)
    assert windows["near"] == pytest.approx(20 * batch / 2048, rel=0.1)
    assert whole["repeated"] == pytest.approx(batch / 4 / count, abs=0.002)
    assert windows["repeated"] < 0.02
    (row,) = [line for line in blocks.shuffle_table([whole, windows]) if line.startswith("| 64 ")]
    assert row.startswith("| 64 | 32 | 2,048 | 0.")


@pytest.mark.slow
def test_the_parts_are_measured_in_new_processes(tmp_path):
    path = tmp_path / "out.json"
    options = ["--shards=60", "--shard_records=2000", "--block_records=256", f"--folder={tmp_path}"]
    blocks.main(["--parts=open", *options, f"--json={path}"])
    result = json.loads(path.read_text())["open"]
    assert (result["records"], result["blocks"]) == (120_000, 480)
    assert np.all([0 < s["read_window"] < s["first_batch"] for s in result["steps"]])
    assert list(tmp_path.iterdir()) == [path]
