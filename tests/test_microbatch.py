"""Batches larger than memory: micro-batches and chunks of rows against the plain step.

What is compared are the gradients of every variable, in float64 where not said otherwise.
"""

import os
import random
import re
import subprocess
import sys

import microbatches
import numpy as np
import pytest
import replicas
import tensorflow as tf

from configs import etcl, mural
from tf_mural import experiment, models
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow import grad_cache
from tf_mural.backends.tensorflow.chunked_loss import in_chunks
from tf_mural.errors import UserError
from tf_mural.objective import Term, objective

ROWS = microbatches.ROWS
WIDTH = 16  # of the embeddings of `replicas.trainer_of`
COUNT = replicas.ROWS // ROWS


@pytest.fixture(scope="module", autouse=True)
def float64():
    replicas.set_precision("float64")
    yield
    replicas.set_precision("float32")


def trainer_of(stage="etcl", dropout=0.0, microbatch=None, loss_chunk=None):
    trainer, kinds = replicas.trainer_of(stage, dropout)
    trainer.microbatch, trainer.loss_chunk = microbatch, loss_chunk
    return trainer, tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))


def named(trainer, gradients):
    paths = [v.path for v in trainer.encoder.trainable_variables]
    return {p: np.asarray(g) for p, g in zip(paths, gradients, strict=True)}


def gradients(trainer, batch, graph=False, jit_compile=False):
    """{path: gradient} and {name: log} of a trainer; without a graph, which takes its time."""
    step = tf.function(trainer.gradients, autograph=False, jit_compile=jit_compile)
    found, logs = step(batch) if graph or jit_compile else trainer.gradients(batch)
    return named(trainer, found), {name: float(value) for name, value in logs.items()}


def worst(expected, found):
    """(error, name) of the variable with the largest |a - b| / max(|a|, floor)."""
    assert expected.keys() == found.keys()
    norm = np.linalg.norm
    floor = 1e-3 * np.sqrt(sum((a**2).sum() for a in expected.values()) / len(expected))
    return max((norm(a - found[k]) / max(norm(a), floor), k) for k, a in expected.items())


@pytest.fixture(scope="module")
def plain():
    """Gradients, logs and moving averages of the plain step, whose batch norm sees groups of 2."""
    trainer, batch = trainer_of()
    return *gradients(trainer, batch), [v.numpy() for v in trainer.moving_averages]


@pytest.mark.parametrize(
    "microbatch, loss_chunk, graph", [(2, None, False), (4, 1, True), (None, 2, False)]
)
def test_gradients_logs_and_averages_are_those_of_the_plain_step(
    plain, microbatch, loss_chunk, graph
):
    trainer, batch = trainer_of("etcl", 0.0, microbatch, loss_chunk)
    before = [v.numpy() for v in trainer.moving_averages]
    found, logs = gradients(trainer, batch, graph)
    assert "temperature_shared" in " ".join(found) and len(found) > 50
    assert worst(plain[0], found)[0] < 1e-10
    assert logs == pytest.approx(plain[1], rel=1e-12)
    for now, then, expected in zip(trainer.moving_averages, before, plain[2], strict=True):
        np.testing.assert_allclose(now.numpy(), expected, rtol=1e-12, err_msg=now.path)
        assert np.abs(expected - then).max() > 1e-6


def test_batch_norm_without_groups_sees_micro_batches(plain):
    trainer, batch = trainer_of(microbatch=ROWS)
    for layer in trainer.encoder._flatten_layers():
        if isinstance(layer, models.GhostBatchNormalization):
            layer.virtual_batch_size = None
    assert worst(plain[0], gradients(trainer, batch)[0])[0] < 1e-10


def test_float32_keeps_five_digits():
    replicas.set_precision("float32")
    try:
        found = []
        for how in (dict(), dict(microbatch=ROWS, loss_chunk=4)):
            trainer, batch = trainer_of("mural", **how)
            found.append(gradients(trainer, batch)[0])
    finally:
        replicas.set_precision("float64")
    # A text tower has no batch norm, whose shifts are rounding alone where another follows.
    expected, got = ({k: v for k, v in g.items() if "_bn/" not in k} for g in found)
    assert worst(expected, got)[0] < 1e-5


def test_a_step_moves_all_weights_and_averages_alike_and_once():
    ends = []
    for how in (dict(), dict(microbatch=ROWS, loss_chunk=4)):
        trainer, batch = trainer_of(**how)
        logs = trainer.train_step(batch)
        assert int(trainer.step.numpy()) == int(trainer.optimizer.iterations.numpy()) == 1
        values = {v.path: v.numpy() for v in trainer.encoder.variables if "seed" not in v.path}
        ends.append({**values, "norm": float(logs["gradient_norm"])})
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        np.testing.assert_allclose(ends[1][name], value, rtol=1e-7, atol=1e-9, err_msg=name)


