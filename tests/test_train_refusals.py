"""User errors of tools/train.py: one line that says what to do, exit code 2, no traceback."""

import json
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from tf_mural.cli import train as train_command
from tf_mural.cli.error_lines import with_flags
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading


@pytest.fixture
def refusal(data_dir, tmp_path, monkeypatch):
    """A function that runs tools/train.py in this process, and returns the message of the error."""

    def message_of(*arguments):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError) as error:
            train_command.main([f"--data_dir={data_dir}", *arguments])
        message = with_flags(str(error.value))
        assert "\n" not in message and getattr(error.value, "exit_code", 2) == 2
        return message

    return message_of


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
        ("--strategy=tpu", "TPU 'local' is not available"),
    ],
)
def test_wrong_flags_are_named(refusal, argument, message):
    assert re.search(message, refusal(argument))


def test_user_error_of_the_command_is_one_line(train):
    message = train("--stage=etlc").error()
    assert message.startswith("unknown stage 'etlc'")


def test_etcl_at_other_sizes_requires_initial_weights(refusal):
    message = refusal("--stage=etcl", "--size=b3_mini", "--strategy=one")
    assert "stage etcl starts from the weights of mural: give --init, the workdir of a" in message
    assert "runs/b3_mini/mural-s0" in message


def test_missing_data_are_named_with_their_folder(refusal, data_dir):
    arguments = ("--stage=align", "--size=b3_mini", "--strategy=one", "--workdir=run")
    message = refusal(*arguments)
    assert f"no vocabulary 'labse/vocab.txt', nor {data_dir}/labse/vocab.txt" in message
    assert "--config.vocabulary" in message
    message = refusal(*arguments, "--config.vocabulary=scenes")
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
        ("--config.sources.captions.languages=", "captions.languages is empty: expected codes, or"),
        ("--config.terms.image_caption.loss=hinge", "unknown loss .* 'hinge'; known: contrastive"),
    ],
)
def test_config_that_contradicts_the_data_is_refused(refusal, capsys, argument, message):
    # If the config were accepted, the command would train for one step.
    quick = ("--config.batch_size=2", "--config.steps=1", "--config.optimizer.warmup_steps=0")
    assert re.search(message, refusal("--stage=align", "--strategy=one", *quick, argument))
    assert "step 1/1" not in capsys.readouterr().out


def test_workdir_of_another_config_is_refused(refusal, tmp_path):
    config = config_loading.load_config("align", "tiny")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    arguments = ("--stage=align", "--strategy=one", "--workdir=run")
    message = refusal(*arguments, "--config.batch_size=64")
    assert message.startswith("run holds a run of another config: batch_size is 128 there and 64")
    assert "choose another --workdir" in message and "--allow_config_changes continues" in message


def test_missing_initial_weights_are_named(refusal):
    message = refusal("--stage=etcl", "--strategy=one", "--init=nowhere", "--config.batch_size=8")
    assert message.startswith("nowhere holds no trained model: model.json, weights.npz, vocab.txt")


@pytest.mark.parametrize("init", ["nowhere", "hf:./nowhere"])
def test_wrong_initial_weights_are_refused_before_records_are_made(refusal, tmp_path, init):
    arguments = ("--stage=etcl", "--strategy=one", "--config.batch_size=8")
    message = refusal(*arguments, f"--init={init}", f"--data_dir={tmp_path / 'data'}")
    assert "nowhere" in message
    assert not (tmp_path / "data").exists()


def test_help_is_quick_and_needs_no_tensorflow():
    command = [sys.executable, "-X", "importtime", f"{ROOT}/tools/train.py", "--help"]
    start_time = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # Importing TensorFlow would take longer than 20 s on a busy machine.
    assert time.monotonic() - start_time < 20
    assert done.returncode == 0
    assert done.stdout.startswith("Trains a stage: python tools/train.py --stage=etcl\n")
    flags = ["stage", "size", "config", "workdir", "init", "seed", "strategy", "tpu", "data_dir"]
    assert set(flags) <= set(re.findall(r"^  --(\w+): \w", done.stdout, re.MULTILINE))
    assert "--config.optimizer.learning_rate=1e-4" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tf_mural.errors" in imported and not {"tensorflow", "keras"} & imported
