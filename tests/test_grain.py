"""A record set as a data source of Grain, which reads it in several processes."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet

grain = pytest.importorskip("grain", reason="pip install -r requirements-test.txt")

LOADER = """
import sys

import grain
from absl import flags

from tf_mural.data.records import RecordSet


class ToId(grain.transforms.Map):
    def map(self, record):
        return int(record.id)


def main():
    flags.FLAGS.mark_as_parsed()
    source = RecordSet.open(sys.argv[1])
    sampler = grain.samplers.IndexSampler(
        len(source), grain.sharding.NoSharding(), shuffle=True, num_epochs=2, seed=0
    )
    operations = [ToId(), grain.transforms.Batch(5)]
    loader = grain.DataLoader(
        data_source=source, sampler=sampler, operations=operations, worker_count=2
    )
    batches = iter(loader)
    first = next(batches)
    state = batches.get_state()
    rest = [batch.tolist() for batch in batches]
    print("order:", first.tolist() + sum(rest, []))
    resumed = iter(loader)
    resumed.set_state(state)
    print("same after a resume:", rest == [batch.tolist() for batch in resumed])


if __name__ == "__main__":
    main()
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs a script in `tmp_path` and returns the printed lines."""

    def run_script(text, *arguments):
        path = tmp_path / "script.py"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, str(path), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run_script


def test_a_record_set_is_a_random_access_data_source(tmp_path):
    written = [Record(str(n), (bytes([n]),)) for n in range(7)]
    records.write(tmp_path, written, shards=3)
    source = RecordSet.open(tmp_path)
    assert isinstance(source, grain.sources.RandomAccessDataSource)
    dataset = grain.MapDataset.source(source)
    assert list(dataset) == written
    shuffled = [record.id for record in dataset.shuffle(seed=0)]
    assert sorted(shuffled) == [record.id for record in written] != shuffled


@pytest.mark.slow
def test_the_example_of_the_docs_reads_each_record_once(run, data_dir, tmp_path):
    with open(os.path.join(ROOT, "docs/data.md"), encoding="utf-8") as file:
        example = re.search(r"```python\n(import grain\n.*?)```", file.read(), re.DOTALL)[1]
    (tmp_path / "data").symlink_to(data_dir)
    source = RecordSet.open(data_dir / "scenes/train")
    first, *lines = run(example)
    assert first == f"96 records in 6 languages, the last is {source[-1].id}"
    expected = {
        f"{record.id} {len(record.images[0])} {dict(record.texts)['en']}" for record in source
    }
    assert len(lines) == len(source) and set(lines) == expected


@pytest.mark.slow
def test_two_workers_of_a_data_loader_read_each_record_once_per_epoch(run, tmp_path):
    records.write(tmp_path / "set", [Record(str(n)) for n in range(40)], shards=3)
    order, resume = run(LOADER, str(tmp_path / "set"))
    ids = [int(number) for number in re.findall(r"\d+", order)]
    assert sorted(ids) == sorted(2 * list(range(40)))
    assert ids[:40] != list(range(40)) and resume == "same after a resume: True"
