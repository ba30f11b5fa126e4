"""What can be shown of TPUs without one: a step asks nothing of a host, and steps in loops."""

import functools
import re

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf
from test_distribute import worst

from configs import etcl
from tf_mural import experiment, models, optimizers
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow import trainer as training
from tf_mural.data import input_pipeline, sampling, tokenizers
from tf_mural.errors import UserError
from tf_mural.training import loop

# What XLA lowers a call of the host to.
_CALLS = re.compile(r"\b(infeed|outfeed|send|recv|custom-call)\(")


def step_of(stage, change=None, **options):
    """(step, batch): the whole step of a stage with dropout, as a function."""
    trainer, kinds = replicas.trainer_of(stage, dropout=0.1, **options)
    batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))

    def step(batch):
        return trainer.train_step(change(batch) if change else batch)

    return step, batch


def lowered(step, batch):
    """The step as XLA takes it, which it does not where an operation needs a host."""
    compiled = tf.function(step, autograph=False, jit_compile=True)
    return compiled.experimental_get_compiler_ir(batch)(stage="hlo")


BFLOAT16 = dict(precision="mixed_bfloat16", rematerialised=True)
FLOAT16 = dict(precision="mixed_float16", loss_scale=2.0**15, microbatch=2, rematerialised=True)


@pytest.mark.parametrize(
    "stage, options",
    [
        ("etcl", {}),
        pytest.param("mural", {}, marks=pytest.mark.slow),
        pytest.param("etcl", BFLOAT16, marks=pytest.mark.slow),
        pytest.param("etcl", FLOAT16, marks=pytest.mark.slow),
    ],
)
def test_the_whole_step_is_lowered_by_xla_and_calls_no_host(stage, options):
    text = lowered(*step_of(stage, **options))
    assert len(text.splitlines()) > 1000 and "ENTRY" in text
    assert not _CALLS.findall(text)
    # No size is left open: XLA writes those as f32[<=8,16].
    assert "<=" not in text


def by_python(batch):
    pixels = tf.numpy_function(lambda x: x, [batch["image"]["pixels"]], tf.uint8)
    pixels = tf.ensure_shape(pixels, batch["image"]["pixels"].shape)
    return {**batch, "image": {**batch["image"], "pixels": pixels}}


def by_text(batch):
    tokens = tf.strings.to_number(tf.strings.as_string(batch["text_a"]["tokens"]), tf.int32)
    return {**batch, "text_a": {**batch["text_a"], "tokens": tokens}}


@pytest.mark.parametrize(
    "change, op",
    [(by_python, "PyFunc"), pytest.param(by_text, "AsString", marks=pytest.mark.slow)],
)
def test_a_step_that_asks_the_host_is_not_lowered(change, op):
    with pytest.raises(ValueError, match=f"unsupported operations[^$]*{op}"):
        lowered(*step_of("etcl", change))


@pytest.mark.slow
def test_the_step_of_the_paper_is_lowered_by_xla():
    """ETCL with EfficientNet-B7 at 289 px, BERT-base and LaBSE's 501,153 pieces; 11 GiB."""
    rows, config = 2, etcl.get_config("paper")
    config.model.image.batch_norm_group = rows
    description = {"model": config.model.to_dict(), "vocabulary_size": 501_153}
    encoder = models.dual_encoder(**experiment.model_arguments(description))
    assert encoder.count_params() == 532_933_393
    terms, kinds = experiment.make_terms(config), experiment.field_kinds(config)
    trainer = training.Trainer(encoder, terms, kinds, ("en",))
    optimizer = optimizers.Lamb(1e-4)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    pixels = tf.zeros((rows, config.images.crop, config.images.crop, 3), tf.uint8)
    tokens = tf.zeros((rows, config.model.text.max_tokens), tf.int32)
    numbers = tf.range(rows, dtype=tf.int64)
    batch = {
        field: {"id": numbers, "pixels": pixels}
        if kind == "image"
        else {"id": numbers, "tokens": tokens, "language": tf.zeros((rows,), tf.int32)}
        for field, kind in kinds.items()
    }
    text = lowered(trainer.train_step, batch)
    assert len(text.splitlines()) > 100_000 and "ENTRY" in text
    assert not _CALLS.findall(text) and "<=" not in text


# --- the same numbers under XLA -------------------------------------------------------------------


@pytest.fixture
def float64():
    replicas.set_precision("float64")
    yield
    replicas.set_precision("float32")


