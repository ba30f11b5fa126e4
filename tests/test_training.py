"""The three-move step against one tape over everything; clipping; one pass for all texts."""

import numpy as np
import pytest
import replicas
import tensorflow as tf

from tf_mural import losses


@pytest.fixture(scope="module", params=["mural", "etcl"])
def case(request):
    trainer, kinds = replicas.trainer_of(request.param)
    batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))
    return trainer, batch


def plain_gradients(trainer, batch):
    """Gradients of the total loss by a single tape, each field encoded by itself."""
    encoder, total = trainer.encoder, 0.0
    averages = [v.numpy() for v in trainer.moving_averages]
    with tf.GradientTape() as tape:
        rows = {}
        for field, kind in trainer.kinds.items():
            key = "pixels" if kind == "image" else "tokens"
            rows[field] = encoder.encode(kind, batch[field][key], training=True)
        for term in trainer.terms:
            ids = [batch[f]["id"] for f in (term.x, term.y)]
            same = [own[:, None] == own[None] for own in ids]
            if "image" not in (term.x, term.y):  # a text may come back in the other field
                same += [ids[0][:, None] == ids[1][None], ids[1][:, None] == ids[0][None]]
            ignore = tf.reduce_any(same, axis=0)
            pair = (rows[term.x], rows[term.y])
            sigma = encoder.temperatures["shared"].value
            row_losses = losses.contrastive(pair, pair, 0, sigma, 0.3, 0.1, ignore)
            total += term.weight * tf.reduce_mean(row_losses)
    for variable, value in zip(trainer.moving_averages, averages, strict=True):
        variable.assign(value)
    return total, tape.gradient(total, encoder.trainable_variables)


def errors(one, two):
    one, two = ([tf.convert_to_tensor(g).numpy().astype(np.float64) for g in x] for x in (one, two))
    # Some gradients are zero but for rounding, such as a shift that the next batch norm takes out.
    floor = 1e-2 * np.sqrt(sum((g**2).sum() for g in one) / len(one))
    pairs = zip(one, two, strict=True)
    return [np.linalg.norm(a - b) / max(np.linalg.norm(a), floor) for a, b in pairs]


def test_three_moves_equal_one_tape(case):
    trainer, batch = case
    total, expected = plain_gradients(trainer, batch)
    found, logs = trainer.gradients(batch)
    assert max(errors(expected, found)) < 1e-5
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-6)


def test_all_texts_share_one_pass(case):
    trainer, batch = case
    calls = []
    tower = trainer.encoder.towers["text"]

    def counted(tokens, training):
        calls.append(tokens.shape)
        return tower(tokens, training=training)

    trainer.encoder.towers["text"] = counted
    embeddings = trainer.encode(batch, training=False)
    trainer.encoder.towers["text"] = tower
    texts = [field for field, kind in trainer.kinds.items() if kind == "text"]
    assert calls == [(replicas.ROWS * len(texts), 6)]
    for field in texts:
        alone = trainer.encoder.encode("text", batch[field]["tokens"])
        np.testing.assert_allclose(embeddings[field], alone, atol=1e-6)


def test_clipping_bounds_what_the_optimizer_sees():
    trainer, kinds = replicas.trainer_of("etcl")
    batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))
    seen = []
    trainer.optimizer.apply = lambda gradients, variables: seen.append(gradients)
    plain = trainer.train_step(batch)
    trainer.clip_norm = 0.5
    clipped = trainer.train_step(batch)
    assert float(tf.linalg.global_norm(seen[0])) == pytest.approx(float(plain["gradient_norm"]))
    assert float(plain["gradient_norm"]) > 0.5
    assert float(tf.linalg.global_norm(seen[1])) == pytest.approx(0.5, rel=1e-5)
    # The log tells the norm before the clip.
    assert float(clipped["gradient_norm"]) > 0.5


def test_a_step_trains_and_counts():
    trainer, kinds = replicas.trainer_of("mural")
    batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))
    step = tf.function(trainer.train_step)
    values = [float(step(batch)["loss"]) for _ in range(8)]
    assert int(trainer.step.numpy()) == int(trainer.optimizer.iterations.numpy()) == 8
    assert values[-1] < values[0] - 0.1
