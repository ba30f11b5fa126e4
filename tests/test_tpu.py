"""Tests without a TPU what TPUs need: steps do not call the host, and steps can run in a loop."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import trainers
from helpers.color_records import color_dataset
from helpers.comparison import largest_error

from configs import etcl
from tf_mural import experiment, models, optimizers
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError
from tf_mural.training import loop

# XLA calls the host with these instructions.
_HOST_CALLS = re.compile(r"\b(infeed|outfeed|send|recv|custom-call)\(")


def step_and_batch(stage, change=None, **options):
    """Returns the training step of a stage, a callable (batch) -> logs, and a batch.

    Args:
        stage: "mural" or "etcl".
        change: callable that the step applies to the batch first; None: no change.
        **options: further arguments of `trainers.make_trainer`.
    """
    trainer = trainers.make_trainer(stage, dropout=0.1, **options)

    def step(batch):
        return trainer.train_step(change(batch) if change else batch)

    return step, trainers.to_tensors(trainers.make_batch(stage))


def lower(step, batch):
    """Returns the HLO text of a step.

    Raises:
        ValueError: the step contains operations that XLA cannot compile, such as calls to the host.
    """
    compiled = tf.function(step, autograph=False, jit_compile=True)
    return compiled.experimental_get_compiler_ir(batch)(stage="hlo")


BFLOAT16 = dict(precision="mixed_bfloat16", remat=True)
FLOAT16 = dict(precision="mixed_float16", loss_scale=2.0**15, microbatch=2, remat=True)


@pytest.mark.parametrize(
    "stage, options",
    [
        ("etcl", {}),
        pytest.param("mural", {}, marks=pytest.mark.slow),
        pytest.param("etcl", BFLOAT16, marks=pytest.mark.slow),
        pytest.param("etcl", FLOAT16, marks=pytest.mark.slow),
    ],
)
def test_xla_lowers_the_whole_step_without_calls_to_the_host(stage, options):
    text = lower(*step_and_batch(stage, **options))
    assert len(text.splitlines()) > 1000 and "ENTRY" in text
    assert not _HOST_CALLS.findall(text)
    # All shapes must be static. XLA writes dynamic shapes as f32[<=8,16].
    assert "<=" not in text


def with_python_function(batch):
    pixels = tf.numpy_function(lambda x: x, [batch["image"]["pixels"]], tf.uint8)
    pixels = tf.ensure_shape(pixels, batch["image"]["pixels"].shape)
    return {**batch, "image": {**batch["image"], "pixels": pixels}}


def with_strings(batch):
    tokens = tf.strings.to_number(tf.strings.as_string(batch["text_a"]["tokens"]), tf.int32)
    return {**batch, "text_a": {**batch["text_a"], "tokens": tokens}}


@pytest.mark.parametrize(
    "change, op",
    [
        (with_python_function, "PyFunc"),
        pytest.param(with_strings, "AsString", marks=pytest.mark.slow),
    ],
)
def test_xla_refuses_a_step_that_calls_the_host(change, op):
    with pytest.raises(ValueError, match=f"unsupported operations[^$]*{op}"):
        lower(*step_and_batch("etcl", change))


@pytest.mark.slow
def test_xla_lowers_the_step_of_the_paper():
    """Lowers ETCL with EfficientNet-B7 at 289 px, BERT-base and LaBSE's 501,153 tokens.

    The test needs 11 GiB of memory.
    """
    batch_size, config = 2, etcl.get_config("paper")
    config.model.image.virtual_batch_size = batch_size
    description = {
        "model": config.model.to_dict(),
        "vocabulary_size": 501_153,
        "precision": config.precision,
    }
    encoder = models.dual_encoder(**experiment.model_arguments(description))
    assert encoder.count_params() == 532_933_393
    modalities = experiment.field_modalities(config)
    trainer = tf_backend.Trainer(encoder, experiment.make_terms(config), modalities, ("en",))
    optimizer = optimizers.LAMB(1e-4)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    pixels = tf.zeros((batch_size, config.images.crop, config.images.crop, 3), tf.uint8)
    tokens = tf.zeros((batch_size, config.model.text.max_tokens), tf.int32)
    ids = tf.range(batch_size, dtype=tf.int64)
    batch = {
        field: {"id": ids, "pixels": pixels}
        if modality == "image"
        else {"id": ids, "tokens": tokens, "language": tf.zeros((batch_size,), tf.int32)}
        for field, modality in modalities.items()
    }
    text = lower(trainer.train_step, batch)
    assert len(text.splitlines()) > 100_000 and "ENTRY" in text
    assert not _HOST_CALLS.findall(text) and "<=" not in text


# --- the same numbers under XLA -------------------------------------------------------------------


@pytest.fixture
def float64():
    trainers.set_precision("float64")
    yield
    trainers.set_precision("float32")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["etcl", pytest.param("mural", marks=pytest.mark.slow)])
def test_a_step_under_xla_ends_in_the_same_weights(stage, float64):
    changes, logs = {}, {}
    for compiled in (False, True):
        trainer = trainers.make_trainer(stage)
        # The optimizer is SGD, because LAMB would scale gradients that consist only of rounding
        # errors up to updates of full length.
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        trainer.optimizer.build(trainer.encoder.trainable_variables)
        batch = trainers.to_tensors(trainers.make_batch(stage))
        step = tf.function(trainer.train_step, autograph=False, jit_compile=compiled)
        before = trainers.weights_of(trainer)
        logs[compiled] = {name: float(value) for name, value in step(batch).items()}
        after = trainers.weights_of(trainer)
        changes[compiled] = {name: after[name].astype("f8") - before[name] for name in after}
    assert logs[True] == pytest.approx(logs[False], rel=1e-5)
    assert any("moving_mean" in name for name in changes[True])
    error, name = largest_error(changes[False], changes[True])
    assert error < 1e-9, (error, name)


# --- several steps in one loop --------------------------------------------------------------------


class RecordingRun:
    """A metric writer and checkpoint manager that records the calls of its methods."""

    def __init__(self):
        self.logs, self.saved = {}, []

    def start(self, step, steps):
        """See `MetricWriter.start`."""

    def write(self, step, values):
        """See `MetricWriter.write`."""
        self.logs[step] = values

    def save(self, step):
        """See `CheckpointManager.save`."""
        self.saved.append(step)

    def check_for_errors(self):
        """See `CheckpointManager.check_for_errors`."""

    def wait_until_finished(self):
        """See `CheckpointManager.wait_until_finished`."""


def train(folder, steps_per_loop, monkeypatch, dropout=0.2, jit_compile=False):
    """Trains for eleven steps.

    Returns:
        The `RecordingRun`, the weights, and the number of steps of each loop.
    """
    trainer = trainers.make_trainer("etcl", dropout)
    trainer.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    run, counts, plain_run = RecordingRun(), [], tf_backend.Runner.run

    def counting_run(self, count):
        counts.append(count)
        return plain_run(self, count)

    monkeypatch.setattr(tf_backend.Runner, "run", counting_run)
    loop.train(
        trainer,
        tf_backend.Runner(trainer, tf_backend.make_strategy("one"), color_dataset(str(folder))),
        11,
        run,
        run,
        log_every=5,
        checkpoint_every=7,
        steps_per_loop=steps_per_loop,
    )
    return run, trainers.weights_of(trainer), counts


@pytest.mark.slow
def test_steps_in_loops_end_in_the_weights_of_single_steps(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        single, expected, counts = train(tmp_path, 1, patch)
    assert counts == [1] * 11
    with monkeypatch.context() as patch:
        looped, weights, counts = train(tmp_path, 3, patch)
    # Logs are due at the steps 1, 5, 7, 10 and 11, and checkpoints at the steps 7 and 11. A loop
    # must end at each step with logs or a checkpoint.
    assert counts == [1, 3, 1, 2, 3, 1]
    assert looped.saved == single.saved == [7, 11]
    assert list(looped.logs) == list(single.logs) == [1, 5, 7, 10, 11]
    for step, values in single.logs.items():
        assert looped.logs[step] == pytest.approx(values, rel=1e-5, nan_ok=True), step
    # The weights are equal only up to rounding errors, because TensorFlow may fuse operations
    # differently in a loop.
    for name in expected:
        np.testing.assert_allclose(
            weights[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_loops_of_compiled_steps_end_in_the_weights_of_plain_steps(tmp_path, monkeypatch, float64):
    # Dropout is disabled, because XLA draws other dropout masks than TensorFlow.
    with monkeypatch.context() as patch:
        _, expected, _ = train(tmp_path, 1, patch, dropout=0.0)
    with monkeypatch.context() as patch:
        _, weights, counts = train(tmp_path, 3, patch, dropout=0.0, jit_compile=True)
    assert max(counts) == 3
    for name in expected:
        np.testing.assert_allclose(weights[name], expected[name], 1e-6, 1e-9, err_msg=name)


def test_a_missing_tpu_is_refused():
    message = "TPU 'local' is not available .TPUs not found.*TPU VM"
    with pytest.raises(UserError, match=message):
        tf_backend.make_strategy("tpu")
