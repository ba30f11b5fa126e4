"""Steps that are skipped or stop a run, and the loss scale: on one replica by hand, and on two."""

import gc
import math
import os
import signal
import subprocess
import sys
import weakref

import guards
import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf
from test_microbatch import worst

from tf_mural import optimizers
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError
from tf_mural.nonfinite import Limits, LossScale
from tf_mural.training import checkpoints, loop
from tf_mural.training.preemption import Signals, Stopped

# --- the loss scale -------------------------------------------------------------------------------


def test_the_scale_is_halved_at_once_and_doubled_after_its_patience():
    scale, seen = LossScale(4.0, patience=3), []
    for finite in (True, True, False, True, True, True, True, False, False, False, False):
        scale.update(tf.constant(finite))
        seen.append((float(scale.value), int(scale.finite_steps)))
    assert seen == [
        *((4, 1), (4, 2), (2, 0)),  # two good steps do not count any more
        *((2, 1), (2, 2), (4, 0), (4, 1)),
        *((2, 0), (1, 0), (1, 0), (1, 0)),  # never below 1
    ]


def test_a_power_of_two_costs_no_digit():
    scale, gradient = LossScale(2.0**15), tf.constant([1e-7, -3.3, 0.0])
    np.testing.assert_array_equal(scale.unscaled(scale.scaled([gradient]))[0], gradient)
    np.testing.assert_array_equal(scale.scaled([gradient])[0], gradient * 32768)


# --- what is skipped, and what a line about it says -----------------------------------------------


def values(**changes):
    found = {"loss": 2.0, "loss/a": 1.0, "loss/b": 3.0, "gradient_norm": 5.0}
    return {**found, **{name.replace("__", "/"): value for name, value in changes.items()}}


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "limits, logs, line, error",
    [
        (Limits(), values(), "", None),
        (Limits(), values(loss=NAN, loss__b=NAN), None, "step 7: the loss of the term b is not fi"),
        (Limits(), values(loss=INF), None, "step 7: loss is not finite; stopped, and the last"),
        (Limits(), values(gradient_norm=INF), None, "step 7: gradient_norm is not finite; stopped"),
        (
            Limits(gradient_norm=4.0),
            values(),
            None,
            "step 7: gradient_norm is 5, above max_gradient_norm=4; .*--config.on_bad_step=skip$",
        ),
        (Limits(gradient_norm=5.0), values(), "", None),
        (
            Limits(skip=True, gradient_norm=4.0),
            values(skipped_in_a_row=1),
            "step 7: skipped, because gradient_norm is 5, above max_gradient_norm=4",
            None,
        ),
        (
            Limits(skip=True),
            values(loss__a=NAN, skipped_in_a_row=19),
            "step 7: skipped, because the loss of the term a is not finite",
            None,
        ),
        (
            Limits(skip=True),
            values(loss__a=NAN, skipped_in_a_row=20),
            None,
            "step 7: 20 steps in a row were skipped, this one because the loss of the term a",
        ),
        # A scale that is too large is no bad step; a loss that is not finite is one at any scale.
        (
            Limits(),
            values(gradient_norm=NAN, loss_scale=32768.0, skipped_in_a_row=1),
            "step 7: skipped, because gradient_norm is not finite at a loss scale of 32768",
            None,
        ),
        (
            Limits(),
            values(loss=NAN, gradient_norm=NAN, loss_scale=8.0, skipped_in_a_row=1),
            None,
            "step 7: loss is not finite; stopped",
        ),
        (
            Limits(in_a_row=3),
            values(gradient_norm=NAN, loss_scale=1.0, skipped_in_a_row=3),
            None,
            "step 7: 3 steps in a row .* gradient_norm is not finite at a loss scale of 1; stopped",
        ),
    ],
)
def test_steps_are_judged(limits, logs, line, error):
    if error:
        with pytest.raises(UserError, match=error):
            limits.judge(7, logs)
    else:
        assert limits.judge(7, logs) == line
    # The graph says the same of the step, before the update.
    fine = limits.allows({k: tf.constant(v) for k, v in logs.items()}, logs["gradient_norm"])
    assert bool(fine) == (limits.judge(7, logs) == "" if not error else False)


