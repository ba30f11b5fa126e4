"""A resumed run equals an uninterrupted run bit for bit; Keras' `fit` takes the same steps."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mural import experiment
from tf_mural.backends.tensorflow import Runner, make_strategy
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading
from tf_mural.training import checkpoints, loop, metric_writer

STEPS, STOP = 6, 3
CHANGES = (
    "batch_size=8",
    f"steps={STEPS}",
    "model.text.dropout=0.1",
    "model.image.stochastic_depth=0.2",
    "model.image.virtual_batch_size=4",
    "evaluation.retrieval.languages=en",
)


def build_run(data_dir, seed_offset=0):
    """Returns a `Run` of ETCL, the stage with most features.

    Args:
        data_dir: folder of the record sets.
        seed_offset: number that is added to the seed of the initial weights.
    """
    config = config_loading.load_config("etcl", "tiny")
    config_loading.apply_overrides(config, [f"--config.{change}" for change in CHANGES])
    with pytest.MonkeyPatch.context() as patch:
        set_seed = keras.utils.set_random_seed
        patch.setattr(keras.utils, "set_random_seed", lambda seed: set_seed(seed + seed_offset))
        return experiment.build(config, str(data_dir), make_strategy("one"))


class RecordedRun(metric_writer.NullWriter):
    """Trains a run; as the metric writer of the training loop, records its logs and batches.

    Attributes:
        logs: {step: logs}.
        batches: {number of a step: list of the arrays of its batch}.
        evaluated_at: list of the evaluated steps.
    """

    def __init__(self, run, workdir, save_only_at=None):
        self.run, self.save_only_at = run, save_only_at
        self.manager = checkpoints.CheckpointManager(str(workdir), run.trainer)
        self.logs, self.batches, self.evaluated_at = {}, {}, []

    def train(self):
        """Runs the training loop from the current step to `STEPS`."""
        runner = Runner(self.run.trainer, make_strategy("one"), self._dataset)
        manager = types.SimpleNamespace(
            save=self._save,
            check_for_errors=self.manager.check_for_errors,
            wait_until_finished=self.manager.wait_until_finished,
        )
        loop.train(
            self.run.trainer,
            runner,
            STEPS,
            manager,
            self,
            log_every=1,
            checkpoint_every=1,
            evaluate=self.evaluated_at.append,
            evaluate_every=STOP,
        )

    def write(self, step, values):
        self.logs[step] = values

    def _dataset(self, start_step):
        def record(step, batch):
            flat = tf.nest.flatten(batch, expand_composites=True)
            tf.py_function(self._record_batch, [step, *flat], [])
            return batch

        return self.run.dataset(start_step=start_step).enumerate(start_step).map(record)

    def _record_batch(self, step, *values):
        self.batches[int(step)] = [value.numpy() for value in values]

    def _save(self, step):
        if self.save_only_at in (None, step):
            self.manager.save(step)

    def state(self):
        """Returns {path: array} of the variables of model and optimizer."""
        trainer = self.run.trainer
        variables = [v for v in trainer.encoder.variables if "seed" not in v.path]
        return {v.path: v.numpy() for v in [*variables, *trainer.optimizer.variables]}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def uninterrupted(data_dir, workdir):
    """Returns an uninterrupted run, which saves only step `STOP`, and its initial state."""
    recorded = RecordedRun(build_run(data_dir), workdir, save_only_at=STOP)
    assert not recorded.manager.restore(recorded.run.description)
    initial_state = recorded.state()
    recorded.train()
    return recorded, initial_state


@pytest.fixture(scope="module")
def resumed(uninterrupted, data_dir, workdir):
    """Returns a run that resumes at step `STOP`, and the state of the run before the restore."""
    recorded = RecordedRun(build_run(data_dir, seed_offset=7), workdir)
    initial_state = recorded.state()
    assert recorded.manager.restore(recorded.run.description)
    assert int(recorded.run.trainer.step.numpy()) == STOP
    recorded.train()
    return recorded, initial_state


def test_resumed_run_was_built_with_other_weights(uninterrupted, resumed):
    first, second = uninterrupted[1], resumed[1]
    assert first.keys() == second.keys()
    embedding = next(path for path in first if path.endswith("token_embedding/embeddings"))
    assert not np.array_equal(first[embedding], second[embedding])


def test_resumed_run_reads_the_same_batches(uninterrupted, resumed):
    expected, batches = uninterrupted[0].batches, resumed[0].batches
    assert min(batches) == STOP  # earlier batches are not read again
    for step in range(STOP, STEPS):
        for a, b in zip(expected[step], batches[step], strict=True):
            np.testing.assert_array_equal(a, b)
    previous = zip(expected[STOP - 1], expected[STOP], strict=True)
    assert not all(np.array_equal(a, b) for a, b in previous)


def test_resumed_run_has_the_same_logs(uninterrupted, resumed):
    assert list(resumed[0].logs) == [4, 5, 6]
    for step, values in resumed[0].logs.items():
        assert values == uninterrupted[0].logs[step]


def test_resumed_run_ends_with_the_same_weights_and_slots(uninterrupted, resumed):
    expected, state = uninterrupted[0].state(), resumed[0].state()
    assert any("moving_variance" in path for path in expected)
    assert any("second" in path for path in expected)
    assert any("iteration" in path for path in expected)
    assert expected.keys() == state.keys()
    for path in expected:
        np.testing.assert_array_equal(expected[path], state[path], err_msg=path)
        if "moving_" in path:
            assert not np.array_equal(expected[path], uninterrupted[1][path]), path


def test_interrupted_evaluation_is_repeated(uninterrupted, resumed):
    # The training loop does not evaluate after the last step, because the caller of the loop does.
    assert uninterrupted[0].evaluated_at == resumed[0].evaluated_at == [STOP]


def test_checkpoint_with_another_vocabulary_is_refused(uninterrupted):
    other = {**uninterrupted[0].run.description, "vocabulary_hash": "0123"}
    message = "has the vocabulary [0-9a-f]{16}, this run has 0123"
    with pytest.raises(UserError, match=message):
        uninterrupted[0].manager.restore(other)


def test_finished_run_is_not_trained_further(uninterrupted):
    recorded = uninterrupted[0]
    expected = recorded.state()
    recorded.train()
    state = recorded.state()
    assert all(np.array_equal(value, state[path]) for path, value in expected.items())


def test_fit_of_keras_takes_the_same_steps(uninterrupted, data_dir):
    run = build_run(data_dir)
    options = dict(steps_per_epoch=1, epochs=2, shuffle=False, verbose=0)
    history = run.trainer.fit(run.dataset(start_step=0), **options).history
    assert int(run.trainer.step.numpy()) == 2
    for step in (1, 2):
        for name, value in uninterrupted[0].logs[step].items():
            np.testing.assert_allclose(history[name][step - 1], value, rtol=1e-5, err_msg=name)