@pytest.mark.parametrize("stage", ["etcl", pytest.param("mural", marks=pytest.mark.slow)])
def test_the_whole_step_under_xla_ends_in_the_same_weights(stage, float64):
    ends, logs = {}, {}
    for compiled in (False, True):
        trainer, kinds = replicas.trainer_of(stage)
        # SGD: LAMB makes whole steps out of the rounding that is all there is to some gradients.
        trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        trainer.optimizer.build(trainer.encoder.trainable_variables)
        batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))
        step = tf.function(trainer.train_step, autograph=False, jit_compile=compiled)
        before = {v.path: v.numpy() for v in trainer.encoder.variables if "seed" not in v.path}
        logs[compiled] = {name: float(value) for name, value in step(batch).items()}
        after = {v.path: v.numpy() for v in trainer.encoder.variables if "seed" not in v.path}
        ends[compiled] = {name: after[name].astype("f8") - before[name] for name in after}
    assert logs[True] == pytest.approx(logs[False], rel=1e-5)
    assert any("moving_mean" in name for name in ends[True])
    error, name = worst(ends[False], ends[True])
    assert error < 1e-9, (error, name)


# --- several steps in one loop --------------------------------------------------------------------


class Kept:
    """A log, and checkpoints, that keep what they are told."""

    def __init__(self):
        self.logs, self.saved = {}, []

    def start(self, step, steps):
        """As `loop.Log.start`."""

    def write(self, step, values):
        """As `loop.Log.write`."""
        self.logs[step] = values

    def save(self, step):
        """As `Checkpoints.save`."""
        self.saved.append(step)

    def check(self):
        """As `Checkpoints.check`."""

    def wait(self):
        """As `Checkpoints.wait`."""


def trained(folder, steps_per_loop, monkeypatch, dropout=0.2, jit_compile=False):
    """(what was kept, weights, how many steps each loop had) of eleven steps."""
    record_set = replicas.records_of_colours(str(folder))
    stream = sampling.Stream([record_set], 2, replicas.LANGUAGES, walk="combinations")
    words = ["x", *(f"w{i}" for i in range(16))]
    make_dataset = functools.partial(
        input_pipeline.training_dataset,
        [input_pipeline.Source(stream, replicas.STAGES["etcl"][0])],
        tokenizers.Tokenizer([*tokenizers.SPECIAL_TOKENS, *words], 6),
        input_pipeline.Sizes(36, 32),
        replicas.LANGUAGES,
        replicas.ROWS,
    )
    trainer, _ = replicas.trainer_of("etcl", dropout)
    trainer.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    kept, counts, run = Kept(), [], tf_backend.Runner.run

    def counted(self, count):
        counts.append(count)
        return run(self, count)

    monkeypatch.setattr(tf_backend.Runner, "run", counted)
    loop.train(
        trainer,
        tf_backend.Runner(trainer, tf_backend.make_strategy("one"), make_dataset),
        11,
        kept,
        kept,
        log_every=5,
        checkpoint_every=7,
        steps_per_loop=steps_per_loop,
    )
    weights = {v.path: v.numpy() for v in trainer.encoder.variables if "seed" not in v.path}
    return kept, weights, counts


def test_steps_in_loops_end_in_the_weights_of_single_steps(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        one, expected, counts = trained(tmp_path / "colours", 1, patch)
    assert counts == [1] * 11
    with monkeypatch.context() as patch:
        several, weights, counts = trained(tmp_path / "colours", 3, patch)
    # Logs at 1, 5, 7, 10 and 11, checkpoints at 7 and 11: no loop runs past one of them.
    assert counts == [1, 3, 1, 2, 3, 1]
    assert several.saved == one.saved == [7, 11]
    assert list(several.logs) == list(one.logs) == [1, 5, 7, 10, 11]
    for step, values in one.logs.items():
        assert several.logs[step] == pytest.approx(values, rel=1e-5, nan_ok=True), step
    # To rounding: TensorFlow may fuse a step in a loop otherwise.
    for name in expected:
        np.testing.assert_allclose(
            weights[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_loops_of_compiled_steps_end_in_the_weights_of_plain_ones(tmp_path, monkeypatch, float64):
    with monkeypatch.context() as patch:
        _, expected, _ = trained(tmp_path / "colours", 1, patch, dropout=0.0)
    with monkeypatch.context() as patch:
        # XLA draws other dropout.
        _, weights, counts = trained(tmp_path / "colours", 3, patch, 0.0, jit_compile=True)
    assert max(counts) == 3
    for name in expected:
        np.testing.assert_allclose(weights[name], expected[name], 1e-6, 1e-9, err_msg=name)


def test_a_tpu_that_is_not_there():
    with pytest.raises(UserError, match="no TPU 'local' is to be had .TPUs not found.*TPU VM"):
        tf_backend.make_strategy("tpu")