@pytest.mark.parametrize("name", ["lamb", "adam", "sgd"])
def test_an_optimizer_that_is_not_wanted_changes_nothing(name):
    rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    variable, twin = keras.Variable(rows), keras.Variable(rows)
    options = {"momentum": 0.9} if name == "sgd" else {}
    makers = {"lamb": optimizers.Lamb, "adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    one, two = (makers[name](0.1, **options) for _ in range(2))
    one.build([variable])
    two.build([twin])

    @tf.function(autograph=False)
    def step(gradient, wanted):
        tf_backend.apply_gradients(one, [gradient], [variable], wanted)

    def state(optimizer, variable):
        return [v.numpy() for v in (variable, *optimizer.variables)]

    good = tf.constant([[0.5, -1.0], [2.0, 0.1]])
    for gradient, wanted in ((good, True), (good * math.nan, False), (good * 2, True)):
        before = state(one, variable)
        step(gradient, tf.constant(wanted))
        if wanted:
            tf_backend.apply_gradients(two, [gradient], [twin])
        else:
            for then, now in zip(before, state(one, variable), strict=True):
                np.testing.assert_array_equal(now, then)
    for expected, found in zip(state(two, twin), state(one, variable), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert int(one.iterations.numpy()) == 2


# --- the loop -------------------------------------------------------------------------------------


class Fake:
    """A trainer whose steps the test knows, and the log and checkpoints of its run."""

    jit_compile = False

    def __init__(self, norms, limits):
        self.limits, self.norms = limits, tf.constant(norms)
        self.step, self.skips = tf.Variable(0, dtype=tf.int64), tf.Variable(0)
        self.lines, self.logs, self.saved, self.while_waiting = [], {}, [], None

    def train_step(self, batch):
        """One step, skipped where the norm is not finite."""
        norm = self.norms[self.step]
        self.skips.assign(tf.where(tf.math.is_finite(norm), 0, self.skips + 1))
        self.step.assign_add(1)
        loss = tf.constant(1.0) * tf.cast(batch, tf.float32)
        told = {"loss": loss, "loss/a": loss, "gradient_norm": norm, "temperature_clamped": loss}
        return {**told, "skipped_in_a_row": tf.cast(self.skips, tf.float32)}

    def start(self, step, steps):
        """As `loop.Log.start`."""

    def note(self, line):
        """As `loop.Log.note`."""
        self.lines.append(line)

    def write(self, step, values):
        """As `loop.Log.write`."""
        self.logs[step] = values

    def save(self, step):
        """As `Checkpoints.save`."""
        self.saved.append(step)

    def check(self):
        """As `Checkpoints.check`."""

    def wait(self):
        """As `Checkpoints.wait`."""
        if self.while_waiting:
            self.while_waiting()

    def train(self, steps, **more):
        """The loop over as many steps."""
        strategy = tf_backend.make_strategy("one")
        data = tf.data.Dataset.from_tensors(1).repeat()
        options = dict(log_every=2, checkpoint_every=2, steps_per_loop=2, **more)
        runner = tf_backend.Runner(self, strategy, lambda start_step: data)
        loop.train(self, runner, steps, self, self, **options)


@pytest.mark.parametrize("devices", ["one", "mirrored"])
def test_what_a_runner_reads_by_dies_with_it(devices):
    trainer, strategy = Fake([1.0] * 5, Limits()), tf_backend.make_strategy(devices)
    data = tf.data.Dataset.from_tensors(1).repeat()
    runner = tf_backend.Runner(trainer, strategy, lambda start_step: data)
    runner.start(0)
    for count in (1, 2, 1):
        assert len(runner.run(count)["loss"]) == count
    batches = weakref.ref(runner._batches)
    gc.disable()  # It may come in any thread, and one of tf.data's must not destroy an iterator.
    try:
        del runner
        assert batches() is None
    finally:
        gc.enable()


def test_skipped_steps_are_named_and_the_run_goes_on():
    run = Fake([1.0, INF, 2.0, NAN, NAN, 3.0], Limits(skip=True, in_a_row=3))
    run.train(6)
    assert run.lines == [
        f"step {step}: skipped, because gradient_norm is not finite" for step in (2, 4, 5)
    ]
    assert run.saved == [2, 4, 6]
    assert run.logs[4]["gradient_norm"] == 2.0 and run.logs[4]["skipped_in_a_row"] == 1
    # How often the temperature was at its bounds is a sum over the steps.
    assert run.logs[4]["temperature_clamped"] == 2.0


def test_a_signal_while_the_last_checkpoint_is_written_stops_the_run():
    run = Fake([1.0, 1.0, 1.0], Limits())
    run.while_waiting = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with Signals(say=run.lines.append) as signals, signals.noted():
        with pytest.raises(Stopped, match="^SIGTERM: saved at step 3; the same command goes on"):
            run.train(3, signals=signals)
        signals.received = 0  # it was made something of
    assert run.saved == [2, 3]


def test_too_many_in_a_row_stop_the_run_before_a_checkpoint():
    run = Fake([1.0, 1.0, NAN, NAN, NAN, 1.0], Limits(skip=True, in_a_row=2))
    with pytest.raises(UserError, match="^step 4: 2 steps in a row were skipped, this one because"):
        run.train(6)
    assert run.saved == [2]


# --- a step of the trainer ------------------------------------------------------------------------


def test_a_norm_above_the_limit_is_skipped_and_the_next_step_is_as_if_it_had_not_been():
    trainer, kinds = replicas.trainer_of("etcl", limits=Limits(skip=True, gradient_norm=1e-3))
    batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))
    paths = [v for v in trainer.encoder.variables if "seed_generator" not in v.path]
    before = [v.numpy() for v in (*paths, *trainer.optimizer.variables)]
    logs = trainer.train_step(batch)
    assert float(logs["gradient_norm"]) > 1e-3 and float(logs["skipped_steps"]) == 1
    after = [v.numpy() for v in (*paths, *trainer.optimizer.variables)]
    for then, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(now, then)
    assert (int(trainer.step.numpy()), trainer.skipped_steps) == (1, 1)
    # Without dropout the next step is the first one of a run without a limit.
    twin, _ = replicas.trainer_of("etcl")
    twin.train_step(batch)
    trainer.limits = Limits(skip=True)
    assert float(trainer.train_step(batch)["skipped_in_a_row"]) == 0
    for one, two in zip(twin.encoder.variables, trainer.encoder.variables, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=1e-6, err_msg=one.path)


