"""Compares steps with micro-batches and loss chunks with the plain step, which has neither.

The gradients of every variable are compared, in float64 unless stated otherwise.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers import replicas, trainers
from helpers.comparison import largest_error, select_prefix
from helpers.microbatches import MICROBATCH, with_one_tape

from tf_mural import models
from tf_mural.backends.tensorflow import grad_cache
from tf_mural.backends.tensorflow.chunked_loss import objective_and_gradients
from tf_mural.objective import Term, objective, objective_for_rows

COUNT = trainers.BATCH_SIZE // MICROBATCH


@pytest.fixture(scope="module", autouse=True)
def float64():
    trainers.set_precision("float64")
    yield
    trainers.set_precision("float32")


def trainer_and_batch(stage="etcl", dropout=0.0, **options):
    batch = trainers.to_tensors(trainers.make_batch(stage))
    return trainers.make_trainer(stage, dropout, **options), batch


def compute_gradients(trainer, batch, graph=False, jit_compile=False):
    """Returns {path: gradient} and {name: log}.

    By default, the step runs eagerly, because tracing a graph takes longer than the step.
    """
    step = trainer.core.compute_gradients
    if graph or jit_compile:
        step = tf.function(step, autograph=False, jit_compile=jit_compile)
    gradients, logs = step(batch)
    logs = {name: float(value) for name, value in logs.items()}
    return trainers.gradients_by_path(trainer, gradients), logs


@pytest.fixture(scope="module")
def plain():
    """Returns gradients, logs and moving averages of the plain step (virtual batches of 2)."""
    trainer, batch = trainer_and_batch()
    return *compute_gradients(trainer, batch), trainers.moving_averages(trainer)


@pytest.mark.parametrize(
    "microbatch, loss_chunk, graph", [(2, None, False), (4, 1, True), (None, 2, False)]
)
def test_gradients_logs_and_averages_equal_those_of_the_plain_step(
    plain, microbatch, loss_chunk, graph
):
    trainer, batch = trainer_and_batch(microbatch=microbatch, loss_chunk=loss_chunk)
    before = trainers.moving_averages(trainer)
    gradients, logs = compute_gradients(trainer, batch, graph)
    assert "temperature_shared" in " ".join(gradients) and len(gradients) > 50
    assert largest_error(plain[0], gradients)[0] < 1e-10
    assert logs == pytest.approx(plain[1], rel=1e-12)
    for path, value in trainers.moving_averages(trainer).items():
        np.testing.assert_allclose(value, plain[2][path], rtol=1e-12, err_msg=path)
        assert np.abs(plain[2][path] - before[path]).max() > 1e-6


def test_micro_batches_and_chunks_of_the_sigmoid_loss_equal_the_plain_step():
    (expected, logs), (actual, cached_logs) = (
        compute_gradients(*trainer_and_batch(loss="sigmoid", **options))
        for options in ({}, {"microbatch": MICROBATCH, "loss_chunk": 4})
    )
    assert {"dual_encoder/temperature_shared", "dual_encoder/bias_shared"} <= expected.keys()
    assert np.abs(expected["dual_encoder/bias_shared"]) > 1e-3
    assert largest_error(expected, actual)[0] < 1e-10
    assert cached_logs == pytest.approx(logs, rel=1e-12)


def test_batch_norm_without_groups_sees_micro_batches(plain):
    trainer, batch = trainer_and_batch(microbatch=MICROBATCH)
    for layer in trainer.encoder._flatten_layers():
        if isinstance(layer, models.GhostBatchNormalization):
            layer.virtual_batch_size = None
    assert largest_error(plain[0], compute_gradients(trainer, batch)[0])[0] < 1e-10


def test_gradients_agree_to_five_digits_in_float32():
    trainers.set_precision("float32")
    try:
        expected, actual = (
            compute_gradients(*trainer_and_batch("mural", **options))[0]
            for options in ({}, {"microbatch": MICROBATCH, "loss_chunk": 4})
        )
    finally:
        trainers.set_precision("float64")
    # Gradients of batch norms are not compared: the gradient of a shift that the next batch norm
    # removes consists only of rounding errors.
    expected, actual = (
        {path: g for path, g in gradients.items() if "_bn/" not in path}
        for gradients in (expected, actual)
    )
    assert largest_error(expected, actual)[0] < 1e-5


def test_a_step_ends_in_the_same_weights_and_averages_and_counts_once():
    results = []
    for options in ({}, {"microbatch": MICROBATCH, "loss_chunk": 4}):
        trainer, batch = trainer_and_batch(**options)
        logs = trainer.train_step(batch)
        assert int(trainer.step.numpy()) == int(trainer.optimizer.iterations.numpy()) == 1
        norm = float(logs["gradient_norm"])
        results.append({**trainers.weights_of(trainer), "norm": norm})
    expected, actual = results
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-7, atol=1e-9, err_msg=name)


# --- dropout --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_dropout():
    trainer, batch = trainer_and_batch(dropout=0.3)
    with_one_tape(trainer, MICROBATCH)
    return compute_gradients(trainer, batch)[0]


def test_the_second_pass_draws_the_same_dropout(with_dropout, plain):
    trainer, batch = trainer_and_batch(dropout=0.3, microbatch=MICROBATCH)
    assert largest_error(with_dropout, compute_gradients(trainer, batch)[0])[0] < 1e-10
    assert largest_error(plain[0], with_dropout)[0] > 0.1


def test_the_comparison_detects_other_masks(with_dropout):
    trainer, batch = trainer_and_batch(dropout=0.3)
    with_one_tape(trainer, MICROBATCH, other_masks=True)
    assert largest_error(with_dropout, compute_gradients(trainer, batch)[0])[0] > 0.5


def test_the_comparison_detects_a_second_pass_with_other_masks(with_dropout):
    trainer, batch = trainer_and_batch(dropout=0.3, microbatch=MICROBATCH)
    indices, functions = [], trainer.core.backend

    def set_seeds(generators, seed, step, index=0):
        indices.append(int(index))
        second_pass = len(indices) > COUNT
        functions.set_seeds(generators, seed, step, index + (100 if second_pass else 0))

    trainer.core.backend = dataclasses.replace(functions, set_seeds=set_seeds)
    assert largest_error(with_dropout, compute_gradients(trainer, batch)[0])[0] > 0.5
    assert indices == [0, 1, 2, 3] * 2


# --- the temperature ------------------------------------------------------------------------------


def accumulated_gradients(trainer, batch):
    """Computes gradients as open_clip does, by accumulation over micro-batches.

    For each micro-batch, the loss of the whole batch is computed, and its gradients are added up.
    Only the examples of the micro-batch are encoded under the tape; the embeddings of all other
    examples come from a first pass without a tape.
    """
    core, totals = trainer.core, None
    parts, _ = grad_cache.split_rows(batch, MICROBATCH)
    first_pass = [core.encode(grad_cache.slice_part(parts, i)) for i in range(COUNT)]
    for i in range(COUNT):
        with tf.GradientTape() as tape:
            part = core.encode(grad_cache.slice_part(parts, i))
            all_parts = [*first_pass[:i], part, *first_pass[i + 1 :]]
            embeddings = {f: tf.concat([x[f] for x in all_parts], axis=0) for f in part}
            scalars = trainer.encoder.scalar_values()
            loss, _ = objective(embeddings, batch, core.terms, scalars, lambda x: x, 0, 2)
        gradients = tape.gradient(loss, trainer.encoder.trainable_variables)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        totals = [a + b for a, b in zip(totals, gradients, strict=True)] if totals else gradients
    return trainers.gradients_by_path(trainer, totals)


def test_accumulation_multiplies_the_gradient_of_the_temperature_and_grad_cache_does_not(plain):
    accumulated = accumulated_gradients(*trainer_and_batch())
    temperature = next(path for path in accumulated if "temperature" in path)
    others = (
        {path: g for path, g in gradients.items() if path != temperature}
        for gradients in (plain[0], accumulated)
    )
    assert largest_error(*others)[0] < 1e-10
    expected = plain[0][temperature]
    assert accumulated[temperature] == pytest.approx(COUNT * expected, rel=1e-10)
    cached = compute_gradients(*trainer_and_batch(microbatch=MICROBATCH))[0]
    assert cached[temperature] == pytest.approx(expected, rel=1e-10)


# --- loss chunks ----------------------------------------------------------------------------------


def loss_and_gradients_by_numpy(x, y, sigma, margin, eps, ignore):
    """Returns the mean loss of the pairs x, y (N, d), and its gradients at x, y and sigma."""
    n, loss, gradients = len(x), 0.0, {"x": 0.0, "y": 0.0, "sigma": 0.0}
    valid = ~ignore | np.eye(n, dtype=bool)
    target = (1 - eps) * np.eye(n) + eps * valid / valid.sum(axis=1, keepdims=True)
    for local, candidates, a, b in ((x, y, "x", "y"), (y, x, "y", "x")):
        logits = (local @ candidates.T - margin * np.eye(n)) / sigma
        weights = np.exp(logits) * valid
        softmax = weights / weights.sum(axis=1, keepdims=True)
        loss -= (target[valid] * np.log(softmax[valid])).sum() / n
        slope = (softmax - target) / n
        gradients[a] = gradients[a] + slope @ candidates / sigma
        gradients[b] = gradients[b] + slope.T @ local / sigma
        gradients["sigma"] -= (slope * logits).sum() / sigma
    return loss, gradients["x"], gradients["y"], gradients["sigma"]


def compute_objective(terms):
    """Returns a callable with the signature of `TrainStep.compute_objective`."""

    def compute(embeddings, batch, candidates, scalars, offset):
        return objective_for_rows(embeddings, batch, candidates, terms, scalars, offset, 0)

    return compute


@pytest.mark.parametrize("chunk", [1, 4, 12])
@pytest.mark.parametrize("mask", [False, True])
def test_chunks_of_the_loss_equal_the_equations(chunk, mask):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 24, 6))
    ids = rng.integers(0, 12, (2, 24))
    ignore = mask & ((ids[0][:, None] == ids[0]) | (ids[1][:, None] == ids[1]))
    term = Term(
        "t", "image", "text", 0.5, options=trainers.OPTIONS["contrastive"], mask_duplicates=mask
    )
    batch = {f: {"id": tf.constant(i)} for f, i in zip(("image", "text"), ids, strict=True)}
    logs, embedding_gradients, scalar_gradients = objective_and_gradients(
        {"image": tf.constant(x), "text": tf.constant(y)},
        batch,
        [term],
        {"temperature": {"shared": tf.constant(0.2, tf.float64)}},
        gather=lambda rows: rows,
        offset=0,
        compute_objective=compute_objective([term]),
        chunk=chunk,
    )
    loss, by_x, by_y, by_sigma = loss_and_gradients_by_numpy(x, y, 0.2, 0.3, 0.1, ignore)
    close = dict(rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose([logs["loss/t"], logs["loss"]], [loss, loss / 2], **close)
    np.testing.assert_allclose(2 * embedding_gradients["image"], by_x, **close)
    np.testing.assert_allclose(2 * embedding_gradients["text"], by_y, **close)
    np.testing.assert_allclose(2 * scalar_gradients["temperature"]["shared"], by_sigma, **close)


# --- memory ---------------------------------------------------------------------------------------


def all_tensors(graph):
    """Yields the tensors of a graph and of the bodies of its loops."""
    for op in graph.get_operations():
        yield from op.outputs
        if op.type in ("While", "StatelessWhile"):
            yield from all_tensors(graph._get_function(op.get_attr("body").name).graph)


@pytest.mark.parametrize("microbatch, loss_chunk", [(None, None), (4, None), (None, 5), (4, 5)])
def test_activations_and_logits_have_the_size_of_a_micro_batch_and_a_chunk(microbatch, loss_chunk):
    n = 20
    trainer, batch = trainer_and_batch(dropout=0.3, microbatch=microbatch, loss_chunk=loss_chunk)
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec((n, *x.shape[1:]), x.dtype), batch)
    step = tf.function(trainer.core.compute_gradients, autograph=False)
    graph = step.get_concrete_function(specs).graph
    shapes = [t.shape for t in all_tensors(graph) if t.dtype.is_floating]
    assert all(shape.is_fully_defined() for shape in shapes)
    # The text tower encodes both texts of all examples in one pass.
    encoded = max(shape[0] for shape in shapes if shape.rank == 4)
    assert encoded == 2 * (microbatch or n)
    logits = [shape[0] for shape in shapes if shape.rank == 2 and shape[1] == n]
    # Transposed embeddings also have n columns, and are therefore excluded by their number of rows.
    logits = max(rows for rows in logits if rows != trainers.EMBEDDING_DIM)
    assert logits == (loss_chunk or n)


@pytest.mark.slow
def test_the_loops_compile_under_xla(plain):
    trainer, batch = trainer_and_batch(microbatch=MICROBATCH, loss_chunk=4)
    gradients, logs = compute_gradients(trainer, batch, jit_compile=True)
    assert largest_error(plain[0], gradients)[0] < 1e-9
    assert logs == pytest.approx(plain[1], rel=1e-9)


# --- two replicas ---------------------------------------------------------------------------------


def test_micro_batches_of_two_replicas_equal_one_tape(tmp_path, plain):
    arrays = replicas.run_script("grad_cache_script.py", out=tmp_path / "out.npz")
    gradients, logs = (
        [select_prefix(arrays, f"{run}/{kind}/") for run in ("one tape", "cached")]
        for kind in ("gradient", "log")
    )
    assert len(gradients[0]) > 50 and largest_error(*gradients)[0] < 1e-10
    assert logs[1].keys() == plain[1].keys()
    for name, value in logs[0].items():
        assert logs[1][name] == pytest.approx(value, rel=1e-12), name
