"""Tests the skipping of bad steps and the loss scale, on one replica and on two replicas."""

import gc
import math
import os
import signal
import weakref

import keras
import nonfinite_script
import numpy as np
import pytest
import tensorflow as tf
from helpers import replicas, trainers
from helpers.comparison import largest_error

from tf_mural import optimizers
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow import collectives
from tf_mural.errors import UserError
from tf_mural.nonfinite import BadStepPolicy, LossScale
from tf_mural.training import checkpoints, loop
from tf_mural.training.preemption import Preempted, SignalHandler

# --- the loss scale -------------------------------------------------------------------------------


def test_loss_scale_halves_at_once_and_doubles_after_its_patience():
    scale, history = LossScale(4.0, patience=3), []
    for finite in (True, True, False, True, True, True, True, False, False, False, False):
        scale.update(tf.constant(finite))
        history.append((float(scale.value), int(scale.finite_steps)))
    assert history == [
        *((4, 1), (4, 2), (2, 0)),  # a non-finite step resets `finite_steps`
        *((2, 1), (2, 2), (4, 0), (4, 1)),
        *((2, 0), (1, 0), (1, 0), (1, 0)),  # the scale never falls below 1
    ]


def test_scaling_by_a_power_of_two_is_exact():
    scale, gradient = LossScale(2.0**15), tf.constant([1e-7, -3.3, 0.0])
    np.testing.assert_array_equal(scale.unscale(scale.scale([gradient]))[0], gradient)
    np.testing.assert_array_equal(scale.scale([gradient])[0], gradient * 32768)


# --- the policy -----------------------------------------------------------------------------------


def step_logs(**changes):
    """Returns logs of a good step, changed by the arguments; "__" in their names means "/"."""
    logs = {"loss": 2.0, "loss/a": 1.0, "loss/b": 3.0, "gradient_norm": 5.0}
    return {**logs, **{name.replace("__", "/"): value for name, value in changes.items()}}


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "policy, logs, message, error",
    [
        (BadStepPolicy(), step_logs(), "", None),
        (
            BadStepPolicy(),
            step_logs(loss=NAN, loss__b=NAN),
            None,
            "step 7: the loss of the term b is not fi",
        ),
        (
            BadStepPolicy(),
            step_logs(loss=INF),
            None,
            "step 7: loss is not finite; stopped. The last",
        ),
        (
            BadStepPolicy(),
            step_logs(gradient_norm=INF),
            None,
            "step 7: gradient_norm is not finite; stopped",
        ),
        (
            BadStepPolicy(max_gradient_norm=4.0),
            step_logs(),
            None,
            "gradient_norm is 5, above max_gradient_norm=4; .*with BadStepPolicy.skip=True.$",
        ),
        (BadStepPolicy(max_gradient_norm=5.0), step_logs(), "", None),
        (
            BadStepPolicy(skip=True, max_gradient_norm=4.0),
            step_logs(skipped_in_a_row=1),
            "step 7: skipped, because gradient_norm is 5, above max_gradient_norm=4",
            None,
        ),
        (
            BadStepPolicy(skip=True),
            step_logs(loss__a=NAN, skipped_in_a_row=19),
            "step 7: skipped, because the loss of the term a is not finite",
            None,
        ),
        (
            BadStepPolicy(skip=True),
            step_logs(loss__a=NAN, skipped_in_a_row=20),
            None,
            "step 7: 20 consecutive steps were skipped, this one because the loss of the term a",
        ),
        # With a loss scale, every policy skips a step with overflowing gradients, but only
        # `skip=True` skips a step with a non-finite loss.
        (
            BadStepPolicy(),
            step_logs(gradient_norm=NAN, loss_scale=32768.0, skipped_in_a_row=1),
            "step 7: skipped, because gradient_norm is not finite at a loss scale of 32768",
            None,
        ),
        (
            BadStepPolicy(),
            step_logs(loss=NAN, gradient_norm=NAN, loss_scale=8.0, skipped_in_a_row=1),
            None,
            "step 7: loss is not finite; stopped",
        ),
        (
            BadStepPolicy(max_consecutive_skips=3),
            step_logs(gradient_norm=NAN, loss_scale=1.0, skipped_in_a_row=3),
            None,
            "step 7: 3 consecutive steps .* gradient_norm is not finite at a loss scale of 1; st",
        ),
    ],
)
def test_policy_decides_from_the_logs_and_in_the_graph_alike(policy, logs, message, error):
    if error:
        with pytest.raises(UserError, match=error):
            policy.check_logs(7, logs)
    else:
        assert policy.check_logs(7, logs) == message
    tensors = {name: tf.constant(value) for name, value in logs.items()}
    apply_update = policy.should_apply(tensors, logs["gradient_norm"])
    assert bool(apply_update) == (message == "")