@pytest.mark.parametrize("start, bound", [(0.006, 0.005), (1.99, 2.0)])
@pytest.mark.parametrize("skip", [False, True])
def test_a_step_that_takes_the_temperature_too_far_ends_at_the_bound_and_says_so(
    start, bound, skip
):
    trainer, kinds = replicas.trainer_of("mural", limits=Limits(skip=skip))
    batch = tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))
    (temperature,) = trainer.encoder.temperatures.values()
    hits = []
    for rate in (1e4, -1e4):  # one of them leads out
        temperature.assign(start)
        trainer.compile(optimizer=keras.optimizers.SGD(rate))
        before = [v.numpy() for v in trainer.encoder.trainable_variables]
        logs = trainer.train_step(batch)
        hits.append((float(logs["temperature_clamped"]), float(temperature.numpy())))
        assert float(logs["temperature/shared"]) == hits[-1][1]
        for variable, value in zip(trainer.encoder.trainable_variables, before, strict=True):
            variable.assign(value)
    assert (1.0, pytest.approx(bound)) in hits


def test_a_resume_in_float16_is_exact_to_the_bit(tmp_path):
    def trainer_of():
        options = dict(precision="mixed_float16", loss_scale=2.0**15)
        trainer, kinds = replicas.trainer_of("etcl", 0.3, **options)
        trainer.loss_scale._patience = 2
        return trainer, tf.nest.map_structure(tf.constant, replicas.global_batch(kinds))

    def state(trainer):
        found = [v for v in trainer.encoder.variables if "seed_generator" not in v.path]
        found += trainer.optimizer.variables
        return [v.numpy() for v in [*found, *trainer.loss_scale.variables, trainer.step]]

    trainer, batch = trainer_of()
    saved = checkpoints.Checkpoints(str(tmp_path), trainer)
    saved.restore({"vocabulary_hash": "x"})
    scales = []
    for step in range(8):
        scales.append(float(trainer.train_step(batch)["loss_scale"]))
        if step == 4:
            saved.save(5)
            middle = state(trainer)
    moves = np.diff([*scales, float(trainer.loss_scale.value)])
    # Too large for these gradients at first, and doubled after two steps that it was not.
    assert moves[0] == -(2.0**14) and (moves > 0).any()
    assert trainer.skipped_steps == (moves < 0).sum()
    saved.wait()
    again, _ = trainer_of()
    assert checkpoints.Checkpoints(str(tmp_path), again).restore({"vocabulary_hash": "x"})
    for then, now in zip(middle, state(again), strict=True):
        np.testing.assert_array_equal(now, then)
    for _ in range(3):
        again.train_step(batch)
    for one, two in zip(state(trainer), state(again), strict=True):
        np.testing.assert_array_equal(two, one)


