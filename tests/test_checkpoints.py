"""Checkpoints: integrity, removal of old files, writing in the background, and the best step."""

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
from tf_mural.nonfinite import scalar_variable
from tf_mural.training import checkpoints, metric_writer
from tf_mural.training.checkpoints import bundle

DESCRIPTION = {"vocabulary_hash": "v"}


class Run:
    """A small model, its optimizer and its checkpoint manager.

    Attributes:
        messages: lines printed by the manager.
    """

    def __init__(self, workdir, **options):
        layers = [keras.Input((2,)), keras.layers.Dense(1, name="top")]
        encoder = keras.Sequential(layers, name="encoder")
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(encoder.trainable_variables)
        self.trainer = types.SimpleNamespace(
            encoder=encoder,
            optimizer=optimizer,
            step=scalar_variable("step", "int32"),
            loss_scale=None,
            snapshot=tf_backend.snapshot,
            snapshot_is_collective=False,
        )
        self.messages = []
        self.manager = checkpoints.CheckpointManager(
            str(workdir), self.trainer, print_fn=self.messages.append, **options
        )
        self.variables = [*encoder.variables, *optimizer.variables]

    def set_state(self, step):
        """Sets all variables to values that encode the step."""
        self.trainer.step.assign(step)
        for i, variable in enumerate(self.variables):
            value = 100 * step + i + np.arange(np.prod(variable.shape)).reshape(variable.shape)
            variable.assign(value.astype(variable.dtype))

    def save(self, *steps):
        """Sets the state of each step and saves it, then waits for the writing to end."""
        for step in steps:
            self.set_state(step)
            self.manager.save(step)
        self.manager.wait_until_finished()

    def read_state(self):
        """Returns the step of the trainer, and checks that all variables encode this step."""
        step = int(self.trainer.step.numpy())
        values = [v.numpy() for v in self.variables]
        self.set_state(step)
        for value, variable in zip(values, self.variables, strict=True):
            np.testing.assert_array_equal(value, variable.numpy())
        return step


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of the steps 10 and 20."""
    run = Run(tmp_path)
    assert not run.manager.restore(DESCRIPTION)
    run.save(10, 20)
    return run


def resume(workdir, **options):
    """Returns a new run that has restored a checkpoint."""
    run = Run(workdir, **options)
    run.set_state(7)
    assert run.manager.restore(DESCRIPTION)
    return run


def fill_disk(folder, block):
    """Writes to a file in `folder` until the disk is full."""
    with pytest.raises(OSError), open(folder / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(block))


# --- files ----------------------------------------------------------------------------------------


def test_resumed_run_has_the_state_of_the_last_checkpoint(run, tmp_path):
    again = resume(tmp_path)
    assert again.read_state() == 20 and again.messages == []
    content = json.loads((tmp_path / "checkpoints" / "step-20.json").read_text())["content"]
    assert (content["step"], content["vocabulary_hash"]) == (20, "v")
    assert content["tensors"]["model/encoder/top/kernel"] == [2, 1]


def parts(workdir, step):
    names = [f"step-{step}.{end}" for end in ("data-00000-of-00001", "index", "json")]
    return [workdir / "checkpoints" / name for name in names]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_flipped_bit_is_detected_and_the_previous_checkpoint_is_used(run, tmp_path, part):
    path = parts(tmp_path, 20)[part]
    content = path.read_bytes()
    again = Run(tmp_path)
    for i in range(len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << (i % 8)
        path.write_bytes(flipped)
        again.messages.clear()
        assert again.manager.restore(DESCRIPTION)
        if again.read_state() == 20:  # the flip changed only white space
            assert json.loads(flipped) == json.loads(content)
            continue
        assert again.read_state() == 10
        (line,) = again.messages
        assert "step-20 is damaged (" in line and line.endswith(": trying the previous checkpoint")


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("kept_share", [0.0, 0.6, None])
def test_truncated_or_missing_file_is_detected(run, tmp_path, part, kept_share):
    path = parts(tmp_path, 20)[part]
    content = path.read_bytes()
    if kept_share is None:
        path.unlink()
    else:
        path.write_bytes(content[: int(kept_share * len(content))])
    again = resume(tmp_path)
    assert again.read_state() == 10 and len(again.messages) == 1 and "step-20" in again.messages[0]
    # The damaged checkpoint can be replaced.
    again.save(20)
    assert resume(tmp_path).read_state() == 20


@pytest.mark.parametrize("part", ["data", "index", "json"])
def test_unreadable_file_does_not_end_the_run(run, tmp_path, monkeypatch, part):
    read, restore = file_io.read_bytes, tf.raw_ops.RestoreV2

    def failing_read(path):
        if path.endswith(f"step-20.{part}"):
            raise OSError(errno.EIO, "Input/output error", path)
        return read(path)

    def failing_restore(prefix, **options):
        # TensorFlow reads the data file and raises its own error.
        if part == "data" and prefix.endswith("step-20"):
            raise tf.errors.UnknownError(None, None, f"{prefix}.data; Input/output error")
        return restore(prefix=prefix, **options)

    monkeypatch.setattr(file_io, "read_bytes", failing_read)
    monkeypatch.setattr(tf.raw_ops, "RestoreV2", failing_restore)
    again = resume(tmp_path)
    assert again.read_state() == 10
    assert "step-20 is damaged (" in again.messages[0] and "Input/output error" in again.messages[0]


def test_tensorflow_detects_every_flipped_bit_of_the_data_but_not_of_the_index(run, tmp_path):
    variables = {"step": run.trainer.step}
    for path, detects_all in zip(parts(tmp_path, 20), (True, False), strict=False):
        content, detected = path.read_bytes(), []
        for i in range(len(content)):
            path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
            try:
                bundle.restore(str(tmp_path / "checkpoints"), 20, run.manager._variables)
                detected.append(False)
            except bundle.CorruptFileError:
                detected.append(True)
        path.write_bytes(content)
        assert any(detected) and all(detected) == detects_all
    bundle.restore(str(tmp_path / "checkpoints"), 20, variables)


def test_temporary_files_of_a_killed_run_are_removed(run, tmp_path):
    (tmp_path / "best").mkdir()
    temporary = [tmp_path / "best" / "weights.npz.0a.tmp", tmp_path / "weights.npz.0b.tmp"]
    kept = tmp_path / "best" / "weights.npz"
    for path in (*temporary, kept):
        path.write_bytes(b"x")
    resume(tmp_path, is_primary=False)
    assert all(path.exists() for path in temporary)
    resume(tmp_path)
    assert kept.exists() and not any(path.exists() for path in temporary)


def test_run_without_an_intact_checkpoint_is_refused(run, tmp_path):
    for step in (10, 20):
        parts(tmp_path, step)[1].write_bytes(b"x")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact \(step-20: .*; step-10: "):
        Run(tmp_path).manager.restore(DESCRIPTION)


def test_run_with_only_an_incomplete_checkpoint_starts_from_the_beginning(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-10.data-00000-of-00001.tempstate123").write_bytes(b"x")
    run = Run(tmp_path)
    assert not run.manager.restore(DESCRIPTION) and "step-10 is incomplete" in run.messages[0]
    assert list(folder.iterdir()) == []


def test_checkpoint_of_another_run_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="step-20 has the vocabulary v, this run has w: restore"):
        Run(tmp_path).manager.restore({"vocabulary_hash": "w"})
    run.manager.restore(DESCRIPTION, {"data": "d1"})
    run.save(30)
    with pytest.raises(UserError, match="step-30 has the records d1, this run has d2"):
        Run(tmp_path).manager.restore(DESCRIPTION, {"elsewhere": "d2"})
    other = Run(tmp_path)
    other.manager._variables["model/more"] = tf.Variable(1.0)
    with pytest.raises(
        UserError, match=r"another model: model/more has shape None in the checkpoint and \[\]"
    ):
        other.manager.restore(DESCRIPTION)


# --- retention ------------------------------------------------------------------------------------


def saved_steps(workdir):
    return sorted({int(p.name.split(".")[0][5:]) for p in workdir.glob("checkpoints/step-*")})


def test_last_checkpoints_and_the_pinned_one_are_kept(tmp_path):
    run = Run(tmp_path, max_to_keep=3)
    run.manager.restore(DESCRIPTION)
    run.save(10, 20)
    run.manager.pinned = 20
    run.save(30, 40, 50, 60)
    assert saved_steps(tmp_path) == [20, 40, 50, 60]
    again = resume(tmp_path, max_to_keep=1)
    again.manager.pinned = 20
    again.save(70)
    assert saved_steps(tmp_path) == [20, 70]


def test_damaged_checkpoint_does_not_count_as_kept(run, tmp_path):
    parts(tmp_path, 20)[0].write_bytes(b"x")
    again = resume(tmp_path, max_to_keep=1)
    again.save(15)
    assert saved_steps(tmp_path) == [15, 20]
    assert resume(tmp_path).read_state() == 15


# --- writing --------------------------------------------------------------------------------------


def test_checkpoint_has_the_state_at_the_call_of_save(run, tmp_path, monkeypatch):
    write, may_write = bundle.write, threading.Event()
    monkeypatch.setattr(bundle, "write", lambda *args: may_write.wait() and write(*args))
    run.set_state(30)
    run.manager.save(30)
    for variable in run.variables:  # the snapshot must not change with the variables
        variable.value.assign_add(tf.ones_like(variable.value))
    run.set_state(31)
    assert saved_steps(tmp_path) == [10, 20]
    may_write.set()
    run.manager.wait_until_finished()
    assert resume(tmp_path).read_state() == 30


def test_pending_checkpoint_is_written_before_an_error_propagates(run, tmp_path, monkeypatch):
    write = bundle.write
    monkeypatch.setattr(bundle, "write", lambda *args: time.sleep(0.3) or write(*args))
    with pytest.raises(ZeroDivisionError), run.manager:
        run.set_state(30)
        run.manager.save(30)
        raise ZeroDivisionError
    assert resume(tmp_path).read_state() == 30


def test_save_in_the_foreground_returns_after_writing(tmp_path):
    run = Run(tmp_path, in_background=False)
    run.manager.restore(DESCRIPTION)
    run.set_state(10)
    run.manager.save(10)
    assert run.manager._thread is None or not run.manager._thread.is_alive()
    assert saved_steps(tmp_path) == [10]


def test_unavailable_file_system_is_a_temporary_failure(run, tmp_path, monkeypatch):
    def failing_save(**options):
        raise tf.errors.UnavailableError(None, None, "the endpoint is busy")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", failing_save)
    with pytest.raises(UserError, match="busy.*did not answer: try again later") as caught:
        run.save(30)
    assert caught.value.exit_code == 75 and saved_steps(tmp_path) == [10, 20]


def test_only_the_primary_process_writes(run, tmp_path):
    other = resume(tmp_path, is_primary=False)
    other.save(30)
    assert other.read_state() == 30 and saved_steps(tmp_path) == [10, 20]


@pytest.mark.parametrize("limit", [8, 200])
def test_file_size_limit_leaves_the_last_checkpoint_intact(run, tmp_path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            UserError, match=r"of step 30 cannot be written .*\(.*too large"
        ) as caught:
            run.save(30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "stopped; last intact checkpoint: step 20. Free some" in str(caught.value)
    with pytest.raises(UserError, match="of step 30"):
        run.manager.check_for_errors()
    assert saved_steps(tmp_path) == [10, 20]
    again = resume(tmp_path)
    assert again.read_state() == 20 and again.messages == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a separate disk with a size of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not permitted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_leaves_the_last_checkpoint_intact(small_disk):
    run = Run(small_disk)
    run.manager.restore(DESCRIPTION)
    run.save(10)
    fill_disk(small_disk, 1 << 12)
    with pytest.raises(UserError, match=r"of step 20 cannot be written .*No space left"):
        run.save(20)
    assert resume(small_disk).read_state() == 10
    (small_disk / "ballast").unlink()
    resume(small_disk).save(20)
    assert resume(small_disk).read_state() == 20


def test_failing_tensorboard_writer_reports_once(small_disk):
    messages = []
    log_dir = str(small_disk / "tensorboard")
    writer = metric_writer.MetricWriter(log_dir, 8, print_fn=messages.append)
    writer.scalars(1, {"loss": 1.0})
    fill_disk(small_disk, 1 << 12)
    for step in range(500):
        writer.scalars(step, {f"loss/{i}": 1.0 for i in range(10)})
    (line,) = messages
    assert line.startswith("TensorBoard events cannot be written (") and "No space left" in line


def test_checkpoints_of_an_earlier_version_are_refused_and_kept(tmp_path):
    run = Run(tmp_path)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(step=run.trainer.step.value),
        str(tmp_path / "checkpoints"),
        max_to_keep=2,
        checkpoint_name="step",
    )
    manager.save(checkpoint_number=3)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match="of an earlier version.*choose another `workdir`"):
        run.manager.restore({"vocabulary_hash": "x"})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


# --- best step ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric, expected",
    [
        ("retrieval/en/ar", (20, 9.0)),
        ("retrieval/*/ar", (30, 5.5)),
        ("-retrieval/en/ar", (10, 1.0)),
        ("", None),
    ],
)
def test_best_step_is_kept_across_restarts(tmp_path, metric, expected):
    numbers = {
        10: {"retrieval/en/ar": 1.0, "retrieval/de/ar": 2.0, "retrieval/en/r1": 50.0},
        20: {"retrieval/en/ar": 9.0, "retrieval/de/ar": 1.0, "retrieval/en/r1": 40.0},
        30: {"retrieval/en/ar": 3.0, "retrieval/de/ar": 8.0, "retrieval/en/r1": 30.0},
        # Steps 30 and 40 have the same values of "retrieval/en/ar" and "retrieval/de/ar".
        40: {"retrieval/en/ar": 3.0, "retrieval/de/ar": 8.0, "retrieval/en/r1": 20.0},
    }
    for step, values in numbers.items():
        tracker = checkpoints.BestStepTracker(str(tmp_path), metric)
        tracker.record(step, values, tracker.is_better(values))
    restarted = checkpoints.BestStepTracker(str(tmp_path), metric)
    assert restarted.last_step == 40
    best = restarted.best and (restarted.best["step"], restarted.best["value"])
    assert best == expected
    # The saved best step does not apply to another metric.
    assert checkpoints.BestStepTracker(str(tmp_path), "sts/en").best is None


def test_repeated_evaluation_of_a_step_does_not_count_in_since_best(tmp_path):
    for _ in range(3):
        tracker = checkpoints.BestStepTracker(str(tmp_path), "ar")
        tracker.record(0, {"ar": 5.0}, tracker.is_better({"ar": 5.0}))
    assert tracker.since_best == 0
    tracker.record(10, {"ar": 4.0}, False)
    assert checkpoints.BestStepTracker(str(tmp_path), "ar").since_best == 1


def test_unknown_metric_is_refused_and_a_damaged_file_is_reported(tmp_path):
    tracker = checkpoints.BestStepTracker(str(tmp_path), "retrieval/em")
    with pytest.raises(UserError, match="'retrieval/em' in .*; did you mean 'retrieval/en'"):
        tracker.is_better({"retrieval/en": 1.0})
    tracker.record(10, {}, False)
    path = tmp_path / "checkpoints" / "evaluations.json"
    path.write_text(path.read_text().replace("10", "11"))
    messages = []
    restarted = checkpoints.BestStepTracker(str(tmp_path), "", print_fn=messages.append)
    assert restarted.last_step == 0
    assert "the best step so far is unknown" in messages[0]


# --- remote file systems --------------------------------------------------------------------------


def test_checkpoints_and_models_on_a_remote_file_system(tmp_path):
    workdir = f"ram://{tmp_path.name}/run"
    run = Run(workdir)
    assert not run.manager.restore(DESCRIPTION)
    run.save(10, 20, 30)
    assert resume(workdir).read_state() == 30
    names = file_io.listdir(f"{workdir}/checkpoints")
    assert len(names) == 6 and not [n for n in names if n.endswith(".tmp")]
    path = f"{workdir}/checkpoints/step-30.index"
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(b"x")
    assert resume(workdir).read_state() == 20

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n")
    arrays = run.trainer.snapshot(checkpoints.variables_by_path(run.trainer.encoder))
    keys = ("model", "images", "vocabulary_size", "vocabulary_hash", "max_tokens")
    description = {**dict.fromkeys(keys), "a": "ä"}
    checkpoints.save_model(f"{workdir}/best", arrays, description, str(vocabulary))
    assert checkpoints.read_model(f"{workdir}/best") == description
    assert file_io.read_bytes(f"{workdir}/best/vocab.txt") == b"[PAD]\n"
    run.set_state(50)
    checkpoints.load_weights(f"{workdir}/best", run.trainer.encoder)
    np.testing.assert_array_equal(run.variables[0].numpy(), [[3000], [3001]])
    with pytest.raises(UserError, match="holds no trained model: model.json"):
        checkpoints.read_model(workdir + "/none")
