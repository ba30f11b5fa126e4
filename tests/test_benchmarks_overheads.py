import statistics

import pytest

from benchmarks import overheads
from benchmarks.cases import CASES


@pytest.mark.slow
def test_micro_batches_are_timed_beside_the_plain_step(capsys):
    found = overheads.measure_microbatches(CASES["tiny"], 2, rounds=2)
    plain, parted = found["seconds"]["plain"], found["seconds"]["microbatches"]
    assert len(plain) == len(parted) == 2
    assert found["overhead"] == statistics.median(parted) / statistics.median(plain)
    assert found["overhead_fastest"] == min(parted) / min(plain)
    # Both kinds of step learn: no loss comes twice.
    losses = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert len(set(losses)) == len(losses) == 6
    (line,) = overheads.table({"microbatches": {"tiny": found}})
    assert f"{found['overhead']:.2f} times" in line and "micro-batches of 2" in line


@pytest.mark.slow
def test_a_start_is_timed_to_its_first_step_or_says_why_there_is_none(data_dir, tmp_path, capsys):
    (seconds,) = overheads.measure_start(str(data_dir), str(tmp_path), 1)
    assert f"start-up: {seconds:.1f} s" in capsys.readouterr().out
    (tmp_path / "no_folder").write_text("")
    with pytest.raises(RuntimeError, match="no step was taken"):
        overheads.measure_start(str(tmp_path / "no_folder"), str(tmp_path / "other"), 1)
