"""Evaluation by tools/evaluate.py and during training: results, user errors, benchmarks."""

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
from tf_mural.cli import evaluate as evaluate_command
from tf_mural.cli.error_lines import with_flags
from tf_mural.data.records import Record, RecordSet, write
from tf_mural.errors import UserError
from tf_mural.evaluation import TASKS, benchmarks
from tf_mural.evaluation.results import Result
from tf_mural.experiment import evaluation


@pytest.fixture
def evaluate(tools, data_dir, finished, tmp_path, monkeypatch):
    """Returns a function that runs tools/evaluate.py on a copy of the small run.

    Its attribute `refuse` runs the command in this process, and returns the message of the error.
    """
    workdir = tmp_path / "model"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("checkpoints"))

    def run(*arguments):
        # The last of several flags of the same name applies.
        return tools.run(tmp_path, "evaluate.py", *defaults, *arguments)

    def refuse(*arguments):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError) as error:
            evaluate_command.main([*defaults, *arguments])
        message = with_flags(str(error.value))
        assert "\n" not in message and getattr(error.value, "exit_code", 2) == 2
        return message

    defaults = (f"--model={workdir}", f"--data_dir={data_dir}")
    run.workdir, run.refuse = workdir, refuse
    return run


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_scores_equal_those_at_the_end_of_training(evaluate, data_dir):
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
    # The rows have the order of --languages, and contain six recalls, their mean, and its interval.
    rows = re.findall(r"^(\w\w)((?: +[\d.]+){7}) +[\d.]+ to [\d.]+ +[\d.]+$", done.out, re.M)
    assert [code for code, _ in rows] == ["ko", "en", "de"]
    for code, numbers in rows:
        values = list(expected["values"][code].values())[:7]
        assert numbers.split() == [f"{value:.1f}" for value in values]


def test_each_record_set_has_its_own_result(evaluate, data_dir, tmp_path):
    images = [r.images for r in RecordSet.open(data_dir / "scenes" / "test")]
    texts = (("en", "a red circle"), ("en", "a blue star"), ("en", "a green square"))
    records = [Record(str(i), images[i], texts) for i in range(3)]
    write(tmp_path / "mine" / "val", records)
    folders = f"{tmp_path / 'mine' / 'val'},scenes/test"
    done = evaluate(f"--records={folders}", "--captions_per_image=2")
    assert done.code == 0, done.err
    evals = evaluate.workdir / "evals"
    mine = read(evals / "retrieval-mine-val-captions_per_image-2.json")
    scenes = read(evals / "retrieval-scenes-test-captions_per_image-2.json")
    assert mine["protocol"] == "retrieval/v1;captions_per_image=2"
    assert mine["counts"] == {"images": 3, "candidates": {"en": 3}, "texts": {"en": 6}}
    assert scenes["counts"]["images"] == 12
    assert len(scenes["values"]) == 12  # one entry per language of the records
    assert done.out.count("in percent:") == 2


def test_out_is_the_file_of_the_result(evaluate, tmp_path):
    assert evaluate("--records=scenes/test", "--languages=en", "--out=new/a.json").code == 0
    assert list(read(tmp_path / "new" / "a.json")["values"]) == ["en"]
    assert not (evaluate.workdir / "evals").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model="], "name the model: --model=<workdir of a finished run>"),
        (["--model=nowhere"], "no folder 'nowhere'; expected the workdir of a finished run"),
        (["--records="], "name the records to evaluate on: --records="),
        (["--task=retrival"], "unknown task 'retrival'; known: all, retrieval, zero.*mean 'retrie"),
        (["--task=retrieval/cocoa"], "unknown task 'retrieval/cocoa'; .* did you mean 'retrieval/"),
        (["--task=all"], "--task=all runs the benchmarks as they are defined"),
        (["--task=sts"], "none of the 12 records has a score: sts needs"),
        (["--task=bitext"], "record 'scenes/test/000000' has 12 texts: bitext"),
        (["--task="], "--task is empty: expected all, a benchmark or a task"),
        (["--task=knn"], "knn: name the record set of the neighbors with the option --index"),
        (
            ["--task=knn", "--index=scenes/train"],
            "has no label: knn needs records with an image and",
        ),
        (
            ["--task=zero_shot"],
            "scenes/test has no class names to make prompts from: name a fol",
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
        (["--records=a/b/x,c/b/x"], "two results would be written to .*retrieval-b-x.json"),
    ],
)
def test_user_errors_are_one_line_and_write_nothing(evaluate, arguments, message):
    refusal = evaluate.refuse("--records=scenes/test", *arguments)
    assert re.search(message, refusal), refusal
    assert not (evaluate.workdir / "evals").exists()


