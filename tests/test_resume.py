"""The loop stops and goes on exactly, built anew from another seed; and Keras' own `fit`."""

import keras
import numpy as np
import options
import pytest
import tensorflow as tf

from tf_mural import experiment
from tf_mural.backends.tensorflow import Runner, make_strategy
from tf_mural.errors import UserError
from tf_mural.training import checkpoints, loop

STEPS, STOP = 6, 3
CHANGES = (
    "batch_size=8",
    f"steps={STEPS}",
    "model.text.dropout=0.1",
    "model.image.stochastic_depth=0.2",
    "model.image.batch_norm_group=4",
    "evaluation.retrieval.languages=en",
)


def built(data_dir, another_seed=0):
    """ETCL, the stage with most to it: triples, every combination walked once."""
    config = options.load_config("etcl", "tiny")
    options.override(config, [f"--config.{change}" for change in CHANGES])
    with pytest.MonkeyPatch.context() as patch:
        seeded = keras.utils.set_random_seed
        patch.setattr(keras.utils, "set_random_seed", lambda seed: seeded(seed + another_seed))
        return experiment.build(config, str(data_dir), make_strategy("one"))


class Watched:
    """What `loop.train` logs, saves and reads, step by step."""

    def __init__(self, run, folder, only_save=None):
        self.run, self.only_save = run, only_save
        self.saved = checkpoints.Checkpoints(str(folder), run.trainer)
        self.logs, self.batches, self.evaluated_at = {}, {}, []

    def train(self, steps=STEPS):
        """Runs the loop with this as its log and its checkpoints."""
        runner = Runner(self.run.trainer, make_strategy("one"), self.dataset)
        arguments = (self.run.trainer, runner, steps, self, self)
        evaluate = dict(evaluate=self.evaluated_at.append, evaluate_every=STOP)
        loop.train(*arguments, log_every=1, checkpoint_every=1, **evaluate)

    def dataset(self, start_step):
        """The batches, noted under their step as they pass by."""

        def note(step, batch):
            flat = tf.nest.flatten(batch, expand_composites=True)
            tf.py_function(self._note, [step, *flat], [])
            return batch

        return self.run.dataset(start_step=start_step).enumerate(start_step).map(note)

    def _note(self, step, *values):
        self.batches[int(step)] = [value.numpy() for value in values]

    def save(self, step):
        """As `Checkpoints.save`."""
        if self.only_save in (None, step):
            self.saved.save(step)

    def check(self):
        """As `Checkpoints.check`."""
        self.saved.check()

    def wait(self):
        """As `Checkpoints.wait`."""
        self.saved.wait()

    def start(self, step, steps):
        """As `loop.Log.start`."""

    def goes_on(self, step):
        """As `loop.Log.goes_on`."""

    def write(self, step, values):
        """As `loop.Log.write`."""
        self.logs[step] = values

    def state(self):
        """{path: array} of model and optimizer."""
        trainer = self.run.trainer
        variables = [v for v in trainer.encoder.variables if "seed" not in v.path]
        return {v.path: v.numpy() for v in [*variables, *trainer.optimizer.variables]}


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """A run from first to last step, whose only checkpoint is that of step `STOP`."""
    folder = tmp_path_factory.mktemp("whole")
    watched = Watched(built(data_dir), folder, only_save=STOP)
    assert not watched.saved.restore(watched.run.description)
    start = watched.state()
    watched.train()
    return watched, folder, start


@pytest.fixture(scope="module")
def resumed(whole, data_dir):
    """A run built from another seed, that goes on from there."""
    watched = Watched(built(data_dir, another_seed=7), whole[1])
    start = watched.state()
    assert watched.saved.restore(watched.run.description)
    assert int(watched.run.trainer.step.numpy()) == STOP
    watched.train()
    return watched, start


def test_the_seed_was_another_one(whole, resumed):
    one, two = whole[2], resumed[1]
    assert one.keys() == two.keys()
    embedding = next(path for path in one if path.endswith("token_embedding/embeddings"))
    assert not np.array_equal(one[embedding], two[embedding])


def test_the_batches_are_those_of_the_whole_run(whole, resumed):
    one, two = whole[0].batches, resumed[0].batches
    assert min(two) == STOP  # nothing was read again
    for step in range(STOP, STEPS):
        for a, b in zip(one[step], two[step], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(one[STOP - 1], one[STOP], strict=True))


def test_losses_and_norms_are_those_of_the_whole_run(whole, resumed):
    assert list(resumed[0].logs) == [4, 5, 6]
    for step, values in resumed[0].logs.items():
        assert values == whole[0].logs[step]


def test_the_end_weights_and_slots_are_equal_bit_for_bit(whole, resumed):
    one, two = whole[0].state(), resumed[0].state()
    assert any("moving_variance" in path for path in one)
    assert any("second" in path for path in one) and any("iteration" in path for path in one)
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], err_msg=path)
        if "moving_" in path:
            assert not np.array_equal(one[path], whole[2][path]), path


def test_an_evaluation_that_was_not_finished_is_made_up_for(whole, resumed):
    # After the last step the caller evaluates.
    assert whole[0].evaluated_at == resumed[0].evaluated_at == [STOP]


def test_another_vocabulary_is_no_resume(whole):
    other = {**whole[0].run.description, "vocabulary_hash": "0123"}
    with pytest.raises(UserError, match="is of vocabulary [0-9a-f]{16}, this run has 0123"):
        whole[0].saved.restore(other)


def test_a_finished_run_is_not_trained_further(whole):
    watched = whole[0]
    before = watched.state()
    watched.train()
    assert all(np.array_equal(before[path], value) for path, value in watched.state().items())


def test_fit_of_keras_takes_the_same_steps(whole, data_dir):
    run = built(data_dir)
    options = dict(steps_per_epoch=2, epochs=1, shuffle=False, verbose=0)
    history = run.trainer.fit(run.dataset(start_step=0), **options).history
    assert int(run.trainer.step.numpy()) == 2
    for name, value in whole[0].logs[2].items():
        np.testing.assert_allclose(history[name][-1], value, rtol=1e-5, err_msg=name)
