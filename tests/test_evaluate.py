"""tools/evaluate.py as a command: what it prints and writes, and what it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from tf_mural import experiment
from tf_mural.data.records import Record, RecordSet, write
from tf_mural.errors import UserError
from tf_mural.evaluation import TASKS, benchmarks
from tf_mural.experiment import evaluation


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
        (["--task=retrival"], "unknown task 'retrival'; known: all, retrieval, zero.*mean 'retrie"),
        (["--task=retrieval/cocoa"], "unknown task 'retrieval/cocoa'; .* did you mean 'retrieval/"),
        (["--task=all"], "--task=all stands alone: it takes each benchmark as it is defined"),
        (["--task=sts"], "none of the 12 records has a score: sts needs"),
        (["--task=bitext"], "record 'scenes/test/000000' has 12 texts: bitext"),
        (["--task="], "--task names nothing to score: all, a benchmark or a task"),
        (["--task=knn"], "knn: say with the option `index` where to look neighbours up"),
        (["--task=knn", "--index=scenes/train"], "has no label: knn needs records of an image and"),
        (
            ["--task=zero_shot"],
            "scenes/test has no names of classes to make prompts of: name a fol",
        ),
        (["--task=zero_shot", "--prompts=nowhere"], "prompts: nowhere does not exist"),
        (["--task=sts", "--languages=en"], "task 'sts' has no option 'languages'; it has: tracks"),
        (["--task=consistency", "--languages=en"], "consistency compares languages"),
        (["--records=scenes/tset"], "no record set in .*scenes/tset: manifest.json is missing"),
        (["--records=scenes"], "it holds the splits bitext, test, train: name one of them"),
        (["--records=scenes/bitext"], "none of the 132 records has an image"),
        (["--languages=de,xx"], r"unknown language \(of .*scenes/test\) 'xx'; known: cs, de"),
        (["--captions_per_image=0"], "flag --captions_per_image=0: .*positive"),
        (["--records=a/x,b/x", "--out=a.json"], "--out names one file, but there are 2 results"),
        (["--records=a/b/x,c/b/x"], "two results would be .*retrieval-b-x.json"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(evaluate, arguments, message):
    refusal = evaluate("--records=scenes/test", *arguments).error()
    assert re.search(message, refusal), refusal
    assert not (evaluate.workdir / "evals").exists()


def test_a_place_that_cannot_be_written_is_a_line_for_each_result(evaluate):
    (evaluate.workdir / "evals").write_text("no folder")
    done = evaluate("--records=scenes/test", "--task=retrieval,consistency")
    assert done.code == 2 and "Traceback" not in done.out + done.err
    assert done.out.count("failed: ") == 2 and "2 of 2 failed, see above" in done.err


def test_an_unfinished_run_is_refused(evaluate):
    (evaluate.workdir / "weights.npz").unlink()
    refusal = evaluate("--records=scenes/test").error()
    assert "holds no trained model: weights.npz missing; expected the workdir of a fin" in refusal


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": {}}', "{"])
def test_a_damaged_description_is_refused(evaluate, content):
    (evaluate.workdir / "model.json").write_text(content)
    refusal = evaluate("--records=scenes/test").error()
    assert "model.json is" in refusal, refusal


def test_a_model_without_its_vocabulary_is_refused(evaluate):
    (evaluate.workdir / "vocab.txt").unlink()
    refusal = evaluate("--records=scenes/test").error()
    assert re.search("vocab.txt", refusal) and "expected the workdir of a finished run" in refusal


# --- benchmarks by name ---------------------------------------------------------------------------


@pytest.fixture
def collection(data_dir, tmp_path):
    """A data folder with the scenes, a test set of Tatoeba, and a coco/test of which no image can
    be read."""
    folder = tmp_path / "collection"
    (folder / "scenes").mkdir(parents=True)
    os.symlink(data_dir / "scenes" / "test", folder / "scenes" / "test")
    pairs = [("rot", "red"), ("blau", "blue"), ("Stern", "star")]
    write(
        folder / "tatoeba" / "test",
        [Record(f"deu:{i}", (), (("deu", a), ("eng", b))) for i, (a, b) in enumerate(pairs)],
    )
    write(folder / "coco" / "test", [Record("broken", (b"no image",), (("en", "a"), ("ja", "b")))])
    return folder


def test_all_is_what_there_is_and_one_failure_keeps_the_others(evaluate, collection):
    done = evaluate("--task=all", f"--data_dir={collection}")
    ours = {"retrieval/scenes", "consistency/scenes", "bitext/tatoeba"}
    failing = {"retrieval/coco", "consistency/coco"}
    left_out = re.findall(r"^(\S+): left out, there is no \S+/(\w+/\w+)", done.out, re.M)
    assert {name for name, _ in left_out} == set(benchmarks.BENCHMARKS) - ours - failing
    assert ("sts/sts2017", "sts2017/test") in left_out
    knn = f"knn/imagenet: left out, there is no {collection}/imagenet/val and no "
    assert f"{knn}{collection}/imagenet/train" in done.out
    assert set(re.findall(r"^(\S+): failed: record 'broken'", done.out, re.M)) == failing
    assert done.code == 2
    assert done.err == "error: 2 of 5 failed, see above: retrieval/coco, consistency/coco\n"
    for name in ours:
        result = read(evaluate.workdir / "evals" / f"{name}.json")
        assert result["benchmark"] == name and result["task"] == name.split("/")[0]
        assert result["protocol"] == f"{result['task']}/v1" and result["intervals"]
        assert len(result["weights_hash"]) == 12
    assert result["records"] in (3, 12)
    assert "(the whole set has 88,877: no number to set beside others')" in done.out

    # Again: what is there of the same model and data stays, and a change of either is noticed.
    path = evaluate.workdir / "evals" / "bitext" / "tatoeba.json"
    result = read(path)
    path.write_text(json.dumps({**result, "data": {"other": "data"}}))
    again = evaluate("--task=all", f"--data_dir={collection}")
    kept = set(re.findall(r"^(\S+): there already, of this model", again.out, re.M))
    assert kept == {"retrieval/scenes", "consistency/scenes"}
    assert read(path)["data"] == result["data"]


def test_all_of_nothing_is_refused(evaluate, tmp_path):
    done = evaluate("--task=all", f"--data_dir={tmp_path / 'empty'}")
    assert done.code == 2 and "no benchmark has its records under" in done.err
    assert "whose --list tells which there are" in done.err


def test_an_interruption_keeps_what_is_written(tools, evaluate, collection):
    names = "bitext/tatoeba,retrieval/scenes"
    arguments = (f"--model={evaluate.workdir}", f"--data_dir={collection}", f"--task={names}")
    done = tools.run(collection, "evaluate.py", *arguments, interrupt_at="written to")
    assert (done.code, done.err) == (130, "interrupted\n")
    assert read(evaluate.workdir / "evals" / "bitext" / "tatoeba.json")["counts"]["pairs"]
    assert not (evaluate.workdir / "evals" / "retrieval").exists()


def test_a_benchmark_on_records_of_ones_own_is_none_of_the_published(evaluate):
    done = evaluate("--task=retrieval/coco", "--records=scenes/test", "--languages=en")
    assert done.code == 0, done.err
    result = read(evaluate.workdir / "evals" / "retrieval" / "coco-scenes-test-languages-en.json")
    assert result["benchmark"] is None and result["records"] == 12


def test_labels_prompts_and_neighbours(evaluate, data_dir, tmp_path):
    images = [record.images for record in RecordSet.open(data_dir / "scenes" / "test")]
    folder = tmp_path / "labelled"
    for split in ("train", "test"):
        labelled = [Record(f"{split}{i}", images[i], label=i % 2) for i in range(4)]
        write(folder / "cifar100" / split, labelled, "cifar100", split)
        manifest = folder / "cifar100" / split / "manifest.json"
        content = {**read(manifest), "classes": ["red_circle", "blue_star"]}
        manifest.write_text(json.dumps(content))
    here = f"--data_dir={folder}"
    done = evaluate(
        "--task=knn,zero_shot", "--records=cifar100/test", "--index=cifar100/train", here
    )
    assert "the task 'zero_shot' has no option 'index'" in done.error()
    done = evaluate("--task=knn", "--records=cifar100/test", "--index=cifar100/train", here)
    name = "knn-cifar100-test-index-cifar100-train.json"
    result = read(evaluate.workdir / "evals" / name)
    assert result["values"]["all"]["r1"] == 100.0  # each image finds itself
    assert len(result["data"]) == 2
    done = evaluate("--task=zero_shot/cifar100", here)
    result = read(evaluate.workdir / "evals" / "zero_shot" / "cifar100.json")
    assert list(result["values"]) == ["en", "groups"] and "English prompts" in result["data"]
    assert result["counts"]["languages"]["en"]["prompts"] == 160
    assert (evaluate.workdir / "evals" / "classes").is_dir()  # kept for the next time

    (folder / "prompts" / "cifar100" / "filled").mkdir(parents=True)
    for code, texts in {"de": ("roter Kreis", "blauer Stern"), "fr": ("rond", "bleu")}.items():
        lines = "".join(f"{i}\t{text}\n" for i, text in enumerate(texts))
        (folder / "prompts" / "cifar100" / "filled" / f"{code}.tsv").write_text(lines)
    done = evaluate("--task=zero_shot/cifar100", here, "--languages=de")
    result = read(evaluate.workdir / "evals" / "zero_shot" / "cifar100-languages-de.json")
    assert list(result["values"]) == ["de", "groups"] and "English prompts" not in result["data"]
    unknown = evaluate("--task=zero_shot/cifar100", here, "--languages=cs").error()
    assert "no prompts in cs; there are prompts in: de, fr" in unknown
    labelled[3] = Record("test3", images[3], label=7)
    write(folder / "other" / "test", labelled, "cifar100", "test")
    wrong = ("--task=zero_shot", "--records=other/test", "--prompts=prompts/cifar100", here)
    assert "record 'test3' has label 7, but the prompts have 2 classes" in evaluate(*wrong).error()


# --- from Python, and during training -------------------------------------------------------------


class Letters:
    """A model that is none of ours: texts by their letters, images by their bytes."""

    def texts(self, texts):
        rows = [np.bincount([ord(c) % 64 for c in text], minlength=64) for text in texts]
        rows = np.array(rows, np.float32).reshape(-1, 64) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def images(self, encoded):
        return self.texts([data.decode("latin1") for data in encoded])


def test_training_evaluates_tasks_and_benchmarks(collection):
    import ml_collections

    config = ml_collections.ConfigDict(
        {
            "evaluation": {
                "retrieval": {
                    "records": "scenes/test",
                    "languages": ("en", "de"),
                    "trained": ("en",),
                },
                "bitext/tatoeba": {},
                "consistency/scenes": {"languages": ()},
            }
        }
    )
    results = evaluation.make_evaluation(config, str(collection), Letters())()
    assert set(results) == {"retrieval", "bitext/tatoeba", "consistency/scenes"}
    assert list(results["retrieval"].values) == ["en", "de"]
    assert results["bitext/tatoeba"].counts["pairs"] == {"deu": 3}
    direct = TASKS["bitext"](Letters(), RecordSet.open(collection / "tatoeba" / "test"))
    assert results["bitext/tatoeba"] == direct
    config.evaluation["retrieval/xtd10"] = {}
    with pytest.raises(UserError, match="no record set in .*xtd10/test"):
        evaluation.make_evaluation(config, str(collection), Letters())
    del config.evaluation["retrieval/xtd10"]
    config.evaluation["sts"] = {"records": "scenes/test", "languages": ("en",)}
    with pytest.raises(UserError, match="the task 'sts' has no option 'languages'"):
        evaluation.make_evaluation(config, str(collection), Letters())
    config.evaluation.sts = {}
    with pytest.raises(UserError, match="say what to score 'sts' on: its option `records`"):
        evaluation.make_evaluation(config, str(collection), Letters())


def test_benchmarks_are_of_tasks_and_options_that_exist():
    for name, benchmark in benchmarks.BENCHMARKS.items():
        assert name.split("/")[0] == benchmark.task and benchmark.task in TASKS
        known = benchmarks.options_of(name)
        assert ("index" in known) == bool(benchmark.index)
        assert ("prompts" in known) == bool(benchmark.prompts)
        assert not {"cache", "model_id", "draws", "seed"} & set(known)


def test_progress_is_told():
    said = []
    watched = evaluation.Watched(Letters(), "mine", said.append, every=0)
    assert len(watched.texts(["a", "b"])) == 2 and len(watched.images([b"c"])) == 1
    assert [re.sub(", .*", "", line) for line in said] == [
        "mine: 0 texts",
        "mine: 1 texts",
        "mine: 0 images",
    ]


def test_a_record_set_is_found_under_the_data_or_by_its_path(collection):
    path = str(collection / "tatoeba" / "test")
    for folder in ("tatoeba/test", path):
        assert len(experiment.open_records(folder, str(collection))) == 3


def test_help_needs_no_tensorflow():
    command = [sys.executable, "-X", "importtime", f"{ROOT}/tools/evaluate.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("Scores a trained model")
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tf_mural.evaluation" in imported and not {"tensorflow", "keras"} & imported
