"""Tests the loss `distil`, and the options `dims` and `negatives` of a term."""

import os

import numpy as np
import pytest
import tensorflow as tf
from golden import sentence_losses_case as case
from helpers import trainers
from helpers.comparison import largest_error

import tf_mural
from tf_mural import losses
from tf_mural.backends.tensorflow.chunked_loss import objective_and_gradients
from tf_mural.errors import UserError
from tf_mural.objective import Term, objective_for_rows, unnormalized

FIELDS = ("x", "y", "z")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def loss_and_gradients(term, rows, ids=None, chunk=None, sigma=case.TEMPERATURE):
    """Returns the loss of a term, and its gradients at the rows before the normalization."""
    rows = {field: tf.constant(values) for field, values in zip(FIELDS, rows, strict=True)}
    count = len(rows["x"])
    ids = ids or {field: np.arange(count) + 100 * i for i, field in enumerate(FIELDS)}
    batch = {field: {"id": tf.constant(ids[field])} for field in FIELDS}

    def compute(embeddings, batch, candidates, scalars, offset):
        return objective_for_rows(embeddings, batch, candidates, [term], scalars, offset, 0)

    with tf.GradientTape() as tape:
        tape.watch(rows)
        embeddings = {field: tf.math.l2_normalize(x, axis=1) for field, x in rows.items()}
        embeddings |= {unnormalized(field): tf.identity(x) for field, x in rows.items()}
        embeddings = {key: embeddings[key] for key in sorted(term.keys)}
    scalars = {"temperature": {"shared": tf.constant(sigma, tf.float64)}}
    logs, gradients, _ = objective_and_gradients(
        embeddings, batch, [term], scalars, lambda x: x, 0, compute, chunk
    )
    gradients = tape.gradient(
        embeddings, rows, output_gradients=gradients, unconnected_gradients="zero"
    )
    return float(logs["loss"]), {field: g.numpy() for field, g in gradients.items()}


def log_softmax_loss(similarity, sigma, match, ignored):
    """Returns the cross-entropy of each row of a matrix of similarities, computed in loops."""
    values = []
    for i, row in enumerate(similarity / sigma):
        kept = [j for j in range(len(row)) if j == match[i] or not ignored[i, j]]
        values.append(np.log(np.sum(np.exp(row[kept]))) - row[match[i]])
    return np.array(values)


@pytest.fixture(scope="module")
def golden():
    path = os.path.join(os.path.dirname(case.__file__), "sentence_losses.npz")
    with np.load(path) as arrays:
        return dict(arrays)


# --- references -----------------------------------------------------------------------------------


REFERENCES = {
    "mse": Term("t", "x", "y", 1.0, "distil", {"form": "mse"}),
    "negatives": Term("t", "x", "y", 1.0, negatives="z"),
    "matryoshka negatives": Term(
        "t", "x", "y", 1.0, negatives="z", dims=case.DIMS, dim_weights=case.WEIGHTS
    ),
}


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("name", REFERENCES)
def test_losses_and_gradients_equal_those_of_sentence_transformers(golden, name, chunk):
    term = REFERENCES[name]
    loss, gradients = loss_and_gradients(term, case.embeddings(), chunk=chunk)
    # sentence-transformers adds the losses of the prefixes, and takes the mean of the directions.
    factor = (sum(term.dim_weights) or 1.0) / (2.0 if term.negatives else 1.0)
    assert factor * loss == pytest.approx(float(golden[f"{name}/loss"]), rel=1e-6)
    fields = dict(zip(FIELDS, ("anchors", "positives", "negatives"), strict=True))
    recorded = {field: golden.get(f"{name}/{part}") for field, part in fields.items()}
    recorded = {field: value for field, value in recorded.items() if value is not None}
    assert len(recorded) == (3 if term.negatives else 1)
    for field, expected in recorded.items():
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(factor * gradients[field], expected, rtol=1e-5, atol=1e-8)


