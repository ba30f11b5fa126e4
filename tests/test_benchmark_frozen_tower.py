"""The benchmark of frozen image towers."""

import statistics

import pytest

from benchmarks import frozen_tower
from benchmarks.cases import CASES


@pytest.mark.slow
def test_trained_frozen_and_stored_towers_are_timed(capsys):
    result = frozen_tower.measure(CASES["tiny"], rounds=2)
    medians = {k: statistics.median(values) for k, values in result["seconds"].items()}
    assert list(medians) == ["trained", "frozen", "stored"]
    assert result["share"]["stored"] == medians["stored"] / medians["trained"]
    losses = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert len(set(losses)) > 6  # every variant trains
    (line,) = frozen_tower.table({"tiny": result})
    assert f"stored {medians['stored']:.3f} s ({result['share']['stored']:.2f})" in line
