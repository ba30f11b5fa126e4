"""Tests the training step on TensorFlow: gradients, clipping, a single text tower pass."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import trainers

from tf_mural import losses, optimizers


@pytest.fixture(scope="module", params=["mural", "etcl"])
def case(request):
    """Returns a trainer and a global batch of a stage."""
    batch = trainers.to_tensors(trainers.make_batch(request.param))
    return trainers.make_trainer(request.param), batch


def gradients_of_one_tape(core, batch):
    """Computes the loss and its gradients under one tape, encoding every field separately."""
    encoder, total = core.encoder, 0.0
    averages = [v.numpy() for v in core.moving_averages]
    with tf.GradientTape() as tape:
        embeddings = {}
        for field, modality in core.fields.items():
            inputs = batch[field]["pixels" if modality == "image" else "tokens"]
            embeddings[field] = encoder.encode(modality, inputs, training=True)
        for term in core.terms:
            ids = [batch[f]["id"] for f in (term.x, term.y)]
            same = [x[:, None] == x[None] for x in ids]
            if "image" not in (term.x, term.y):  # a text may occur in either of the text fields
                same += [ids[0][:, None] == ids[1][None], ids[1][:, None] == ids[0][None]]
            ignore = tf.reduce_any(same, axis=0)
            pair = (embeddings[term.x], embeddings[term.y])
            sigma = encoder.scalars["temperature"]["shared"].value
            example_losses = losses.contrastive(pair, pair, 0, sigma, 0.3, 0.1, ignore)
            total += term.weight * tf.reduce_mean(example_losses)
    for variable, value in zip(core.moving_averages, averages, strict=True):
        variable.assign(value)
    return total, tape.gradient(total, encoder.trainable_variables)


def relative_errors(expected, actual):
    """Returns ||expected - actual|| / max(||expected||, floor) per gradient.

    Without the floor, gradients that are zero up to rounding errors would have large relative
    errors. An example is the gradient of the shift of a batch norm that is followed by another
    batch norm.
    """
    expected, actual = (
        [tf.convert_to_tensor(g).numpy().astype(np.float64) for g in gradients]
        for gradients in (expected, actual)
    )
    floor = 1e-2 * np.sqrt(sum((g**2).sum() for g in expected) / len(expected))
    pairs = zip(expected, actual, strict=True)
    return [np.linalg.norm(a - b) / max(np.linalg.norm(a), floor) for a, b in pairs]


def test_gradients_equal_those_of_a_single_tape(case):
    trainer, batch = case
    total, expected = gradients_of_one_tape(trainer.core, batch)
    actual, logs = trainer.core.compute_gradients(batch)
    assert max(relative_errors(expected, actual)) < 1e-5
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-6)


def test_all_text_fields_share_one_pass_of_the_tower(case):
    trainer, batch = case
    encoder, shapes = trainer.encoder, []
    tower = encoder.towers["text"]

    def recording_tower(tokens, training):
        shapes.append(tokens.shape)
        return tower(tokens, training=training)

    encoder.towers["text"] = recording_tower
    embeddings = trainer.core.encode(batch, training=False)
    encoder.towers["text"] = tower
    fields = [field for field, modality in trainer.core.fields.items() if modality == "text"]
    assert shapes == [(trainers.BATCH_SIZE * len(fields), trainers.MAX_TOKENS)]
    for field in fields:
        separately = encoder.encode("text", batch[field]["tokens"])
        np.testing.assert_allclose(embeddings[field], separately, atol=1e-6)


def test_the_optimizer_sees_clipped_gradients():
    trainer = trainers.make_trainer("etcl")
    batch = trainers.to_tensors(trainers.make_batch("etcl"))

    def step(**options):
        """Returns the gradients that the optimizer receives, and the logged gradient norm."""
        optimizer, received = optimizers.LAMB(1e-2, **options), []
        optimizer.build(trainer.encoder.trainable_variables)
        optimizer.apply = lambda gradients, variables: received.append(gradients)
        trainer.compile(optimizer=optimizer)
        logs = trainer.train_step(batch)
        return received[0], float(logs["gradient_norm"])

    gradients, norm = step()
    assert float(tf.linalg.global_norm(gradients)) == pytest.approx(norm)
    assert norm > 0.5
    gradients, norm = step(global_clipnorm=0.5)
    assert float(tf.linalg.global_norm(gradients)) == pytest.approx(0.5, rel=1e-5)
    # The logged norm is the norm before clipping.
    assert norm > 0.5


def test_steps_reduce_the_loss_and_are_counted():
    trainer = trainers.make_trainer("mural")
    batch = trainers.to_tensors(trainers.make_batch("mural"))
    step = tf.function(trainer.train_step)
    losses_of_steps = [float(step(batch)["loss"]) for _ in range(8)]
    assert int(trainer.step.numpy()) == int(trainer.optimizer.iterations.numpy()) == 8
    assert losses_of_steps[-1] < losses_of_steps[0] - 0.1


def test_a_subclass_can_override_the_step():
    class DoublingTrainer(type(trainers.make_trainer("etcl"))):
        def train_step(self, batch):
            logs = super().train_step(batch)
            return {**logs, "twice": 2 * logs["loss"]}

    plain = trainers.make_trainer("etcl")
    core = plain.core
    trainer = DoublingTrainer(plain.encoder, core.terms, core.fields, core.languages)
    trainer.compile(optimizer=plain.optimizer)
    logs = trainer.train_step(trainers.to_tensors(trainers.make_batch("etcl")))
    assert float(logs["twice"]) == 2 * float(logs["loss"])
    assert int(trainer.step.numpy()) == 1
