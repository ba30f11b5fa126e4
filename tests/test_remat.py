"""Tests that gradient checkpointing changes no gradients, moving averages or dropout masks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import trainers
from helpers.comparison import largest_error
from helpers.microbatches import MICROBATCH

from tf_mural.training import checkpoints


@pytest.fixture(scope="module", autouse=True)
def float64():
    trainers.set_precision("float64")
    yield
    trainers.set_precision("float32")


def trainer_and_batch(dropout=0.3, **options):
    batch = trainers.to_tensors(trainers.make_batch("etcl"))
    return trainers.make_trainer("etcl", dropout, **options), batch


def compute_gradients(trainer, batch, graph=False, jit_compile=False):
    """Returns {path: gradient}.

    By default, the step runs eagerly, because tracing a graph takes longer than the step.
    """
    step = trainer.core.compute_gradients
    if graph:
        step = tf.function(step, autograph=False, jit_compile=jit_compile)
    return trainers.gradients_by_path(trainer, step(batch)[0])


@pytest.fixture(
    scope="module",
    params=[None, pytest.param(MICROBATCH, marks=pytest.mark.slow)],
    ids=["full batch", "micro-batches"],
)
def plain(request):
    """Returns micro-batch size, gradients and moving averages of a step that stores activations."""
    trainer, batch = trainer_and_batch(microbatch=request.param)
    before = trainers.moving_averages(trainer)
    gradients = compute_gradients(trainer, batch, graph=True)
    averages = trainers.moving_averages(trainer)
    assert all(np.abs(averages[path] - before[path]).max() > 1e-6 for path in before)
    return request.param, gradients, averages


@pytest.mark.parametrize("graph", [False, True])
def test_gradients_and_averages_equal_those_of_the_plain_step(plain, graph):
    microbatch, expected, averages = plain
    trainer, batch = trainer_and_batch(microbatch=microbatch, remat=True)
    assert largest_error(expected, compute_gradients(trainer, batch, graph))[0] < 1e-10
    for path, value in trainers.moving_averages(trainer).items():
        np.testing.assert_allclose(value, averages[path], rtol=1e-12, err_msg=path)


def test_only_the_blocks_of_both_towers_run_twice():
    op_types = ("DepthwiseConv2dNative", "Softmax", "Conv2D")
    counts = []
    for remat in (False, True):
        trainer, batch = trainer_and_batch(remat=remat)
        step = tf.function(trainer.core.compute_gradients, autograph=False)
        graph = step.get_concrete_function(batch).graph
        types = [op.type for op in graph.get_operations()]
        counts.append([types.count(op_type) for op_type in op_types])
    blocks = [block.name for block in trainer.encoder.remat_blocks]
    assert blocks == ["stage_1", "stage_2", "transformer_layer_0"]
    # All convolutions are in blocks and run twice. Of the softmaxes, only that of the transformer
    # layer runs twice; those of the losses run once.
    plain, remat = counts
    assert remat[0] == 2 * plain[0] and remat[2] == 2 * plain[2] and remat[1] == plain[1] + 1


def test_inference_does_not_change():
    trainer, batch = trainer_and_batch(remat=True)
    plain, _ = trainer_and_batch()
    before = trainers.moving_averages(trainer)
    for expected, actual in zip(
        plain.core.encode(batch, training=False).values(),
        trainer.core.encode(batch, training=False).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)
    averages = trainers.moving_averages(trainer)
    assert all((value == before[path]).all() for path, value in averages.items())


def test_the_averages_of_a_frozen_tower_do_not_change():
    results = []
    for remat in (False, True):
        trainer, batch = trainer_and_batch(remat=remat)
        trainer.encoder.towers["image"].trainable = False
        before = trainers.moving_averages(trainer)
        results.append(compute_gradients(trainer, batch))
        assert not any("block" in name for name in results[-1])
        averages = trainers.moving_averages(trainer)
        assert all((value == before[path]).all() for path, value in averages.items())
    assert largest_error(*results)[0] < 1e-10


_StatelessScope = keras.StatelessScope


class _LeakingScope(_StatelessScope):
    """A faulty scope, in which the recomputation updates the moving averages a second time."""

    def __init__(self, mapping):
        super().__init__((v, v._value if "/moving_" in v.path else x) for v, x in mapping)
        self.variables = [v for v, _ in mapping if "/moving_" in v.path]

    def __exit__(self, *error):
        super().__exit__(*error)
        for variable in self.variables:
            variable.assign(self.get_current_value(variable))


def _scope_with_other_masks(mapping):
    return _StatelessScope((v, x + 1 if "seed_generator" in v.path else x) for v, x in mapping)


@pytest.mark.parametrize(
    "second_scope, fault", [(_scope_with_other_masks, "masks"), (_LeakingScope, "averages")]
)
def test_the_comparison_detects_a_faulty_second_pass(monkeypatch, second_scope, fault):
    trainer, batch = trainer_and_batch()
    expected = compute_gradients(trainer, batch)
    averages = trainers.moving_averages(trainer)
    trainer, batch = trainer_and_batch(remat=True)
    num_passes, num_blocks = 0, len(trainer.encoder.remat_blocks)

    def scope(mapping):
        nonlocal num_passes
        num_passes += 1
        return (_StatelessScope if num_passes <= num_blocks else second_scope)(list(mapping))

    monkeypatch.setattr(keras, "StatelessScope", scope)
    error, path = largest_error(expected, compute_gradients(trainer, batch))
    assert num_passes == 2 * num_blocks
    after = trainers.moving_averages(trainer)
    change = max(np.abs(value - averages[path]).max() for path, value in after.items())
    detected = (error > 1e-2, change > 1e-6)
    assert detected == (fault == "masks", fault == "averages"), (error, path)


@pytest.mark.slow
def test_it_compiles_under_xla():
    expected = compute_gradients(*trainer_and_batch(0.0), graph=True)
    trainer, batch = trainer_and_batch(0.0, remat=True, microbatch=MICROBATCH)
    compiled = compute_gradients(trainer, batch, graph=True, jit_compile=True)
    assert largest_error(expected, compiled)[0] < 1e-9


def test_a_run_can_resume_with_remat_changed(tmp_path):
    config = {"remat": False, "steps": 3, "precision": "float32"}
    checkpoints.write_json(str(tmp_path / "config.json"), config)
    assert checkpoints.check_same_config(str(tmp_path), {**config, "remat": True})
    trainer, batch = trainer_and_batch()
    manager = checkpoints.CheckpointManager(str(tmp_path), trainer)
    assert not manager.restore({"vocabulary_hash": "x"})
    trainer.train_step(batch)
    manager.save(1)
    manager.wait_until_finished()
    resumed, _ = trainer_and_batch(remat=True)
    manager = checkpoints.CheckpointManager(str(tmp_path), resumed)
    assert manager.restore({"vocabulary_hash": "x"})
    trainer.train_step(batch)
    resumed.train_step(batch)
    expected, actual = trainers.weights_of(trainer), trainers.weights_of(resumed)
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=1e-9, err_msg=path)
