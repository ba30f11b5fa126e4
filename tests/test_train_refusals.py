"""What tools/train.py refuses: one line that says what to do, exit code 2, no traceback."""

import json
import re
import subprocess
import sys
import time

import options
import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--stage=etlc", "unknown stage 'etlc'; known: align, .*; did you mean 'etcl'"),
        ("--size=huge", "unknown size 'huge'; known: tiny, b3_mini, paper"),
        ("--config.optimizer.learning_rat=1", "no such value; did you mean .*r.learning_rate'"),
        ("--config.steps=many", "--config.steps: expected a whole number like 180, got 'many'"),
        ("--config=nowhere.py", "no config file 'nowhere.py'"),
        ("--stge=etcl", r"no flag --stge; did you mean 'stage'\? \(--help lists the flags\)"),
        ("--seed=one", "flag --seed=one: .*--help lists the flags"),
        ("etcl", "unexpected argument 'etcl'; flags are written --name=value"),
        ("--strategy=gpu", "unknown strategy 'gpu'; known: auto, one, mirrored, multiworker, tpu"),
        ("--strategy=multiworker", "expected TF_CONFIG in the environment of each process"),
        ("--strategy=tpu", "no TPU 'local' is to be had"),
    ],
)
def test_a_flag_that_cannot_be(train, argument, message):
    assert re.search(message, train(argument).error())


def test_etcl_at_another_size_says_what_to_start_from(train):
    message = train("--stage=etcl", "--size=b3_mini").error()
    assert "stage etcl starts from the weights of mural: give --init=<workdir of a" in message
    assert "runs/b3_mini/mural-s0" in message


def test_missing_data_are_named_with_their_folder(train, data_dir):
    message = train("--stage=align", "--size=b3_mini").error()
    assert f"no vocabulary 'labse/vocab.txt', nor {data_dir}/labse/vocab.txt" in message
    assert "--config.vocabulary" in message
    message = train("--stage=align", "--size=b3_mini", "--config.vocabulary=scenes").error()
    assert f"no record set in {data_dir}/cc3m/train" in message and "tools/convert.py" in message


@pytest.mark.parametrize(
    "argument, message",
    [
        (
            "--config.sources.captions.languages=dee",
            r"unknown language \(of the source 'captions'\) 'dee'; known: .*did you mean 'de'",
        ),
        (
            "--config.evaluation.retrieval.languages=en,xx",
            r"unknown language \(of .*scenes/test\) 'xx'; known: cs, de",
        ),
        ("--config.evaluation.retrieval.records=scenes/val", "no record set in .*scenes/val"),
        ("--config.sources.captions.records=scenes/bitext", "scenes/bitext has no images, but"),
        ("--config.sources.captions.weights=1,2", "has 1 record sets and weights .1, 2.: exp"),
        ("--config.terms.image_caption.loss=hinge", "unknown loss .* 'hinge'; known: contrastive"),
    ],
)
def test_a_config_that_does_not_fit_the_data(train, argument, message):
    # Were it not refused, it would be trained.
    quick = ("--config.batch_size=2", "--config.steps=1", "--config.optimizer.warmup_steps=0")
    done = train("--stage=align", *quick, argument)
    assert re.search(message, done.error()) and "step 1/1" not in done.out


def test_a_workdir_of_another_config(train, tmp_path):
    config = options.load_config("align", "tiny")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    message = train("--stage=align", "--workdir=run", "--config.batch_size=64").error()
    assert message.startswith("run holds a run of another config: batch_size is 128 there and 64")
    assert "choose another --workdir" in message and "--accept_changes goes on" in message


def test_weights_to_start_from_that_are_not_there(train):
    message = train("--stage=etcl", "--init=nowhere", "--config.batch_size=8").error()
    assert message.startswith("nowhere holds no trained model: model.json, weights.npz, vocab.txt")


def test_help_is_quick_and_needs_no_tensorflow():
    command = [sys.executable, "-X", "importtime", f"{ROOT}/tools/train.py", "--help"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 20  # TensorFlow alone takes longer on a busy machine
    assert done.returncode == 0
    assert done.stdout.startswith("Trains a stage: python tools/train.py --stage=etcl\n")
    flags = ["stage", "size", "config", "workdir", "init", "seed", "strategy", "tpu", "data_dir"]
    assert set(flags) <= set(re.findall(r"^  --(\w+): \w", done.stdout, re.MULTILINE))
    assert "--config.optimizer.learning_rate=1e-4" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tf_mural.errors" in imported and not {"tensorflow", "keras"} & imported
