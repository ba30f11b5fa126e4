"""Blocks that are computed again on the way back: the same gradients, averages and masks."""

import keras
import microbatches
import numpy as np
import pytest
import replicas
import tensorflow as tf
from test_microbatch import gradients, worst

from tf_mural.training import checkpoints

ROWS = microbatches.ROWS


@pytest.fixture(scope="module", autouse=True)
def float64():
    replicas.set_precision("float64")
    yield
    replicas.set_precision("float32")


def trainer_of(dropout=0.3, **options):
    trainer, kinds = replicas.trainer_of("etcl", dropout, **options)
    return trainer, tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))


def averages(trainer):
    return {v.path: v.numpy() for v in trainer.moving_averages}


@pytest.fixture(scope="module", params=[None, ROWS], ids=["whole", "micro-batches"])
def plain(request):
    """Micro-batch, gradients and moving averages of a step that keeps its activations."""
    trainer, batch = trainer_of(microbatch=request.param)
    before = averages(trainer)
    found, _ = gradients(trainer, batch, graph=True)
    after = averages(trainer)
    assert all(np.abs(after[path] - before[path]).max() > 1e-6 for path in before)
    return request.param, found, after


@pytest.mark.parametrize("graph", [False, True])
def test_gradients_and_averages_are_those_of_the_plain_step(plain, graph):
    microbatch, expected, after = plain
    trainer, batch = trainer_of(microbatch=microbatch, rematerialised=True)
    found, _ = gradients(trainer, batch, graph)
    assert worst(expected, found)[0] < 1e-10
    for path, value in averages(trainer).items():
        np.testing.assert_allclose(value, after[path], rtol=1e-12, err_msg=path)


def test_it_is_the_blocks_of_both_towers_that_are_computed_again():
    kinds = ("DepthwiseConv2dNative", "Softmax", "Conv2D")
    counts = []
    for again in (False, True):
        trainer, batch = trainer_of(rematerialised=again)
        graph = tf.function(trainer.gradients, autograph=False).get_concrete_function(batch).graph
        types = [op.type for op in graph.get_operations()]
        counts.append([types.count(kind) for kind in kinds])
    blocks = [block.name for block in trainer.encoder.remat_blocks]
    assert blocks == ["stage_1", "stage_2", "transformer_layer_0"]
    # The softmax of the losses stays single; nothing of the towers but the blocks has these.
    once, twice = counts
    assert twice[0] == 2 * once[0] and twice[2] == 2 * once[2] and twice[1] == once[1] + 1


def test_outside_of_training_nothing_changes():
    trainer, batch = trainer_of(rematerialised=True)
    plain, _ = trainer_of()
    after = averages(trainer)
    for expected, found in zip(
        plain.encode(batch, training=False).values(),
        trainer.encode(batch, training=False).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    assert all((value == after[path]).all() for path, value in averages(trainer).items())


def test_a_frozen_tower_stays_as_it_is():
    found = []
    for again in (False, True):
        trainer, batch = trainer_of(rematerialised=again)
        trainer.encoder.towers["image"].trainable = False
        before = averages(trainer)
        found.append(gradients(trainer, batch)[0])
        assert not any("block" in name for name in found[-1])
        assert all((value == before[path]).all() for path, value in averages(trainer).items())
    assert worst(*found)[0] < 1e-10


SCOPE = keras.StatelessScope


class Leaking(SCOPE):
    """A second pass that starts from the averages of the first, and leaves its own behind."""

    def __init__(self, mapping):
        super().__init__((v, v._value if "/moving_" in v.path else x) for v, x in mapping)
        self.variables = [v for v, _ in mapping if "/moving_" in v.path]

    def __exit__(self, *error):
        super().__exit__(*error)
        for variable in self.variables:
            variable.assign(self.get_current_value(variable))


def drawing_again(mapping):
    """A second pass that draws other masks than the first."""
    return SCOPE((v, x + 1 if "seed_generator" in v.path else x) for v, x in mapping)


@pytest.mark.parametrize("second, what", [(drawing_again, "masks"), (Leaking, "averages")])
def test_the_comparison_turns_red(monkeypatch, second, what):
    trainer, batch = trainer_of()
    expected, _ = gradients(trainer, batch)
    after = averages(trainer)
    trainer, batch = trainer_of(rematerialised=True)
    passes, blocks = [], len(trainer.encoder.remat_blocks)

    def scope(mapping):
        passes.append(None)
        return (SCOPE if len(passes) <= blocks else second)(list(mapping))

    monkeypatch.setattr(keras, "StatelessScope", scope)
    error, name = worst(expected, gradients(trainer, batch)[0])
    assert len(passes) == 2 * blocks
    moved = max(np.abs(value - after[path]).max() for path, value in averages(trainer).items())
    assert (error > 1e-2, moved > 1e-6) == (what == "masks", what == "averages"), (error, name)


@pytest.mark.slow
def test_it_compiles_under_xla():
    found = []
    for options in (dict(), dict(rematerialised=True, microbatch=ROWS)):
        trainer, batch = trainer_of(0.0, **options)
        compiled = bool(options)
        found.append(gradients(trainer, batch, graph=True, jit_compile=compiled)[0])
    assert worst(*found)[0] < 1e-9


def test_a_run_goes_on_with_the_switch_changed(tmp_path):
    config = {"rematerialise": False, "steps": 3, "precision": "float32"}
    checkpoints.write_json(str(tmp_path / "config.json"), config)
    assert checkpoints.check_same_config(str(tmp_path), {**config, "rematerialise": True})
    trainer, batch = trainer_of()
    saved = checkpoints.CheckpointManager(str(tmp_path), trainer)
    assert not saved.restore({"vocabulary_hash": "x"})
    trainer.train_step(batch)
    saved.save(1)
    saved.wait_until_finished()
    again, _ = trainer_of(rematerialised=True)
    assert checkpoints.CheckpointManager(str(tmp_path), again).restore({"vocabulary_hash": "x"})
    trainer.train_step(batch)
    again.train_step(batch)
    for one, two in zip(trainer.encoder.variables, again.encoder.variables, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=1e-9, err_msg=one.path)
