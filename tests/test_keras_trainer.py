"""Tests the Keras interface of the trainers: compile, fit, evaluate, predict, callbacks, saving.

The last test runs this file again on JAX, in another process.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers import keras_trainers, trainers
from helpers.backends import backend_environment
from helpers.comparison import largest_error

import tf_mural
from tf_mural.backends import backend_module
from tf_mural.errors import UserError
from tf_mural.nonfinite import BadStepPolicy

ON_JAX = keras.backend.backend() == "jax"
STEPS = 4


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return keras_trainers.make_records(str(tmp_path_factory.mktemp("records")))


def finite_dataset(count=STEPS, change=None):
    """Returns a dataset of random batches, and the batches.

    Args:
        count: number of batches.
        change: callable that takes the list of the batches, and changes the batches in place.
    """
    batches = [trainers.make_batch("etcl", seed=i) for i in range(count)]
    if change:
        change(batches)
    stacked = {
        field: {key: np.stack([b[field][key] for b in batches]) for key in features}
        for field, features in batches[0].items()
    }
    return tf.data.Dataset.from_tensor_slices(stacked), batches


def assert_states_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


# --- compile --------------------------------------------------------------------------------------


def test_scalars_and_norms_do_not_decay():
    trainer = keras_trainers.make_trainer()
    paths = [v.path for v in trainer.encoder.trainable_variables]
    decays = dict(zip(paths, trainer.optimizer.uses_weight_decay, strict=True))
    adapts = dict(zip(paths, trainer.optimizer.uses_layer_adaptation, strict=True))
    assert not any(decays[p] for p in paths if "_bn/" in p or "norm/" in p or "temperature" in p)
    assert sum(decays.values()) > 10
    assert all(adapts[path] == ("_bn/" not in path) for path in paths)


def test_an_optimizer_of_keras_keeps_its_own_exclusions():
    model = keras_trainers.make_model()
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    kernel = next(v for v in model.trainable_variables if v.path.endswith("dense/kernel"))
    optimizer.exclude_from_weight_decay([kernel], var_names=["bias"])
    tf_mural.ETCL(model).compile(optimizer=optimizer)
    excluded = [v.path for v in model.trainable_variables if not optimizer._use_weight_decay(v)]
    assert kernel.path in excluded and any(path.endswith("/bias") for path in excluded)
    assert {v.path for v in model.scalar_variables} < set(excluded)
    assert any("_bn/gamma" in path for path in excluded)
    assert len(excluded) < len(model.trainable_variables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, "compile: loss would have no effect, because the terms"),
        ({"metrics": ["accuracy"]}, "compile: metrics would have no effect"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())}, "loss_scale"),
    ],
)
def test_arguments_of_compile_without_effect_are_refused(options, message):
    trainer = tf_mural.ETCL(keras_trainers.make_model())
    with pytest.raises(UserError, match=message):
        trainer.compile(**{"optimizer": "adam", **options})


def test_arguments_of_fit_without_effect_are_refused(records):
    trainer = keras_trainers.make_trainer(eager=True)
    dataset = keras_trainers.make_dataset(records, trainer)
    with pytest.raises(UserError, match="fit: the dataset is infinite: give steps_per_epoch"):
        trainer.fit(dataset)
    with pytest.raises(UserError, match="evaluate: the dataset is infinite: give steps"):
        trainer.evaluate(dataset)
    with pytest.raises(UserError, match="fit: y would have no effect"):
        trainer.fit(finite_dataset()[0], y=np.zeros(8))


def test_wrong_terms_and_sources_are_refused():
    model = keras_trainers.make_model()
    term = tf_mural.Term("t", "image", "caption", 1.0)
    fields = {"image": "image", "caption": "text"}
    for arguments, message in (
        (dict(terms=[term], fields={"image": "image"}), "unknown field .* 'caption'"),
        (dict(terms=[term], fields={**fields, "caption": "txt"}), "unknown tower .* 'txt'"),
        (dict(terms=[term], fields=fields, sources={"a": ["image"]}), "sources contain the fields"),
    ):
        with pytest.raises(UserError, match=message):
            tf_mural.Trainer(model, **arguments)
    with pytest.raises(UserError, match="weights: there is no term 'image_text'"):
        tf_mural.ETCL(model, weights={"image_text": 1.0})
    with pytest.raises(UserError, match="unknown temperature .* 'own'"):
        tf_mural.ETCL(model, scalars={"temperature": "own"})


# --- fit ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_epoch_of_fit_equals_the_steps_of_the_loop():
    dataset, _ = finite_dataset()
    options = {"dropout": 0.1, "bad_step_policy": BadStepPolicy(skip=True)}
    looped = keras_trainers.make_trainer(**options)
    strategy = backend_module().make_strategy("one")
    runner = backend_module().Runner(looped, strategy, lambda start_step: dataset)
    runner.start(0)
    logs = [runner.run(1) for _ in range(STEPS)]
    losses = [float(np.asarray(step_logs["loss"])[0]) for step_logs in logs]

    fitted = keras_trainers.make_trainer(**options)
    history = fitted.fit(dataset, verbose=0).history
    assert_states_equal(keras_trainers.state_of(fitted), keras_trainers.state_of(looped))
    assert history["loss"] == [pytest.approx(np.mean(losses), rel=1e-6)]
    assert history["skipped_steps"] == [0.0] and len(set(losses)) == STEPS
    names = {"loss/image_text_a", "loss_language/de", "gradient_norm", "temperature/shared"}
    assert names < set(history)


@pytest.mark.slow
def test_fit_reads_the_batches_of_its_own_steps(records):
    """A compiled step may increment the variable `step` before the dataset has read the value."""
    trainer = keras_trainers.make_trainer()
    read = []

    class Recording(type(trainer)):
        def compute_objective(self, embeddings, batch, candidates, scalars, offset):
            loss, logs = super().compute_objective(embeddings, batch, candidates, scalars, offset)
            return loss, {**logs, "id": keras.ops.sum(batch["image"]["id"] % 1000)}

    trainer = Recording(trainer.encoder, languages=keras_trainers.LANGUAGES, seed=3)
    trainer.compile(optimizer="sgd")
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: read.append(int(logs["id"]))
    )
    dataset = keras_trainers.make_dataset(records, trainer)
    for _ in range(3):
        trainer.fit(dataset, steps_per_epoch=1, epochs=2, verbose=0, callbacks=[callback])
    fixed = keras_trainers.make_dataset(records, trainer, start_step=0)
    expected = [prepare_ids(batch["image"]["id"].numpy()) for batch in fixed.take(6)]
    assert read == [int(np.sum(ids % 1000)) for ids in expected] and len(set(read)) == 6


def prepare_ids(ids):
    """Returns ids in the form in which a batch contains ids on this backend."""
    if not ON_JAX:
        return ids
    from tf_mural.backends.jax.step_runner import split_int64

    return split_int64(ids)


def momentum_gradients(trainer, dataset):
    """Returns the gradients of one step of `fit`, from the slots of SGD with momentum."""
    trainer.fit(dataset, verbose=0)
    slots = trainer.optimizer.momentums
    return {
        variable.path: -keras.ops.convert_to_numpy(slot.value)
        for variable, slot in zip(trainer.encoder.trainable_variables, slots, strict=True)
    }


OPTIONS = {
    "plain": {},
    "micro-batches": {"microbatch": 4},
    "chunks": {"loss_chunk": 2},
    "remat": {"remat": True},
    "float16": {"precision": "mixed_float16", "loss_scale": 256.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_fit_applies_the_gradients_of_the_step(name):
    options = OPTIONS[name]
    if ON_JAX and name not in ("plain", "micro-batches"):
        pytest.skip("float16 needs a GPU on JAX, and test_jax covers the other options")
    dataset, batches = finite_dataset(1)
    optimizer = keras.optimizers.SGD(1.0, momentum=0.5)
    actual = momentum_gradients(
        keras_trainers.make_trainer(optimizer, dropout=0.2, **options), dataset
    )
    trainer = keras_trainers.make_trainer(dropout=0.2, **options)
    expected = step_gradients(trainer, batches[0])
    scale = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
    tolerance = (1e-2 if name == "float16" else 1e-5) * scale
    for path, gradient in expected.items():
        assert np.linalg.norm(actual[path] - gradient) < tolerance, path
    assert scale > 0.1


def step_gradients(trainer, batch):
    """Returns {path: gradient} of a batch, computed without `fit`."""
    if not ON_JAX:
        gradients, _ = trainer.core.compute_gradients(trainers.to_tensors(batch))
        return trainers.gradients_by_path(trainer, gradients)
    import jax

    from tf_mural.backends.jax.step_runner import split_ids

    def compute(values, batch):
        with keras.StatelessScope(zip(trainer.state_variables, values, strict=True)):
            return trainer.core.compute_gradients(batch)[0]

    values = [v.value for v in trainer.state_variables]
    return trainers.gradients_by_path(trainer, jax.jit(compute)(values, split_ids(batch)))


@pytest.mark.skipif(ON_JAX, reason="JAX has no float16 products on CPUs")
def test_float16_scales_the_loss_by_default():
    trainers_by_precision = {
        precision: tf_mural.ETCL(keras_trainers.make_model(precision=precision))
        for precision in ("float32", "mixed_bfloat16", "mixed_float16")
    }
    scales = {k: t.loss_scale and t.loss_scale.initial for k, t in trainers_by_precision.items()}
    assert scales == {"float32": None, "mixed_bfloat16": None, "mixed_float16": 2.0**15}
    # Keras must save and restore the variables of the loss scale.
    trainer = trainers_by_precision["mixed_float16"]
    saved = {id(v) for v in trainer.non_trainable_variables}
    assert {id(v) for v in trainer.loss_scale.variables} < saved


@pytest.mark.slow
def test_bad_steps_are_skipped_or_end_the_training(capsys):
    dataset, _ = finite_dataset()
    trainer = keras_trainers.make_trainer(
        bad_step_policy=BadStepPolicy(skip=True, max_gradient_norm=1e-9, max_consecutive_skips=3)
    )
    before = trainers.weights_of(trainer)
    history = trainer.fit(dataset.take(2), verbose=0).history
    assert history["skipped_steps"] == [2.0] and trainer.skipped_steps == 2
    assert "step 2: skipped, because gradient_norm is" in capsys.readouterr().out
    assert_states_equal(trainers.weights_of(trainer), before)
    saved = []
    save = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: saved.append(1))
    with pytest.raises(UserError, match="3 consecutive steps were skipped"):
        trainer.fit(dataset, verbose=0, callbacks=[save])
    assert not saved  # The check ends `fit` before the callbacks that save weights are called.


@pytest.mark.slow
def test_a_language_that_a_batch_lacks_does_not_make_its_mean_nan():
    def only_german_in_the_second(batches):
        for field in ("text_a", "text_b"):
            batches[1][field]["language"][:] = 0

    dataset, _ = finite_dataset(3, only_german_in_the_second)
    trainer = keras_trainers.make_trainer()
    shown = []
    progress = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: shown.append(logs))
    history = trainer.fit(dataset, verbose=0, callbacks=[progress]).history
    assert np.isfinite(history["loss_language/en"][0])
    assert len(shown) == 3 and all(np.isfinite(list(logs.values())).all() for logs in shown)


@pytest.mark.slow
def test_ids_that_differ_in_their_upper_half_are_different_texts():
    """Two texts are duplicates only if all 64 bits of their ids are equal."""
    losses = {}
    for name, offset in (("equal", 0), ("different", 1 << 40)):
        batch = trainers.make_batch("etcl", ids=lambda rng: np.zeros(8, np.int64))
        for field in batch.values():
            field["id"] = field["id"] + offset * np.arange(8)
        trainer = keras_trainers.make_trainer(mask_duplicates=True)
        losses[name] = trainer.test_on_batch(batch, return_dict=True)["loss"]
        dataset = tf.data.Dataset.from_tensors(batch)
        from_dataset = trainer.evaluate(dataset, verbose=0, return_dict=True)["loss"]
        assert from_dataset == pytest.approx(losses[name], rel=1e-5)
        logs = trainer.train_on_batch(batch, return_dict=True)
        assert np.isfinite(logs["gradient_norm"]) and trainer.next_step() == 1
    # If all other candidates are duplicates, the softmax has only the matching candidate.
    assert losses["equal"] == pytest.approx(0.0, abs=1e-5) and losses["different"] > 1.0


# --- evaluate and predict -------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_computes_the_objective_and_changes_nothing():
    dataset, batches = finite_dataset(2)
    trainer = keras_trainers.make_trainer(dropout=0.5)
    before = keras_trainers.state_of(trainer)
    logs = trainer.evaluate(dataset, verbose=0, return_dict=True)
    assert_states_equal(keras_trainers.state_of(trainer), before)
    expected = []
    for batch in batches:
        embeddings = {f: np.asarray(x) for f, x in trainer.predict_on_batch(batch).items()}
        sigma = 0.2
        pairs = [("image", "text_a"), ("text_a", "text_b"), ("text_b", "image")]
        losses = [contrastive_by_numpy(embeddings[x], embeddings[y], sigma) for x, y in pairs]
        expected.append(losses)
    expected = np.mean(expected, axis=0)
    names = ["loss/image_text_a", "loss/text_a_text_b", "loss/text_b_image"]
    np.testing.assert_allclose([logs[name] for name in names], expected, rtol=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    as_list = trainer.evaluate(dataset, verbose=0)
    assert sorted(as_list) == pytest.approx(sorted(logs.values()))
    history = trainer.fit(dataset, validation_data=dataset, verbose=0).history
    after = trainer.evaluate(dataset, verbose=0, return_dict=True)
    assert history["val_loss"] == [pytest.approx(after["loss"], rel=1e-6)]
    assert after["loss"] != pytest.approx(logs["loss"], rel=1e-3)


def contrastive_by_numpy(x, y, sigma):
    """Returns the mean loss of both directions, with the margin and the smoothing of the paper."""
    total, n = 0.0, len(x)
    for a, b in ((x, y), (y, x)):
        logits = (a @ b.T - 0.3 * np.eye(n)) / sigma
        log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        target = 0.9 * np.eye(n) + 0.1 / n
        total -= (target * log_softmax).sum() / n
    return total


@pytest.mark.slow
def test_predict_returns_the_embeddings_of_the_fields():
    dataset, batches = finite_dataset(2)
    trainer = keras_trainers.make_trainer()
    predicted = trainer.predict(dataset, verbose=0)
    images = np.concatenate([batch["image"]["pixels"] for batch in batches])
    expected = trainer.encoder.encode("image", keras.ops.convert_to_tensor(images))
    np.testing.assert_allclose(predicted["image"], np.asarray(expected), atol=1e-5)
    assert predicted["text_a"].shape == predicted["text_b"].shape == predicted["image"].shape
    only_text = trainer.predict(
        dataset.map(lambda batch: {"text_a": {"tokens": batch["text_a"]["tokens"]}}), verbose=0
    )
    np.testing.assert_allclose(only_text["text_a"], predicted["text_a"], atol=1e-5)


# --- callbacks and saving -------------------------------------------------------------------------


class Killed(Exception):
    """Ends `fit`, as if the process had been killed."""


def kill_at(step):
    """Returns a callback that ends `fit` after a step."""

    def end(batch, logs):
        counter.append(batch)
        if len(counter) == step:
            raise Killed

    counter = []
    return keras.callbacks.LambdaCallback(on_train_batch_end=end)


@pytest.mark.slow
@pytest.mark.parametrize("save_freq", ["epoch", 1])
def test_a_restored_fit_continues_with_the_next_examples(records, tmp_path, save_freq):
    def fit(trainer, *callbacks, epochs=2):
        dataset = keras_trainers.make_dataset(records, trainer)
        trainer.fit(dataset, steps_per_epoch=3, epochs=epochs, verbose=0, callbacks=callbacks)

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), save_freq=save_freq)

    with pytest.raises(Killed):  # in the middle of the second epoch
        fit(keras_trainers.make_trainer(dropout=0.1), backup(), kill_at(5))
    restored = keras_trainers.make_trainer(dropout=0.1, model_seed=7)
    fit(restored, backup())
    # With a backup after every epoch, the last backup is of step 3. With a backup after every step,
    # the last backup is of step 5, because the callback that ends `fit` is called after the backup.
    # In both cases, Keras repeats the whole second epoch.
    steps = 6 if save_freq == "epoch" else 8
    assert restored.next_step() == steps
    whole = keras_trainers.make_trainer(dropout=0.1)
    dataset = keras_trainers.make_dataset(records, whole)
    whole.fit(dataset, steps_per_epoch=steps, verbose=0)
    assert_states_equal(keras_trainers.state_of(restored), keras_trainers.state_of(whole))


@pytest.mark.slow
def test_callbacks_write_weights_models_and_logs(records, tmp_path):
    trainer = keras_trainers.make_trainer(ON_JAX and tf_mural.optimizers.AdamW(1e-3) or None)
    dataset = keras_trainers.make_dataset(records, trainer)
    weights, model = str(tmp_path / "{epoch}.weights.h5"), str(tmp_path / "model.keras")
    trainer.fit(
        dataset,
        steps_per_epoch=2,
        epochs=2,
        verbose=0,
        validation_data=dataset,
        validation_steps=1,
        callbacks=[
            keras.callbacks.ModelCheckpoint(weights, save_weights_only=True),
            keras.callbacks.ModelCheckpoint(model, monitor="val_loss", save_best_only=True),
            keras.callbacks.TensorBoard(str(tmp_path / "logs"), update_freq="batch"),
        ],
    )
    other = keras_trainers.make_trainer(type(trainer.optimizer)(1e-3), model_seed=7)
    other.load_weights(str(tmp_path / "2.weights.h5"))
    assert_states_equal(keras_trainers.state_of(other), keras_trainers.state_of(trainer))
    other.load_weights(str(tmp_path / "1.weights.h5"))
    assert other.next_step() == 2
    assert os.path.exists(model)
    tags = logged_tags(tmp_path / "logs")
    assert {"epoch_loss", "epoch_temperature/shared"} <= tags


def logged_tags(folder):
    tags = set()
    for path in folder.rglob("*tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    return tags


@pytest.mark.slow
def test_a_saved_trainer_goes_on_after_loading(records, tmp_path):
    options = {
        "weights": {"image_text_a": 1.0},
        "options": {"margin": 0.1},
        "mask_duplicates": True,
        "microbatch": 4,
        "bad_step_policy": BadStepPolicy(skip=True),
    }
    trainer = keras_trainers.make_trainer(**options)
    dataset = keras_trainers.make_dataset(records, trainer)
    trainer.fit(dataset, steps_per_epoch=2, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    trainer.encoder.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert type(loaded) is tf_mural.ETCL and loaded.core.terms == trainer.core.terms
    assert loaded.core.terms[0].weight == 1.0 and loaded.core.terms[0].mask_duplicates
    assert loaded.core.microbatch == 4 and loaded.bad_step_policy.skip
    expected, actual = (list(keras_trainers.state_of(t).values()) for t in (trainer, loaded))
    assert len(expected) == len(actual)
    for a, b in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(a, b)
    # Both trainers continue with the next examples.
    for t in (trainer, loaded):
        t.fit(keras_trainers.make_dataset(records, t), steps_per_epoch=2, verbose=0)
    for a, b in zip(
        keras_trainers.state_of(trainer).values(),
        keras_trainers.state_of(loaded).values(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert type(model) is tf_mural.DualEncoder
    batch = trainers.make_batch("etcl")
    np.testing.assert_allclose(
        model.encode("text", batch["text_a"]["tokens"]).shape, (8, trainers.EMBEDDING_DIM)
    )


_CONTINUE = """
import sys
import keras
import numpy as np
from helpers import keras_trainers, trainers
path, records, out = sys.argv[1:]
trainer = keras.saving.load_model(path)
assert keras.backend.backend() == "jax" and trainer.next_step() == 2
trainer.fit(keras_trainers.make_dataset(records, trainer), steps_per_epoch=2, verbose=0)
np.savez(out, **trainers.weights_of(trainer))
"""


@pytest.mark.slow
@pytest.mark.skipif(ON_JAX, reason="saves a trainer on TensorFlow")
def test_a_trainer_that_was_saved_on_tensorflow_goes_on_on_jax(records, tmp_path):
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    trainer = keras_trainers.make_trainer(optimizer)
    dataset = keras_trainers.make_dataset(records, trainer)
    trainer.fit(dataset, steps_per_epoch=2, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    trainer.fit(dataset, steps_per_epoch=2, verbose=0)
    paths = os.pathsep.join([ROOT, os.path.join(ROOT, "tests")])
    command = [sys.executable, "-c", _CONTINUE, tmp_path / "trainer.keras", records, tmp_path / "w"]
    done = subprocess.run(
        command, env=backend_environment("jax", PYTHONPATH=paths), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(tmp_path / "w.npz") as file:
        actual = {name: file[name] for name in file.files}
    assert largest_error(trainers.weights_of(trainer), actual)[0] < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(ON_JAX, reason="runs this file on JAX")
def test_the_tests_of_this_file_pass_on_jax():
    pytest.importorskip("jax", reason="JAX is not installed: pip install -r requirements-jax.txt")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "slow or not slow", __file__]
    done = subprocess.run(
        command, cwd=ROOT, env=backend_environment("jax"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
