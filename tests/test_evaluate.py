"""tools/evaluate.py as a command: what it prints and writes, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from tf_mural.records import Record, RecordSet, write


@pytest.fixture
def evaluate(tools, data_dir, finished, tmp_path):
    """Runs tools/evaluate.py on the finished small run, whose folder stays as it is."""
    workdir = tmp_path / "model"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("checkpoints"))

    def run(*arguments):
        # Of a flag that comes twice, the last one counts.
        given = (f"--model={workdir}", f"--data_dir={data_dir}", *arguments)
        return tools.run(tmp_path, "evaluate.py", *given)

    run.workdir = workdir
    return run


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_scores_are_those_of_the_end_of_training(evaluate, data_dir):
    done = evaluate("--records=scenes/test", "--languages=ko,en,de")
    assert done.code == 0 and done.err == "", done.err
    result = read(evaluate.workdir / "evals" / "retrieval-scenes-test-languages-ko-en-de.json")
    trained = read(evaluate.workdir / "results.json")
    expected = trained["evaluation"]["retrieval"]
    for key in ("task", "protocol", "counts", "values", "intervals"):
        assert result[key] == expected[key], key
    records = RecordSet.open(data_dir / "scenes" / "test")
    assert result["data"] == {records.folder: records.digest}
    assert result["model"] == str(evaluate.workdir)
    assert result["vocabulary_hash"] == trained["vocabulary_hash"]
    assert result["options"] == {"languages": ["ko", "en", "de"]}
    # In the order that was asked for: six recalls, their mean, its interval, chance.
    rows = re.findall(r"^(\w\w)((?: +[\d.]+){7}) +[\d.]+ to [\d.]+ +[\d.]+$", done.out, re.M)
    assert [code for code, _ in rows] == ["ko", "en", "de"]
    for code, numbers in rows:
        values = list(expected["values"][code].values())[:7]
        assert numbers.split() == [f"{value:.1f}" for value in values]


def test_several_sets_each_to_its_file(evaluate, data_dir, tmp_path):
    pictures = [r.images for r in RecordSet.open(data_dir / "scenes" / "test")]
    texts = (("en", "a red circle"), ("en", "a blue star"), ("en", "a green square"))
    records = [Record(str(i), pictures[i], texts) for i in range(3)]
    write(tmp_path / "mine" / "val", records)
    folders = f"{tmp_path / 'mine' / 'val'},scenes/test"
    done = evaluate(f"--records={folders}", "--captions_per_image=2")
    assert done.code == 0, done.err
    evals = evaluate.workdir / "evals"
    mine = read(evals / "retrieval-mine-val-captions_per_image-2.json")
    scenes = read(evals / "retrieval-scenes-test-captions_per_image-2.json")
    assert mine["protocol"] == "retrieval/v1;captions_per_image=2"
    assert mine["counts"] == {"images": 3, "candidates": {"en": 3}, "texts": {"en": 6}}
    assert scenes["counts"]["images"] == 12 and len(scenes["values"]) == 12  # all languages
    assert done.out.count("in percent:") == 2


def test_out_names_the_file(evaluate, tmp_path):
    assert evaluate("--records=scenes/test", "--languages=en", "--out=new/a.json").code == 0
    assert list(read(tmp_path / "new" / "a.json")["values"]) == ["en"]
    assert not (evaluate.workdir / "evals").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model="], "say which model: --model=<workdir of a finished run>"),
        (["--model=nowhere"], "no folder 'nowhere'; --model is the workdir of a finished run"),
        (["--records="], "say what to score it on: --records="),
        (["--task=retrival"], "unknown task 'retrival'; known: retrieval; did you mean 'retr"),
        (["--records=scenes/tset"], "no record set in .*scenes/tset: manifest.json is missing"),
        (["--records=scenes"], "it holds the splits bitext, test, train: name one of them"),
        (["--records=scenes/bitext"], "none of the 132 records has an image"),
        (["--languages=de,xx"], r"unknown language \(of .*scenes/test\) 'xx'; known: cs, de"),
        (["--captions_per_image=0"], "flag --captions_per_image=0: .*positive"),
        (["--records=a/x,b/x", "--out=a.json"], "--out names one file, but --records 2 sets"),
        (["--records=a/b/x,c/b/x"], "two sets whose result would be .*retrieval-b-x.json"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(evaluate, arguments, message):
    refusal = evaluate("--records=scenes/test", *arguments).error()
    assert re.search(message, refusal), refusal
    assert not (evaluate.workdir / "evals").exists()


def test_an_unfinished_run_is_refused(evaluate):
    (evaluate.workdir / "weights.npz").unlink()
    refusal = evaluate("--records=scenes/test").error()
    assert "holds no trained model: weights.npz missing; expected the workdir of a fin" in refusal


def test_help_needs_no_tensorflow():
    command = [sys.executable, "-X", "importtime", f"{ROOT}/tools/evaluate.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("Scores a trained model")
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tf_mural.tasks" in imported and not {"tensorflow", "keras"} & imported