def test_each_result_that_cannot_be_written_is_one_line(evaluate):
    (evaluate.workdir / "evals").write_text("no folder")
    done = evaluate("--records=scenes/test", "--task=retrieval,consistency")
    assert done.code == 2 and "Traceback" not in done.out + done.err
    assert done.out.count("failed: ") == 2 and "2 of 2 evaluations failed, see above" in done.err


def test_unfinished_run_is_refused(evaluate):
    (evaluate.workdir / "weights.npz").unlink()
    refusal = evaluate.refuse("--records=scenes/test")
    assert "holds no trained model: weights.npz missing; expected the workdir of a fin" in refusal


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": {}}', "{"])
def test_damaged_description_is_refused(evaluate, content):
    (evaluate.workdir / "model.json").write_text(content)
    refusal = evaluate.refuse("--records=scenes/test")
    assert "model.json is" in refusal, refusal


def test_model_without_vocabulary_is_refused(evaluate):
    (evaluate.workdir / "vocab.txt").unlink()
    refusal = evaluate.refuse("--records=scenes/test")
    assert re.search("vocab.txt", refusal) and "expected the workdir of a finished run" in refusal


# --- benchmarks -----------------------------------------------------------------------------------


@pytest.fixture
def collection(data_dir, tmp_path):
    """A data folder with scenes/test, tatoeba/test, and coco/test, whose image is damaged."""
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


def test_all_runs_the_available_benchmarks_also_if_some_fail(evaluate, collection):
    done = evaluate("--task=all", f"--data_dir={collection}")
    successful = {"retrieval/scenes", "consistency/scenes", "bitext/tatoeba"}
    failing = {"retrieval/coco", "consistency/coco"}
    skipped = re.findall(r"^(\S+): skipped, there is no \S+/(\w+/\w+)", done.out, re.M)
    assert {name for name, _ in skipped} == set(benchmarks.BENCHMARKS) - successful - failing
    assert ("sts/sts2017", "sts2017/test") in skipped
    knn = f"knn/imagenet: skipped, there is no {collection}/imagenet/val and no "
    assert f"{knn}{collection}/imagenet/train" in done.out
    assert set(re.findall(r"^(\S+): failed: record 'broken'", done.out, re.M)) == failing
    assert done.code == 2
    message = "2 of 5 evaluations failed, see above: retrieval/coco, consistency/coco"
    assert done.err == f"error: {message}\n"
    for name in successful:
        result = read(evaluate.workdir / "evals" / f"{name}.json")
        assert result["benchmark"] == name and result["task"] == name.split("/")[0]
        assert result["protocol"] == f"{result['task']}/v1" and result["intervals"]
        assert len(result["weights_hash"]) == 12
    assert result["records"] in (3, 12)
    assert "(the benchmark has 88,877 records: this result is not comparable" in done.out

    # A second run of the command keeps the results of the first run if model and data are the same.
    path = evaluate.workdir / "evals" / "bitext" / "tatoeba.json"
    result = read(path)
    path.write_text(json.dumps({**result, "data": {"other": "data"}}))
    again = evaluate("--task=all", f"--data_dir={collection}")
    kept = set(re.findall(r"^(\S+): up to date, because the model", again.out, re.M))
    assert kept == {"retrieval/scenes", "consistency/scenes"}
    assert read(path)["data"] == result["data"]


def test_all_without_any_records_is_refused(evaluate, tmp_path):
    message = evaluate.refuse("--task=all", f"--data_dir={tmp_path / 'empty'}")
    assert "has the records of no benchmark" in message
    assert "tools/convert.py --list" in message


def test_interruption_keeps_the_results_so_far(tools, evaluate, collection):
    names = "bitext/tatoeba,retrieval/scenes"
    arguments = (f"--model={evaluate.workdir}", f"--data_dir={collection}", f"--task={names}")
    done = tools.run(collection, "evaluate.py", *arguments, interrupt_at="written to")
    assert (done.code, done.err) == (130, "interrupted\n")
    assert read(evaluate.workdir / "evals" / "bitext" / "tatoeba.json")["counts"]["pairs"]
    assert not (evaluate.workdir / "evals" / "retrieval").exists()


def test_result_on_other_records_does_not_name_the_benchmark(evaluate):
    done = evaluate("--task=retrieval/coco", "--records=scenes/test", "--languages=en")
    assert done.code == 0, done.err
    result = read(evaluate.workdir / "evals" / "retrieval" / "coco-scenes-test-languages-en.json")
    assert result["benchmark"] is None and result["records"] == 12


def test_knn_and_zero_shot_find_labels_prompts_and_neighbours(evaluate, data_dir, tmp_path):
    images = [record.images for record in RecordSet.open(data_dir / "scenes" / "test")]
    folder = tmp_path / "labelled"
    for split in ("train", "test"):
        labelled = [Record(f"{split}{i}", images[i], label=i % 2) for i in range(4)]
        write(folder / "cifar100" / split, labelled, "cifar100", split)
        manifest = folder / "cifar100" / split / "manifest.json"
        content = {**read(manifest), "classes": ["red_circle", "blue_star"]}
        manifest.write_text(json.dumps(content))
    data = f"--data_dir={folder}"
    wrong = ("--task=knn,zero_shot", "--records=cifar100/test", "--index=cifar100/train", data)
    assert "the task 'zero_shot' has no option 'index'" in evaluate.refuse(*wrong)
    evaluate("--task=knn", "--records=cifar100/test", "--index=cifar100/train", data)
    name = "knn-cifar100-test-index-cifar100-train.json"
    result = read(evaluate.workdir / "evals" / name)
    assert result["values"]["all"]["r1"] == 100.0  # the index contains the same images
    assert len(result["data"]) == 2
    evaluate("--task=zero_shot/cifar100", data)
    result = read(evaluate.workdir / "evals" / "zero_shot" / "cifar100.json")
    assert list(result["values"]) == ["en", "groups"] and "English prompts" in result["data"]
    assert result["counts"]["languages"]["en"]["prompts"] == 160
    assert (evaluate.workdir / "evals" / "classes").is_dir()  # cache of class embeddings

    (folder / "prompts" / "cifar100" / "filled").mkdir(parents=True)
    for code, texts in {"de": ("roter Kreis", "blauer Stern"), "fr": ("rond", "bleu")}.items():
        lines = "".join(f"{i}\t{text}\n" for i, text in enumerate(texts))
        (folder / "prompts" / "cifar100" / "filled" / f"{code}.tsv").write_text(lines)
    evaluate("--task=zero_shot/cifar100", data, "--languages=de")
    result = read(evaluate.workdir / "evals" / "zero_shot" / "cifar100-languages-de.json")
    assert list(result["values"]) == ["de", "groups"] and "English prompts" not in result["data"]
    unknown = evaluate.refuse("--task=zero_shot/cifar100", data, "--languages=cs")
    assert "no prompts in cs; languages with prompts: de, fr" in unknown
    labelled[3] = Record("test3", images[3], label=7)
    write(folder / "other" / "test", labelled, "cifar100", "test")
    wrong = ("--task=zero_shot", "--records=other/test", "--prompts=prompts/cifar100", data)
    assert "record 'test3' has label 7, but the prompts have 2 classes" in evaluate.refuse(*wrong)


# --- during training, and from Python -------------------------------------------------------------


class LetterEmbedder:
    """Embeds texts by the counts of their letters, and images by the counts of their bytes."""

    def embed_texts(self, texts):
        rows = [np.bincount([ord(c) % 64 for c in text], minlength=64) for text in texts]
        rows = np.array(rows, np.float32).reshape(-1, 64) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_images(self, encoded):
        return self.embed_texts([data.decode("latin1") for data in encoded])


def test_config_may_evaluate_tasks_and_benchmarks(collection):
    import ml_collections

    config = ml_collections.ConfigDict(
        {
            "terms": {},
            "evaluation": {
                "retrieval": {
                    "records": "scenes/test",
                    "languages": ("en", "de"),
                    "trained": ("en",),
                },
                "bitext/tatoeba": {},
                "consistency/scenes": {"languages": None},
            },
        }
    )
    results = evaluation.make_evaluate(config, str(collection), LetterEmbedder())()
    assert set(results) == {"retrieval", "bitext/tatoeba", "consistency/scenes"}
    assert list(results["retrieval"].values) == ["en", "de"]
    assert results["bitext/tatoeba"].counts["pairs"] == {"deu": 3}
    expected = TASKS["bitext"](LetterEmbedder(), RecordSet.open(collection / "tatoeba" / "test"))
    assert results["bitext/tatoeba"] == expected
    config.evaluation["retrieval/xtd10"] = {}
    with pytest.raises(UserError, match="no record set in .*xtd10/test"):
        evaluation.make_evaluate(config, str(collection), LetterEmbedder())
    del config.evaluation["retrieval/xtd10"]
    config.evaluation["sts"] = {"records": "scenes/test", "languages": ("en",)}
    with pytest.raises(UserError, match="the task 'sts' has no option 'languages'"):
        evaluation.make_evaluate(config, str(collection), LetterEmbedder())
    config.evaluation.sts = {}
    with pytest.raises(UserError, match="'sts' needs records to evaluate on: name their folder"):
        evaluation.make_evaluate(config, str(collection), LetterEmbedder())


def test_benchmarks_name_existing_tasks_and_options():
    for name, benchmark in benchmarks.BENCHMARKS.items():
        assert name.split("/")[0] == benchmark.task and benchmark.task in TASKS
        options = benchmarks.option_names(name)
        assert ("index" in options) == bool(benchmark.index)
        assert ("prompts" in options) == bool(benchmark.prompts)
        assert not {"cache_dir", "model_id", "num_bootstrap", "seed"} & set(options)


def test_results_do_not_share_their_default_intervals():
    first, second = Result("t", "t/v1", {}, {}), Result("t", "t/v1", {}, {})
    first.intervals["x"] = (0, 1)
    assert second.intervals == {}


def test_progress_is_printed():
    lines = []
    embedder = evaluation.ProgressEmbedder(LetterEmbedder(), "mine", lines.append, every=0)
    assert len(embedder.embed_texts(["a", "b"])) == 2 and len(embedder.embed_images([b"c"])) == 1
    assert [re.sub(", .*", "", line) for line in lines] == [
        "mine: 0 of 2 texts",
        "mine: 1 of 2 texts",
        "mine: 0 of 1 images",
    ]


def test_record_set_is_found_in_the_data_dir_or_by_its_path(collection):
    path = str(collection / "tatoeba" / "test")
    for folder in ("tatoeba/test", path):
        assert len(experiment.open_records(folder, str(collection))) == 3


def test_help_needs_no_tensorflow():
    command = [sys.executable, "-X", "importtime", f"{ROOT}/tools/evaluate.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("Evaluates a trained model")
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tf_mural.evaluation" in imported and not {"tensorflow", "keras"} & imported