# --- dropout --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_dropout():
    trainer, batch = trainer_of(dropout=0.3)
    microbatches.unrolled(trainer, ROWS)
    return gradients(trainer, batch)[0]


def test_dropout_is_replayed(with_dropout, plain):
    trainer, batch = trainer_of(dropout=0.3, microbatch=ROWS)
    assert worst(with_dropout, gradients(trainer, batch)[0])[0] < 1e-10
    assert worst(plain[0], with_dropout)[0] > 0.1


def test_the_comparison_sees_other_masks(with_dropout):
    trainer, batch = trainer_of(dropout=0.3)
    microbatches.unrolled(trainer, ROWS, draws_again=True)
    assert worst(with_dropout, gradients(trainer, batch)[0])[0] > 0.5


def test_a_second_pass_with_other_masks_is_seen(with_dropout, monkeypatch):
    trainer, batch = trainer_of(dropout=0.3, microbatch=ROWS)
    calls, set_seeds = [], tf_backend.set_seeds

    def without_replay(generators, seed, step, number=0):
        calls.append(int(number))
        set_seeds(generators, seed, step, number + (100 if len(calls) > COUNT else 0))

    monkeypatch.setattr(tf_backend, "set_seeds", without_replay)
    assert worst(with_dropout, gradients(trainer, batch)[0])[0] > 0.5
    assert calls == [0, 1, 2, 3] * 2


# --- the temperature ------------------------------------------------------------------------------


def by_accumulation(trainer, batch):
    """Gradients as open_clip accumulates them: the whole loss once a micro-batch, and added up.

    The micro-batch's rows are encoded again; those of the others are taken from the first pass.
    """
    encoder, total = trainer.encoder, None
    parts, _ = grad_cache.split_rows(batch, ROWS)
    first = [trainer.encode(grad_cache.part_of(parts, i)) for i in range(COUNT)]
    for i in range(COUNT):
        with tf.GradientTape() as tape:
            mine = trainer.encode(grad_cache.part_of(parts, i))
            rows = [*first[:i], mine, *first[i + 1 :]]
            embeddings = {f: tf.concat([row[f] for row in rows], axis=0) for f in mine}
            sigmas = {name: v.value for name, v in encoder.temperatures.items()}
            loss, _ = objective(embeddings, batch, trainer.terms, sigmas, lambda x: x, 0, 2)
        found = tape.gradient(loss, encoder.trainable_variables)
        found = [tf.convert_to_tensor(gradient) for gradient in found]
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    return named(trainer, total)


def test_accumulation_multiplies_the_gradient_of_the_temperature_and_this_does_not(plain):
    trainer, batch = trainer_of()
    theirs = by_accumulation(trainer, batch)
    name = next(path for path in theirs if "temperature" in path)
    others = ({k: v for k, v in g.items() if k != name} for g in (plain[0], theirs))
    assert worst(*others)[0] < 1e-10
    assert theirs[name] == pytest.approx(COUNT * plain[0][name], rel=1e-10)
    trainer, batch = trainer_of(microbatch=ROWS)
    assert gradients(trainer, batch)[0][name] == pytest.approx(plain[0][name], rel=1e-10)


# --- the loss in chunks of rows -------------------------------------------------------------------


def by_numpy(x, y, sigma, margin, eps, ignore):
    """Mean loss of pairs (N, d), and its gradients by x, y and sigma: the equations, by hand."""
    n, loss, at = len(x), 0.0, {"x": 0.0, "y": 0.0, "sigma": 0.0}
    kept = ~ignore | np.eye(n, dtype=bool)
    target = (1 - eps) * np.eye(n) + eps * kept / kept.sum(axis=1, keepdims=True)
    for own, other, a, b in ((x, y, "x", "y"), (y, x, "y", "x")):
        logits = (own @ other.T - margin * np.eye(n)) / sigma
        weights = np.exp(logits) * kept
        softmax = weights / weights.sum(axis=1, keepdims=True)
        loss -= (target[kept] * np.log(softmax[kept])).sum() / n
        slope = (softmax - target) / n
        at[a] = at[a] + slope @ other / sigma
        at[b] = at[b] + slope.T @ own / sigma
        at["sigma"] -= (slope * logits).sum() / sigma
    return loss, at["x"], at["y"], at["sigma"]