@pytest.mark.parametrize("name", ["lamb", "adam", "sgd"])
def test_an_update_that_is_not_applied_changes_nothing(name):
    initial = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    variable, reference_variable = keras.Variable(initial), keras.Variable(initial)
    options = {"momentum": 0.9} if name == "sgd" else {}
    makers = {"lamb": optimizers.LAMB, "adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    optimizer, reference = (makers[name](0.1, **options) for _ in range(2))
    optimizer.build([variable])
    reference.build([reference_variable])

    @tf.function(autograph=False)
    def step(gradient, apply_update):
        collectives.apply_gradients(optimizer, [gradient], [variable], apply_update)

    def state(optimizer, variable):
        return [v.numpy() for v in (variable, *optimizer.variables)]

    good = tf.constant([[0.5, -1.0], [2.0, 0.1]])
    for gradient, apply_update in ((good, True), (good * math.nan, False), (good * 2, True)):
        before = state(optimizer, variable)
        step(gradient, tf.constant(apply_update))
        if apply_update:
            collectives.apply_gradients(reference, [gradient], [reference_variable])
        else:
            for expected, actual in zip(before, state(optimizer, variable), strict=True):
                np.testing.assert_array_equal(actual, expected)
    pairs = zip(state(reference, reference_variable), state(optimizer, variable), strict=True)
    for expected, actual in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert int(optimizer.iterations.numpy()) == 2


# --- the loop -------------------------------------------------------------------------------------


class FakeRun:
    """A trainer with given gradient norms, which also replaces metric writer and checkpoints."""

    jit_compile = False

    def __init__(self, norms, bad_step_policy):
        self.bad_step_policy, self.norms = bad_step_policy, tf.constant(norms)
        self.step, self.skips = tf.Variable(0, dtype=tf.int64), tf.Variable(0)
        self.lines, self.logs, self.saved, self.on_wait = [], {}, [], None

    def train_step(self, batch):
        """Runs a step; a step whose gradient norm is not finite counts as skipped."""
        norm = self.norms[self.step]
        self.skips.assign(tf.where(tf.math.is_finite(norm), 0, self.skips + 1))
        self.step.assign_add(1)
        loss = tf.constant(1.0) * tf.cast(batch, tf.float32)
        logs = {"loss": loss, "loss/a": loss, "gradient_norm": norm, "temperature_clamped": loss}
        return {**logs, "skipped_in_a_row": tf.cast(self.skips, tf.float32)}

    def start(self, step, steps):
        """See `MetricWriter.start`."""

    def info(self, line):
        """See `MetricWriter.info`."""
        self.lines.append(line)

    def write(self, step, values):
        """See `MetricWriter.write`."""
        self.logs[step] = values

    def save(self, step):
        """See `CheckpointManager.save`."""
        self.saved.append(step)

    def check_for_errors(self):
        """See `CheckpointManager.check_for_errors`."""

    def wait_until_finished(self):
        """See `CheckpointManager.wait_until_finished`."""
        if self.on_wait:
            self.on_wait()

    def train(self, steps, **options):
        """Runs the training loop."""
        strategy = tf_backend.make_strategy("one")
        data = tf.data.Dataset.from_tensors(1).repeat()
        options = dict(log_every=2, checkpoint_every=2, steps_per_loop=2, **options)
        runner = tf_backend.Runner(self, strategy, lambda start_step: data)
        loop.train(self, runner, steps, self, self, **options)


@pytest.mark.parametrize("devices", ["one", "mirrored"])
def test_the_iterator_of_a_runner_is_destroyed_with_it(devices):
    trainer, strategy = FakeRun([1.0] * 5, BadStepPolicy()), tf_backend.make_strategy(devices)
    data = tf.data.Dataset.from_tensors(1).repeat()
    runner = tf_backend.Runner(trainer, strategy, lambda start_step: data)
    runner.start(0)
    for count in (1, 2, 1):
        assert len(runner.run(count)["loss"]) == count
    batches = weakref.ref(runner._batches)
    # Reference counting must destroy the iterator, because garbage collection may run in a thread
    # of tf.data.
    gc.disable()
    try:
        del runner
        assert batches() is None
    finally:
        gc.enable()


def test_skipped_steps_are_printed_and_training_continues():
    run = FakeRun([1.0, INF, 2.0, NAN, NAN, 3.0], BadStepPolicy(skip=True, max_consecutive_skips=3))
    run.train(6)
    assert run.lines == [
        f"step {step}: skipped, because gradient_norm is not finite" for step in (2, 4, 5)
    ]
    assert run.saved == [2, 4, 6]
    assert run.logs[4]["gradient_norm"] == 2.0 and run.logs[4]["skipped_in_a_row"] == 1
    # The number of clipped temperatures is summed over the two steps since the previous log.
    assert run.logs[4]["temperature_clamped"] == 2.0


def test_a_signal_during_the_last_checkpoint_stops_the_run():
    run = FakeRun([1.0, 1.0, 1.0], BadStepPolicy())
    run.on_wait = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with SignalHandler(print_fn=run.lines.append) as signals, signals.deferred():
        with pytest.raises(Preempted, match="^SIGTERM: saved at step 3; the same command"):
            run.train(3, signals=signals)
        signals.received = 0  # prevents `deferred` from raising `Preempted` again
    assert run.saved == [2, 3]


def test_too_many_consecutive_skips_stop_the_run_before_a_checkpoint():
    run = FakeRun([1.0, 1.0, NAN, NAN, NAN, 1.0], BadStepPolicy(skip=True, max_consecutive_skips=2))
    with pytest.raises(UserError, match="^step 4: 2 consecutive steps were skipped, this one"):
        run.train(6)
    assert run.saved == [2]


# --- a step of the trainer ------------------------------------------------------------------------


def state_of(trainer):
    """Returns the values of all variables that an applied step changes, without step counters."""
    variables = [v for v in trainer.encoder.variables if "seed_generator" not in v.path]
    scale = trainer.loss_scale.variables if trainer.loss_scale else []
    variables += [*trainer.optimizer.variables, *scale]
    return [v.numpy() for v in variables]


def test_a_step_with_too_large_a_norm_is_skipped_without_a_trace():
    policy = BadStepPolicy(skip=True, max_gradient_norm=1e-3)
    trainer = trainers.make_trainer("etcl", bad_step_policy=policy)
    batch = trainers.to_tensors(trainers.make_batch("etcl"))
    before = state_of(trainer)
    logs = trainer.train_step(batch)
    assert float(logs["gradient_norm"]) > 1e-3 and float(logs["skipped_steps"]) == 1
    for expected, actual in zip(before, state_of(trainer), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert (int(trainer.step.numpy()), trainer.skipped_steps) == (1, 1)
    # The model has no dropout. Therefore, the next step, which has no limit of the gradient norm,
    # must equal the first step of a run without skipped steps.
    reference = trainers.make_trainer("etcl")
    reference.train_step(batch)
    trainer.core.bad_step_policy = BadStepPolicy(skip=True)
    assert float(trainer.train_step(batch)["skipped_in_a_row"]) == 0
    variables = zip(reference.encoder.variables, trainer.encoder.variables, strict=True)
    for expected, actual in variables:
        np.testing.assert_allclose(
            actual.numpy(), expected.numpy(), rtol=1e-6, err_msg=expected.path
        )


@pytest.mark.parametrize("start, bound", [(0.006, 0.005), (1.99, 2.0)])
@pytest.mark.parametrize("skip", [False, True])
def test_a_temperature_is_clipped_at_its_bounds_and_counted(start, bound, skip):
    trainer = trainers.make_trainer("mural", bad_step_policy=BadStepPolicy(skip=skip))
    batch = trainers.to_tensors(trainers.make_batch("mural"))
    (temperature,) = trainer.encoder.scalar_variables
    results = []
    for rate in (1e4, -1e4):  # one of these learning rates moves the temperature beyond its bound
        temperature.assign(start)
        trainer.compile(optimizer=keras.optimizers.SGD(rate))
        before = [v.numpy() for v in trainer.encoder.trainable_variables]
        logs = trainer.train_step(batch)
        results.append((float(logs["temperature_clamped"]), float(temperature.numpy())))
        assert float(logs["temperature/shared"]) == results[-1][1]
        for variable, value in zip(trainer.encoder.trainable_variables, before, strict=True):
            variable.assign(value)
    assert (1.0, pytest.approx(bound)) in results


def test_a_resumed_float16_run_is_bitwise_equal(tmp_path):
    def make_trainer():
        trainer = trainers.make_trainer("etcl", 0.3, precision="mixed_float16", loss_scale=2.0**15)
        trainer.loss_scale._patience = 2
        return trainer

    trainer, batch = make_trainer(), trainers.to_tensors(trainers.make_batch("etcl"))
    manager = checkpoints.CheckpointManager(str(tmp_path), trainer)
    manager.restore({"vocabulary_hash": "x"})
    scales = []
    for step in range(8):
        scales.append(float(trainer.train_step(batch)["loss_scale"]))
        if step == 4:
            manager.save(5)
            state_at_5 = [*state_of(trainer), trainer.step.numpy()]
    changes = np.diff([*scales, float(trainer.loss_scale.value)])
    # The initial scale is too large for these gradients and is halved after the first step. Later,
    # the scale doubles after two finite steps.
    assert changes[0] == -(2.0**14) and (changes > 0).any()
    assert trainer.skipped_steps == (changes < 0).sum()
    manager.wait_until_finished()
    resumed = make_trainer()
    manager = checkpoints.CheckpointManager(str(tmp_path), resumed)
    assert manager.restore({"vocabulary_hash": "x"})
    resumed_state = [*state_of(resumed), resumed.step.numpy()]
    for expected, actual in zip(state_at_5, resumed_state, strict=True):
        np.testing.assert_array_equal(actual, expected)
    for _ in range(3):
        resumed.train_step(batch)
    assert int(resumed.step.numpy()) == int(trainer.step.numpy()) == 8
    for expected, actual in zip(state_of(trainer), state_of(resumed), strict=True):
        np.testing.assert_array_equal(actual, expected)


# --- two replicas ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    """Returns {name: array}, the output of nonfinite_script.py."""
    out = tmp_path_factory.mktemp("nonfinite") / "out.npz"
    return replicas.run_script("nonfinite_script.py", out=out)


def with_prefix(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@pytest.mark.slow
@pytest.mark.parametrize("case", nonfinite_script.CASES)
def test_infinite_gradients_of_one_replica_skip_the_step_on_all(two_replicas, case):
    phases = ("start", "good", "bad", "again")
    states = {phase: with_prefix(two_replicas, f"{case}/{phase}/") for phase in phases}
    logs = {phase: with_prefix(states[phase], "1/log ") for phase in phases}
    for phase in phases:
        first, second = (with_prefix(states[phase], f"{i}/") for i in range(2))
        for name, value in second.items():
            np.testing.assert_array_equal(value, first[name], err_msg=name)
            assert np.isfinite(value).all() or "log " in name, name
    state = {
        phase: {k: v for k, v in with_prefix(states[phase], "0/").items() if "log " not in k}
        for phase in phases
    }
    assert sum("/moving_" in name for name in state["bad"]) > 10
    assert sum("second" in name for name in state["bad"]) > 50
    for name, value in state["good"].items():
        if name != "step":
            np.testing.assert_array_equal(state["bad"][name], value, err_msg=name)
            # The next good step changes all values except the key biases of attention, whose
            # gradient is 0.
            assert name.endswith("key/bias") or not np.array_equal(value, state["again"][name])
    assert [int(state[phase]["step"]) for phase in phases[1:]] == [1, 2, 3]
    assert [float(logs[phase]["skipped_steps"]) for phase in phases[1:]] == [0, 1, 1]
    assert [float(logs[phase]["skipped_in_a_row"]) for phase in phases[1:]] == [0, 1, 0]
    # The loss of the bad step is finite; only its gradient norm is not.
    assert np.isfinite(logs["bad"]["loss"]) and not np.isfinite(logs["bad"]["gradient_norm"])
    if case == "float16":
        assert [float(logs[phase]["loss_scale"]) for phase in phases[1:]] == [1024, 1024, 512]


@pytest.mark.slow
def test_gradients_of_two_replicas_are_the_same_with_gradient_checkpointing(two_replicas):
    plain, remat = (with_prefix(two_replicas, f"{name}/") for name in ("plain", "remat"))
    assert sum(name.startswith("average of 1/") for name in plain) > 10
    assert largest_error(plain, remat)[0] < 1e-10
