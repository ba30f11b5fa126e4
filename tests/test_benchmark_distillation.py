"""The benchmark of distillation."""

import json
import statistics

import pytest

from benchmarks import distillation
from benchmarks.cases import CASES
from tf_mural.data.records import RecordSet


@pytest.mark.slow
def test_text_only_steps_and_etcl_steps_are_timed():
    result = distillation.measure_etcl(CASES["tiny"], [4, 16], rounds=2)
    assert list(result["seconds"]) == ["etcl", "distil 4", "distil 16"]
    medians = {k: statistics.median(values) for k, values in result["seconds"].items()}
    assert result["rows_per_second"]["distil 16"] == 16 / medians["distil 16"]
    assert result["ratio"]["distil 4"] == pytest.approx(medians["etcl"] / medians["distil 4"])
    (title, *lines) = distillation.table({"etcl": {"tiny": result}})
    assert "tiny, 8 tokens" in title and "distil 16 texts" in lines[1]


@pytest.mark.slow
def test_training_from_records_is_timed_without_the_peer(tmp_path, capsys):
    flags = ["--parts=peer", "--bert=nano", "--vocabulary=300", "--sentences=100", "--tokens=8"]
    flags += ["--batch=4", "--steps=2", "--rounds=2", "--data=full"]
    flags += [f"--json={tmp_path / 'results.json'}"]
    distillation.main(flags)
    results = json.loads((tmp_path / "results.json").read_text())["peer"]
    assert list(results) == ["full"] and "ratio" not in results["full"]
    assert len(results["full"]["texts_per_second"]["tf_mural"]) == 2
    assert 0 < results["full"]["share_of_peak"] < 1
    assert "matrix-multiply peak" in capsys.readouterr().out


def test_both_sides_read_the_same_texts(tmp_path):
    sentences = ["one two", "three", "four five", "six"]
    texts = distillation.make_texts("full", sentences, tokens=3)
    assert texts == ["one two three", "four five six"]
    assert distillation.make_texts("tatoeba", sentences, tokens=3) == sentences
    distillation.write_data(tmp_path, texts, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one"])
    assert json.loads((tmp_path / "sentences.json").read_text()) == texts
    records = RecordSet.open(tmp_path / "records")
    assert records.manifest["texts"] == 2 and records.vectors["teacher"]["rows"] == 2


RATES = {"tf_mural": [30.0, 50.0, 40.0], "peer": [20.0, 21.0, 10.0]}
FACTS = {"tf_mural": {"parameters": 10, "flops": 200}, "peer": {"parameters": 10}}


def test_the_ratio_is_that_of_the_median_rates():
    result = distillation._summarize_peer(RATES, FACTS, {"tf_mural": 4e3, "peer": 5e3}, batch=2)
    assert result["ratio"] == 2.0
    assert result["share_of_peak"] == pytest.approx(200 / 2 * 40 / 5e3)
    lines = distillation.table({"peer": {"tatoeba": result}})
    assert lines[-1].strip() == "tf_mural / sentence-transformers: 2.00"


def test_unknown_parts_and_small_batches_are_refused(capsys):
    for flag, message in (("--parts=speed", "unknown speed"), ("--batch=1", "batches at least 2")):
        with pytest.raises(SystemExit):
            distillation.parse([flag])
        assert message in capsys.readouterr().err