def test_prefixes_of_rows_before_the_normalization_are_not_normalized():
    x, y, z = case.embeddings()
    term = Term("t", "x", "y", 1.0, "distil", {"form": "mse"}, dims=(12, 4), dim_weights=(1, 3))
    expected = 0.25 * np.mean((x - y) ** 2) + 0.75 * np.mean((x - y)[:, :4] ** 2)
    assert loss_and_gradients(term, (x, y, z))[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("form", ["cosine", "mse", "contrastive"])
def test_each_form_of_distillation_equals_its_equation(form, chunk):
    x, y, z = case.embeddings()
    a, b = unit(x), unit(y)
    nothing, match = np.zeros((len(x), len(x)), bool), range(len(x))
    expected = {
        "cosine": np.mean([1 - np.dot(u, v) for u, v in zip(a, b, strict=True)]),
        "mse": np.mean((x - y) ** 2),
        "contrastive": np.mean(
            log_softmax_loss(a @ b.T, 0.2, match, nothing)
            + log_softmax_loss(b @ a.T, 0.2, match, nothing)
        ),
    }[form]
    term = Term("t", "x", "y", 1.0, "distil", {"form": form})
    loss, gradients = loss_and_gradients(term, (x, y, z), chunk=chunk, sigma=0.2)
    assert loss == pytest.approx(expected, rel=1e-10)
    assert np.abs(gradients["x"]).max() > 1e-3
    assert not gradients["y"].any()  # no gradient flows to the teacher


def test_the_mean_squared_error_of_unit_rows_would_be_the_cosine():
    x, y, _ = case.embeddings()
    pair = (unit(x), unit(y))
    mse, cosine = (losses.distil(pair, None, 0, 1.0, form) for form in ("mse", "cosine"))
    np.testing.assert_allclose(mse, 2 / case.WIDTH * np.array(cosine))
    assert not np.allclose(losses.distil((x, y), None, 0, 1.0, "mse"), mse)


# --- hard negatives -------------------------------------------------------------------------------


def test_negatives_are_columns_of_x_only_and_their_duplicates_are_masked():
    rows = case.embeddings()
    a, b, c = (unit(values) for values in rows)
    count = len(a)
    ids = {"x": np.arange(count), "y": np.arange(count) + 10, "z": np.arange(count) + 20}
    ids["z"][2], ids["z"][5] = ids["y"][4], ids["x"][0]
    ignored = np.zeros((count, 2 * count), bool)
    ignored[4, count + 2] = ignored[0, count + 5] = True
    match = range(count)
    expected = log_softmax_loss(np.hstack([a @ b.T, a @ c.T]), 0.2, match, ignored)
    expected += log_softmax_loss(b @ a.T, 0.2, match, ignored[:, :count])
    term = Term("t", "x", "y", 1.0, negatives="z", mask_duplicates=True)
    loss, _ = loss_and_gradients(term, rows, ids, sigma=0.2)
    assert loss == pytest.approx(expected.mean(), rel=1e-10)
    term = Term("t", "x", "y", 1.0, negatives="z")
    assert loss_and_gradients(term, rows, ids, sigma=0.2)[0] > loss + 1e-6


def test_each_negative_of_the_sigmoid_loss_is_one_more_pair():
    a, b, c = (unit(values) for values in case.embeddings())
    pair = (a, b)
    base = losses.sigmoid(pair, pair, 0, 0.2, -3.0)
    actual = losses.sigmoid(pair, pair, 0, 0.2, -3.0, negatives=c)
    expected = base + np.log1p(np.exp(a @ c.T / 0.2 - 3.0)).sum(axis=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


# --- the whole step -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"microbatch": 4}, {"loss_chunk": 2}])
def test_micro_batches_and_chunks_have_the_gradients_of_the_whole_batch(options):
    batch = trainers.to_tensors(trainers.make_batch("etcl"))
    results = []
    trainers.set_precision("float64")
    try:
        for values in ({}, options):
            trainer = trainers.make_trainer("etcl", terms=trainers.MIXTURE, **values)
            gradients, logs = trainer.core.compute_gradients(batch)
            gradients = [tf.convert_to_tensor(g) for g in gradients]
            results.append((trainers.gradients_by_path(trainer, gradients), logs))
    finally:
        trainers.set_precision("float32")
    assert largest_error(results[0][0], results[1][0])[0] < 1e-10
    for term in trainers.MIXTURE:
        key = f"loss/{term.name}"
        assert float(results[0][1][key]) == pytest.approx(float(results[1][1][key]), rel=1e-6)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "distil", "options": {"form": "mes"}}, "form is 'mes', .* cosine, contrastive"),
        ({"loss": "distil", "options": {"form": 1.0}}, "form is 1.0, .* of type str"),
        ({"loss": "distil", "negatives": "z"}, "'distil' of the term 't' takes no negatives"),
        ({"dims": (4, 0)}, r"dims of the term 't' is \(4, 0\), expected sizes from 1"),
        ({"dims": (4,), "dim_weights": (1.0, 1.0)}, "dim_weights .* has 2 values, but dims has 1"),
        ({"dims": (4,), "dim_weights": (0.0,)}, "dim_weights .* with a sum above 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        tf_mural.Term("t", "x", "y", 1.0, **options)


def test_a_prefix_wider_than_the_embeddings_is_refused():
    with pytest.raises(UserError, match="contains 13, but the embeddings have 12 columns"):
        loss_and_gradients(Term("t", "x", "y", 1.0, dims=(13,)), case.embeddings())