@pytest.mark.parametrize("rows", [1, 4, 12])
@pytest.mark.parametrize("mask", [False, True])
def test_chunks_of_the_loss_equal_the_equations(rows, mask):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 24, 6))
    ids = rng.integers(0, 12, (2, 24))
    ignore = mask & ((ids[0][:, None] == ids[0]) | (ids[1][:, None] == ids[1]))
    term = Term("t", "image", "text", 0.5, margin=0.3, label_smoothing=0.1, mask_duplicates=mask)
    batch = {f: {"id": tf.constant(i)} for f, i in zip(("image", "text"), ids, strict=True)}
    logs, at_embeddings, at_temperatures = in_chunks(
        {"image": tf.constant(x), "text": tf.constant(y)},
        batch,
        [term],
        {"shared": tf.constant(0.2, tf.float64)},
        lambda rows: rows,
        0,
        0,
        rows,
    )
    loss, at_x, at_y, at_sigma = by_numpy(x, y, 0.2, 0.3, 0.1, ignore)
    close = dict(rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose([logs["loss/t"], logs["loss"]], [loss, loss / 2], **close)
    np.testing.assert_allclose(2 * at_embeddings["image"], at_x, **close)
    np.testing.assert_allclose(2 * at_embeddings["text"], at_y, **close)
    np.testing.assert_allclose(2 * at_temperatures["shared"], at_sigma, **close)


# --- memory ---------------------------------------------------------------------------------------


def tensors(graph):
    """All tensors of a graph and of the bodies of its loops."""
    for op in graph.get_operations():
        yield from op.outputs
        if op.type in ("While", "StatelessWhile"):
            yield from tensors(graph._get_function(op.get_attr("body").name).graph)


@pytest.mark.parametrize("microbatch, loss_chunk", [(None, None), (4, None), (None, 5), (4, 5)])
def test_what_a_step_holds_does_not_grow_with_the_batch(microbatch, loss_chunk):
    n = 20
    trainer, batch = trainer_of("etcl", 0.3, microbatch, loss_chunk)
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec((n, *x.shape[1:]), x.dtype), batch)
    graph = tf.function(trainer.gradients, autograph=False).get_concrete_function(specs).graph
    shapes = [t.shape for t in tensors(graph) if t.dtype.is_floating]
    assert all(shape.is_fully_defined() for shape in shapes)
    # The two texts of a row go through the tower together.
    encoded = max(shape[0] for shape in shapes if shape.rank == 4)
    assert encoded == 2 * (microbatch or n)
    logits = [shape[0] for shape in shapes if shape.rank == 2 and shape[1] == n]
    logits = max(rows for rows in logits if rows != WIDTH)  # that of transposed embeddings
    assert logits == (loss_chunk or n)


@pytest.mark.slow
def test_the_loops_compile_under_xla(plain):
    trainer, batch = trainer_of("etcl", 0.0, ROWS, 4)
    found, logs = gradients(trainer, batch, jit_compile=True)
    assert worst(plain[0], found)[0] < 1e-9
    assert logs == pytest.approx(plain[1], rel=1e-9)


# --- configs --------------------------------------------------------------------------------------


def config_of(**changes):
    config = etcl.get_config("tiny")
    config.model.image.batch_norm_group = changes.pop("batch_norm_group", 0)
    config.update(changes)
    return config


@pytest.mark.parametrize(
    "changes, replicas, message",
    [
        (dict(batch_size=32_768, microbatch=256, loss_chunk=64), 4, None),
        (dict(batch_size=1000), 3, r"batch_size is 1000, but 3 .*--config.batch_size=999 or 1002$"),
        (dict(batch_size=1), 4, r"--config.batch_size=4$"),
        (dict(batch_size=1), 1, r"batch_size is 1, but each row needs a negative: .*=2$"),
        (
            dict(batch_size=1000, microbatch=64),
            2,
            r"1000, but 2 replicas share it evenly and it is taken in micro-batches of 64 "
            r"rows: set --config.batch_size=896 or 1024, or --config.microbatch=50 or 100$",
        ),
        (
            dict(batch_size=64, microbatch=128),
            1,
            r"is 64, but it is taken in .* of 128 rows: .*=128, or --config.microbatch=64$",
        ),
        (
            dict(batch_size=128, microbatch=8, batch_norm_group=16),
            1,
            r"is 16, which does not divide the 8 rows of a micro-batch: .*--config.microbatch=16$",
        ),
        (
            dict(batch_size=128, loss_chunk=48),
            2,
            r"loss_chunk is 48, .* the 64 rows of a replica: set --config.loss_chunk=32 or 64$",
        ),
        (dict(microbatch=-1), 1, "microbatch is -1, expected rows, or 0 for the whole share"),
        (dict(loss_chunk=-2), 1, "loss_chunk is -2, expected rows"),
        (dict(batch_norm_group=-1), 4, None),
        (dict(microbatch=64, batch_norm_group=-1), 1, None),
        (
            dict(microbatch=16, batch_norm_group=-1),
            2,
            r"batch_norm_group is -1, but replicas cannot share .* set --config.microbatch=0, or",
        ),
        (dict(batch_norm_group=-2), 1, "batch_norm_group is -2, expected images, 0 for all of a"),
    ],
)
def test_rows_that_do_not_divide_are_told_with_the_nearest_that_do(changes, replicas, message):
    config = config_of(**changes)
    if message is None:
        experiment.check(config, replicas)
        return
    with pytest.raises(UserError, match=message):
        experiment.check(config, replicas)