# --- two replicas ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    """{case: {when: {replica: {name: array}}}}, and gradients by themselves."""
    path = tmp_path_factory.mktemp("guards") / "out.npz"
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guards.py")
    done = subprocess.run(
        [sys.executable, script, path], stderr=subprocess.PIPE, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def part(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@pytest.mark.parametrize("case", guards.CASES)
def test_infinite_gradients_of_the_last_replica_skip_the_step_on_all(two_replicas, case):
    whens = ("start", "good", "bad", "again")
    states = {when: part(two_replicas, f"{case}/{when}/") for when in whens}
    logs = {when: part(states[when], "1/log ") for when in whens}
    for when in whens:
        one, two = (part(states[when], f"{i}/") for i in range(2))
        for name, value in two.items():
            np.testing.assert_array_equal(value, one[name], err_msg=name)
            assert np.isfinite(value).all() or "log " in name, name
    state = {w: {k: v for k, v in part(states[w], "0/").items() if "log " not in k} for w in whens}
    assert sum("/moving_" in name for name in state["bad"]) > 10
    assert sum("second" in name for name in state["bad"]) > 50
    for name, value in state["good"].items():
        if name != "step":
            np.testing.assert_array_equal(state["bad"][name], value, err_msg=name)
            assert name.endswith("key/bias") or not np.array_equal(value, state["again"][name])
    assert [int(state[when]["step"]) for when in whens[1:]] == [1, 2, 3]
    assert [float(logs[when]["skipped_steps"]) for when in whens[1:]] == [0, 1, 1]
    assert [float(logs[when]["skipped_in_a_row"]) for when in whens[1:]] == [0, 1, 0]
    # The loss, which is what people look at, was finite.
    assert np.isfinite(logs["bad"]["loss"]) and not np.isfinite(logs["bad"]["gradient_norm"])
    if case == "float16":
        assert [float(logs[when]["loss_scale"]) for when in whens[1:]] == [1024, 1024, 512]


def test_rematerialised_gradients_of_two_replicas_are_the_plain_ones(two_replicas):
    plain, again = (part(two_replicas, f"{name}/") for name in ("kept", "computed again"))
    assert worst(plain, again)[0] < 1e-10
