"""The benchmark of LoRA steps."""

import pytest

from benchmarks import adaptation


@pytest.mark.slow
def test_both_steps_are_measured_and_compared(capsys):
    flags = ["--bert=nano", "--vocabularies=500", "--batches=4", "--remat=1", "--tokens=8"]
    options = adaptation.parse([*flags, "--steps=2", "--rounds=1"])
    results = adaptation.measure(options, 500, 4, remat=True)
    assert [result["adapt"] for result in results] == ["full", "lora:8"]
    for result in results:
        assert len(result["seconds"]) == len(result["processor_seconds"]) == 2
        assert result["peak_bytes"] > 1e8
    # Both models start from the same weights, and the steps change them differently.
    losses = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert losses[0] == losses[3] and losses[1] != losses[4]
    header, full, lora = adaptation.table(results)
    assert full.split()[5::2] == ["100"] * 3 and lora.split()[3] == "lora:8"


def test_odd_batches_are_refused(capsys):
    with pytest.raises(SystemExit):
        adaptation.parse(["--batches=7"])
    assert "even numbers" in capsys.readouterr().err