def test_who_follows_the_advice_needs_no_other():
    rng, followed = random.Random(0), 0
    for _ in range(300):
        sizes = dict(
            batch_size=rng.randint(2, 1200),
            microbatch=rng.choice([0, 8, 20, 64, 96]),
            loss_chunk=rng.choice([0, 0, 16, 24]),
            batch_norm_group=rng.choice([0, 0, 16]),
        )
        replicas = rng.choice([1, 2, 3, 8])
        for mended, told in advised(sizes, replicas):
            followed += 1
            # Where no micro-batch of groups can part the batch, the batch is to be mended next.
            again = advised(mended, replicas) if "rows of a micro-batch" in told else []
            rest = [refusal(sizes, replicas) for sizes, _ in again] or [refusal(mended, replicas)]
            assert not any(rest), (sizes, told, mended, rest)
    assert followed > 400


def advised(sizes, replicas):
    """[(sizes with one value that the refusal of some names, the refusal)]"""
    told = refusal(sizes, replicas)
    named = re.findall(r"--config\.(\w+)=(\d+)(?: or (\d+))?", told)
    return [({**sizes, n: int(value)}, told) for n, *values in named for value in values if value]


def refusal(sizes, replicas):
    """What the check says of some sizes, or ""."""
    try:
        experiment.check(config_of(**sizes), replicas)
    except UserError as error:
        return str(error)
    return ""


def test_a_config_reaches_the_step(data_dir):
    sizes = dict(batch_size=16, microbatch=4, loss_chunk=8, evaluation={}, batch_norm_group=-1)
    replicas.set_precision("float32")
    try:
        run = experiment.build(config_of(**sizes), str(data_dir), tf_backend.make_strategy("one"))
    finally:
        replicas.set_precision("float64")
    assert (run.trainer.microbatch, run.trainer.loss_chunk) == (4, 8)
    layers = run.trainer.encoder._flatten_layers()
    norms = [x for x in layers if isinstance(x, models.GhostBatchNormalization)]
    assert norms and {x.virtual_batch_size for x in norms} == {models.ALL_REPLICAS}
    assert {x._all_reduce_mean for x in norms} == {tf_backend.mean}
    assert not any(term.mask_duplicates for term in run.trainer.terms)


def test_an_older_config_has_the_plain_step():
    config = config_of()
    for name in ("microbatch", "loss_chunk", "mask_duplicates"):
        del config[name]
    experiment.check(config, 1)
    assert not any(term.mask_duplicates for term in experiment.make_terms(config))


def test_duplicates_are_masked_in_all_terms_or_in_one():
    terms = experiment.make_terms(config_of(mask_duplicates=True))
    assert all(term.compared == ("image", "text_a", "text_b") for term in terms)
    config = config_of()
    config.terms.image_text_a.mask_duplicates = True
    assert [bool(term.compared) for term in experiment.make_terms(config)] == [True, False, False]
    # The two tasks of MURAL are of different examples.
    config = mural.get_config("tiny")
    config.mask_duplicates = True
    compared = {term.name: term.compared for term in experiment.make_terms(config)}
    assert compared["image_caption"] == ("caption", "image")
    assert compared["source_target"] == ("source", "target")


# --- replicas -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    path = tmp_path_factory.mktemp("microbatches") / "out.npz"
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "microbatches.py")
    done = subprocess.run(
        [sys.executable, script, path], stderr=subprocess.PIPE, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs = {}
    with np.load(path) as file:
        for key in file.files:
            run, kind, name = key.split("/", 2)
            runs.setdefault(run, {}).setdefault(kind, {})[name] = file[key]
    return runs


def test_micro_batches_of_two_replicas_are_those_of_one_tape(two_replicas, plain):
    one_tape, cached = (two_replicas[how] for how in ("one tape", "cached"))
    assert worst(one_tape["gradient"], cached["gradient"])[0] < 1e-10
    assert cached["log"].keys() == plain[1].keys()
    for name, value in one_tape["log"].items():
        assert cached["log"][name] == pytest.approx(value, rel=1e-12), name
