"""The benchmark of start-up times and micro-batches."""

import statistics

import pytest

from benchmarks import overheads
from benchmarks.cases import CASES
from tf_mural import cli


@pytest.mark.slow
def test_micro_batches_and_plain_steps_are_timed(capsys):
    result = overheads.measure_microbatches(CASES["tiny"], 2, rounds=2)
    plain, microbatches = result["seconds"]["plain"], result["seconds"]["microbatches"]
    assert len(plain) == len(microbatches) == 2
    assert result["overhead"] == statistics.median(microbatches) / statistics.median(plain)
    assert result["overhead_fastest"] == min(microbatches) / min(plain)
    # Plain steps and steps with micro-batches both train the model, so all losses are different.
    losses = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert len(set(losses)) == len(losses) == 6
    (line,) = overheads.table({"microbatches": {"tiny": result}})
    assert f"{result['overhead']:.2f} times" in line and "micro-batches of 2" in line


@pytest.mark.slow
def test_the_start_is_timed_to_the_first_step_and_a_failed_run_is_an_error(
    data_dir, tmp_path, capsys
):
    (seconds,) = overheads.measure_start(str(data_dir), str(tmp_path), 1)
    assert f"start-up: {seconds:.1f} s" in capsys.readouterr().out
    (tmp_path / "no_folder").write_text("")
    with pytest.raises(RuntimeError, match="the run ended without a step"):
        overheads.measure_start(str(tmp_path / "no_folder"), str(tmp_path / "other"), 1)


@pytest.mark.slow
def test_the_start_of_every_command_is_timed(capsys):
    seconds = overheads.measure_import_and_help(1)
    assert len(seconds) == 1 + len(cli.COMMANDS)
    assert all(len(values) == 1 and values[0] < 10 for values in seconds.values())
    lines = overheads.table({"microbatches": {}, "light": seconds, "search": [5.0, 7.0, 6.0]})
    assert lines[0] == "  search, cold start: 6.0 s (5.0 to 7.0)"
    assert lines[1].startswith("  import tf_mural: ")
    with pytest.raises(RuntimeError, match="failed: .*no module"):
        overheads._run(["python3", "-c", "raise SystemExit('no module')"])
