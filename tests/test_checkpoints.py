"""Checkpoints on disk: whole or not, damaged, kept, written in the background; the best step."""

import errno
import json
import resource
import subprocess
import threading
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mural import file_io
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError
from tf_mural.nonfinite import scalar
from tf_mural.training import checkpoints, metric_writer
from tf_mural.training.checkpoints import bundle

ABOUT = {"vocabulary_hash": "v"}


class Run:
    """A small model and its optimizer, at any step, and what was said of its checkpoints."""

    def __init__(self, workdir, **options):
        layers = [keras.Input((2,)), keras.layers.Dense(1, name="top")]
        encoder = keras.Sequential(layers, name="encoder")
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(encoder.trainable_variables)
        self.trainer = types.SimpleNamespace(
            encoder=encoder,
            optimizer=optimizer,
            step=scalar("step", "int32"),
            loss_scale=None,
            snapshot=tf_backend.snapshot,
            collective=False,
        )
        self.said = []
        self.saved = checkpoints.Checkpoints(
            str(workdir), self.trainer, say=self.said.append, **options
        )
        self.variables = [*encoder.variables, *optimizer.variables]

    def stand(self, step):
        """Gives every variable values that tell the step."""
        self.trainer.step.assign(step)
        for i, variable in enumerate(self.variables):
            value = 100 * step + i + np.arange(np.prod(variable.shape)).reshape(variable.shape)
            variable.assign(value.astype(variable.dtype))

    def save(self, *steps):
        """Saves each of these steps, and waits."""
        for step in steps:
            self.stand(step)
            self.saved.save(step)
        self.saved.wait()

    def stands(self):
        """The step that all variables tell."""
        step = int(self.trainer.step.numpy())
        values = [v.numpy() for v in self.variables]
        self.stand(step)
        for value, variable in zip(values, self.variables, strict=True):
            np.testing.assert_array_equal(value, variable.numpy())
        return step


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of the steps 10 and 20."""
    run = Run(tmp_path)
    assert not run.saved.restore(ABOUT)
    run.save(10, 20)
    return run


def resumed(workdir, **options):
    """A run that goes on; it starts from values of its own."""
    run = Run(workdir, **options)
    run.stand(7)
    assert run.saved.restore(ABOUT)
    return run


# --- what is on disk ------------------------------------------------------------------------------


def test_a_run_stands_where_the_last_checkpoint_was(run, tmp_path):
    again = resumed(tmp_path)
    assert again.stands() == 20 and again.said == []
    content = json.loads((tmp_path / "checkpoints" / "step-20.json").read_text())["content"]
    assert (content["step"], content["vocabulary_hash"]) == (20, "v")
    assert content["tensors"]["model/encoder/top/kernel"] == [2, 1]


def parts(workdir, step):
    names = [f"step-{step}.{end}" for end in ("data-00000-of-00001", "index", "json")]
    return [workdir / "checkpoints" / name for name in names]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_flipped_bit_anywhere_is_noticed_and_the_one_before_is_used(run, tmp_path, part):
    path = parts(tmp_path, 20)[part]
    content = path.read_bytes()
    again = Run(tmp_path)
    for i in range(len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << (i % 8)
        path.write_bytes(flipped)
        again.said.clear()
        assert again.saved.restore(ABOUT)
        if again.stands() == 20:  # white space of JSON may turn into other white space
            assert json.loads(flipped) == json.loads(content)
            continue
        assert again.stands() == 10
        (line,) = again.said
        assert "step-20 is damaged (" in line and line.endswith(": taking the one before it")


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("left", [0.0, 0.6, None])
def test_a_file_cut_short_or_lost_is_noticed(run, tmp_path, part, left):
    path = parts(tmp_path, 20)[part]
    content = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(content[: int(left * len(content))])
    again = resumed(tmp_path)
    assert again.stands() == 10 and len(again.said) == 1 and "step-20" in again.said[0]
    # It is written anew, and then is a good one.
    again.save(20)
    assert resumed(tmp_path).stands() == 20


@pytest.mark.parametrize("part", ["data", "index", "json"])
def test_a_file_that_the_disk_cannot_read_is_no_end(run, tmp_path, monkeypatch, part):
    read, restore = file_io.read_bytes, tf.raw_ops.RestoreV2

    def reads(path):
        if path.endswith(f"step-20.{part}"):
            raise OSError(errno.EIO, "Input/output error", path)
        return read(path)

    def restores(prefix, **rest):
        if part == "data" and prefix.endswith("step-20"):  # as TensorFlow says it
            raise tf.errors.UnknownError(None, None, f"{prefix}.data; Input/output error")
        return restore(prefix=prefix, **rest)

    monkeypatch.setattr(file_io, "read_bytes", reads)
    monkeypatch.setattr(tf.raw_ops, "RestoreV2", restores)
    again = resumed(tmp_path)
    assert again.stands() == 10
    assert "step-20 is damaged (" in again.said[0] and "Input/output error" in again.said[0]


def test_tensorflow_itself_notices_every_bit_of_the_data_but_not_of_the_index(run, tmp_path):
    variables = {"step": run.trainer.step}
    for path, all_noticed in zip(parts(tmp_path, 20), (True, False), strict=False):
        content, noticed = path.read_bytes(), []
        for i in range(len(content)):
            path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
            try:
                bundle.restore(str(tmp_path / "checkpoints"), 20, run.saved._variables)
                noticed.append(False)
            except bundle.sealed.Damaged:
                noticed.append(True)
        path.write_bytes(content)
        assert any(noticed) and all(noticed) == all_noticed
    bundle.restore(str(tmp_path / "checkpoints"), 20, variables)


def test_what_a_kill_left_of_a_model_is_removed(run, tmp_path):
    (tmp_path / "best").mkdir()
    left = [tmp_path / "best" / "weights.npz.0a.tmp", tmp_path / "weights.npz.0b.tmp"]
    kept = tmp_path / "best" / "weights.npz"
    for path in (*left, kept):
        path.write_bytes(b"x")
    resumed(tmp_path, writes=False)
    assert all(path.exists() for path in left)
    resumed(tmp_path)
    assert kept.exists() and not any(path.exists() for path in left)


def test_none_is_whole(run, tmp_path):
    for step in (10, 20):
        parts(tmp_path, step)[1].write_bytes(b"x")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole \(step-20: .*; step-10: "):
        Run(tmp_path).saved.restore(ABOUT)


def test_a_first_one_that_was_cut_short_is_a_fresh_start(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-10.data-00000-of-00001.tempstate123").write_bytes(b"x")
    run = Run(tmp_path)
    assert not run.saved.restore(ABOUT) and "step-10 was cut short" in run.said[0]
    assert list(folder.iterdir()) == []


def test_a_checkpoint_of_something_else_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="step-20 is of vocabulary v, this run has w: put back"):
        Run(tmp_path).saved.restore({"vocabulary_hash": "w"})
    run.saved.restore(ABOUT, {"data": "d1"})
    run.save(30)
    with pytest.raises(UserError, match="step-30 is of records d1, this run has d2"):
        Run(tmp_path).saved.restore(ABOUT, {"elsewhere": "d2"})
    other = Run(tmp_path)
    other.saved._variables["model/more"] = tf.Variable(1.0)
    with pytest.raises(UserError, match=r"another model: model/more has shape None there and \[\]"):
        other.saved.restore(ABOUT)


# --- which ones stay ------------------------------------------------------------------------------


def steps(workdir):
    return sorted({int(p.name.split(".")[0][5:]) for p in workdir.glob("checkpoints/step-*")})


def test_the_last_ones_stay_and_the_pinned_one(tmp_path):
    run = Run(tmp_path, keep=3)
    run.saved.restore(ABOUT)
    run.save(10, 20)
    run.saved.pinned = 20
    run.save(30, 40, 50, 60)
    assert steps(tmp_path) == [20, 40, 50, 60]
    again = resumed(tmp_path, keep=1)
    again.saved.pinned = 20
    again.save(70)
    assert steps(tmp_path) == [20, 70]


def test_a_damaged_one_does_not_count_among_those_that_stay(run, tmp_path):
    parts(tmp_path, 20)[0].write_bytes(b"x")
    again = resumed(tmp_path, keep=1)
    again.save(15)
    assert steps(tmp_path) == [15, 20]
    assert resumed(tmp_path).stands() == 15


# --- writing --------------------------------------------------------------------------------------


def test_what_is_written_is_what_was_when_save_was_called(run, tmp_path, monkeypatch):
    write, go_on = bundle.write, threading.Event()
    monkeypatch.setattr(bundle, "write", lambda *args: go_on.wait() and write(*args))
    run.stand(30)
    run.saved.save(30)
    for variable in run.variables:  # in place, which must not reach the values that are kept
        variable.value.assign_add(tf.ones_like(variable.value))
    run.stand(31)
    assert steps(tmp_path) == [10, 20]
    go_on.set()
    run.saved.wait()
    assert resumed(tmp_path).stands() == 30


def test_what_was_begun_is_written_before_an_error_goes_on(run, tmp_path, monkeypatch):
    write = bundle.write
    monkeypatch.setattr(bundle, "write", lambda *args: time.sleep(0.3) or write(*args))
    with pytest.raises(ZeroDivisionError), run.saved:
        run.stand(30)
        run.saved.save(30)
        raise ZeroDivisionError
    assert resumed(tmp_path).stands() == 30


def test_in_the_foreground_save_returns_once_it_is_written(tmp_path):
    run = Run(tmp_path, in_background=False)
    run.saved.restore(ABOUT)
    run.stand(10)
    run.saved.save(10)
    assert run.saved._thread is None or not run.saved._thread.is_alive()
    assert steps(tmp_path) == [10]


def test_a_file_system_that_does_not_answer_is_to_be_tried_again(run, tmp_path, monkeypatch):
    def saves(**options):
        raise tf.errors.UnavailableError(None, None, "the endpoint is busy")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", saves)
    with pytest.raises(UserError, match="busy.*did not answer: later the same command") as told:
        run.save(30)
    assert told.value.exit_code == 75 and steps(tmp_path) == [10, 20]


def test_only_the_process_that_writes_does(run, tmp_path):
    other = resumed(tmp_path, writes=False)
    other.save(30)
    assert other.stands() == 30 and steps(tmp_path) == [10, 20]


@pytest.mark.parametrize("limit", [8, 200])
def test_a_full_disk_leaves_the_last_one_and_says_so(run, tmp_path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            UserError, match=r"of step 30 cannot be written .*\(.*too large"
        ) as told:
            run.save(30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "stopped; the last whole one is that of step 20. Make room" in str(told.value)
    with pytest.raises(UserError, match="of step 30"):
        run.saved.check()
    assert steps(tmp_path) == [10, 20]
    again = resumed(tmp_path)
    assert again.stands() == 20 and again.said == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not permitted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    run = Run(small_disk)
    run.saved.restore(ABOUT)
    run.save(10)
    block = 1 << 12
    with pytest.raises(OSError), open(small_disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(block))
    with pytest.raises(UserError, match=r"of step 20 cannot be written .*No space left"):
        run.save(20)
    assert resumed(small_disk).stands() == 10
    (small_disk / "ballast").unlink()
    resumed(small_disk).save(20)
    assert resumed(small_disk).stands() == 20


def test_events_on_a_full_disk_are_told_of_once(small_disk):
    said = []
    log = metric_writer.Log(str(small_disk / "tensorboard"), 8, show=said.append)
    log.scalars(1, {"loss": 1.0})
    with pytest.raises(OSError), open(small_disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    for step in range(500):
        log.scalars(step, {f"loss/{i}": 1.0 for i in range(10)})
    (line,) = said
    assert line.startswith("TensorBoard's events cannot be written (") and "No space left" in line


def test_checkpoints_of_an_earlier_version_are_refused_and_stay(tmp_path):
    run = Run(tmp_path)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(step=run.trainer.step.value),
        str(tmp_path / "checkpoints"),
        max_to_keep=2,
        checkpoint_name="step",
    )
    manager.save(checkpoint_number=3)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match="of an earlier version.*choose another --workdir"):
        run.saved.restore({"vocabulary_hash": "x"})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


# --- the best step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric, expected",
    [
        ("retrieval/en/ar", (20, 9.0)),
        ("retrieval/*/ar", (30, 5.5)),
        ("-retrieval/en/ar", (10, 1.0)),
        ("", None),
    ],
)
def test_the_best_step_is_known_across_restarts(tmp_path, metric, expected):
    numbers = {
        10: {"retrieval/en/ar": 1.0, "retrieval/de/ar": 2.0, "retrieval/en/r1": 50.0},
        20: {"retrieval/en/ar": 9.0, "retrieval/de/ar": 1.0, "retrieval/en/r1": 40.0},
        30: {"retrieval/en/ar": 3.0, "retrieval/de/ar": 8.0, "retrieval/en/r1": 30.0},
        40: {"retrieval/en/ar": 3.0, "retrieval/de/ar": 8.0, "retrieval/en/r1": 20.0},  # a tie
    }
    for step, values in numbers.items():
        evaluations = checkpoints.Evaluations(str(tmp_path), metric)
        evaluations.note(step, values, evaluations.better(values))
    told = checkpoints.Evaluations(str(tmp_path), metric)
    assert told.last == 40
    best = told.best and (told.best["step"], told.best["value"])
    assert best == expected
    assert checkpoints.Evaluations(str(tmp_path), "sts/en").best is None  # another metric


def test_restarts_before_a_first_step_do_not_count_as_evaluations_without_a_better_one(tmp_path):
    for _ in range(3):
        evaluations = checkpoints.Evaluations(str(tmp_path), "ar")
        evaluations.note(0, {"ar": 5.0}, evaluations.better({"ar": 5.0}))
    assert evaluations.since_best == 0
    evaluations.note(10, {"ar": 4.0}, False)
    assert checkpoints.Evaluations(str(tmp_path), "ar").since_best == 1


def test_an_unknown_metric_and_a_damaged_file_are_told(tmp_path):
    evaluations = checkpoints.Evaluations(str(tmp_path), "retrieval/em")
    with pytest.raises(UserError, match="'retrieval/em' in .*; did you mean 'retrieval/en'"):
        evaluations.better({"retrieval/en": 1.0})
    evaluations.note(10, {}, False)
    path = tmp_path / "checkpoints" / "evaluations.json"
    path.write_text(path.read_text().replace("10", "11"))
    said = []
    assert checkpoints.Evaluations(str(tmp_path), "", say=said.append).last == 0
    assert "which step was the best is forgotten" in said[0]


# --- remote file systems --------------------------------------------------------------------------


def test_checkpoints_and_models_on_a_remote_file_system(tmp_path):
    workdir = f"ram://{tmp_path.name}/run"
    run = Run(workdir)
    assert not run.saved.restore(ABOUT)
    run.save(10, 20, 30)
    assert resumed(workdir).stands() == 30
    names = file_io.names(f"{workdir}/checkpoints")
    assert len(names) == 6 and not [n for n in names if n.endswith(".tmp")]
    path = f"{workdir}/checkpoints/step-30.index"
    with file_io.open_file(path, "wb") as file:
        file.write(b"x")
    assert resumed(workdir).stands() == 20

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n")
    arrays = run.trainer.snapshot(checkpoints.by_path(run.trainer.encoder))
    words = ("model", "images", "vocabulary_size", "vocabulary_hash", "max_tokens")
    description = {**dict.fromkeys(words), "a": "ä"}
    checkpoints.save_model(f"{workdir}/best", arrays, description, str(vocabulary))
    assert checkpoints.read_model(f"{workdir}/best") == description
    assert file_io.read_bytes(f"{workdir}/best/vocab.txt") == b"[PAD]\n"
    run.stand(50)
    checkpoints.load_weights(f"{workdir}/best", run.trainer.encoder)
    np.testing.assert_array_equal(run.variables[0].numpy(), [[3000], [3001]])
    with pytest.raises(UserError, match="holds no trained model: model.json"):
        checkpoints.read_model(workdir + "/none")
