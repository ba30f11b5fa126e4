"""Runs the steps of a stage under any strategy; it is handed everything that it calls."""

import math
import time

import tensorflow as tf

from tf_mural.base import UserError
from tf_mural.distribute import Processes
from tf_mural.events import Events
from tf_mural.stopping import Boundaries, Signals, Stopped


def train(
    trainer,
    make_dataset,
    strategy,
    steps,
    checkpoints,
    log,
    log_every=100,
    checkpoint_every=1000,
    checkpoint_minutes=0,
    evaluate=None,
    evaluate_every=0,
    evaluated=0,
    health=None,
    steps_per_loop=1,
    signals=None,
):
    """Trains from the step that the trainer stands at to `steps`.

    A step is checked for finite losses before anything of it is saved: on a loss that is not, the
    run stops and the last checkpoint is a good one. A checkpoint comes every so many steps or
    minutes, before every evaluation, after the last step, and when a signal asks to stop.

    All processes of a strategy call this, each with the batches of its own; `log` and `checkpoints`
    write in the first one alone.

    Args:
        trainer: compiled `training.Trainer`, restored already where a run goes on.
        make_dataset: function of (start_step=) to a `tf.data.Dataset` of batches, of this process.
        strategy: the `tf.distribute.Strategy` that the trainer was built under.
        steps: number of the last step.
        checkpoints: has save(step), which may go on in the background, and check() and wait() on
            that; see `checkpoints.Checkpoints`.
        log: a `Log`.
        log_every, checkpoint_every, evaluate_every: in steps; the last two are 0 for never.
        checkpoint_minutes: between checkpoints; 0 for never.
        steps_per_loop: steps that TensorFlow runs without coming back to Python, up to the next
            one at which there is something to do.
        evaluate: function of the step, called every `evaluate_every`.
        evaluated: step of the last evaluation; that of the first step is made up for, if it is due.
        health: has check(steps so far) to further logs, and explain(error) to an error that says
            more; both may raise. The numbers are summed over processes.
        signals: a `stopping.Signals`, while it notes them.

    Raises:
        UserError: a loss is not finite; names the term and the step.
        Stopped: a signal came to any of the processes; the state is saved.
    """
    step = int(trainer.step.numpy())
    if step >= steps:
        return
    start, processes = step, Processes(strategy)
    batches = iter(
        strategy.distribute_datasets_from_function(lambda _: make_dataset(start_step=start))
    )
    run_steps = _steps(trainer, strategy)
    signals = signals or Signals()
    boundaries = Boundaries(processes, signals, checkpoint_minutes)
    saving = [k for k in (checkpoint_every, evaluate and evaluate_every) if k]
    every = [*saving, log_every]

    def evaluate_at(step):
        if evaluate and evaluate_every and step % evaluate_every == 0 and evaluated < step < steps:
            # What it was called after is saved: a signal need not wait for its end.
            with signals.noted(False):
                evaluate(step)

    evaluate_at(step)
    pending = []  # (first step, logs of some steps on the device) that nobody has looked at
    log.start(step, steps)
    while step < steps:
        # The first step ends a loop of its own, so that there is something to see early.
        ahead = 1 if step == start else min(steps - step, *(k - step % k for k in every))
        count = min(ahead, steps_per_loop)
        try:
            pending.append((step, run_steps(batches, count)))
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise (health.explain(error) if health else error) from None
        step += count
        checkpoints.check()
        saves = step == steps or any(step % k == 0 for k in saving)
        logs = saves or step % log_every == 0 or step == start + 1
        stop, due = boundaries.look(count, meet=logs)
        saves = saves or due or stop
        if logs or saves:
            means = _looked_at(pending)
            if health:
                means |= processes.total(health.check(step - start))
            log.write(step, means)
            pending = []
        if saves:
            checkpoints.save(step)
            boundaries.saved()
        if stop:
            checkpoints.wait()
            processes.leave()
            raise Stopped(stop, f"saved at step {step}; the same command goes on from there")
        evaluate_at(step)
    checkpoints.wait()


def _steps(trainer, strategy):
    """Function of (iterator over batches, number of steps) to {name: values (steps,)}."""

    # Without AutoGraph, as in Keras' own fit: nothing branches on tensors, and it costs seconds.
    @tf.function(jit_compile=trainer.jit_compile is True, autograph=False)
    def one(batch):
        return strategy.run(trainer.train_step, args=(batch,))

    def own(values):
        return {k: strategy.experimental_local_results(v)[0] for k, v in values.items()}

    names = []

    @tf.function(autograph=False)
    def several(batches, count):
        logs = {k: tf.TensorArray(tf.float32, count, element_shape=()) for k in names}

        def body(i, logs):
            values = own(one(next(batches)))
            return i + 1, {k: logs[k].write(i, tf.cast(v, tf.float32)) for k, v in values.items()}

        _, logs = tf.while_loop(lambda i, _: i < count, body, (0, logs), parallel_iterations=1)
        return {k: array.stack() for k, array in logs.items()}

    def run(batches, count):
        if count == 1 or not names:
            values = own(one(next(batches)))
            names[:] = sorted(values)
            return {k: v[tf.newaxis] for k, v in values.items()}
        return several(batches, tf.constant(count))

    return run


def _looked_at(pending):
    """Fetches logs of steps: means over the steps where finite. Raises on a loss that is not."""
    fetched = []
    for first, values in pending:
        values = {k: v.numpy() for k, v in values.items()}
        for i in range(len(values["loss"])):
            fetched.append((first + i, {k: float(v[i]) for k, v in values.items()}))
    for step, values in fetched:
        bad = [k for k, v in values.items() if k.startswith("loss/") and not math.isfinite(v)]
        bad = bad or [k for k in ("loss", "gradient_norm") if not math.isfinite(values[k])]
        if bad:
            what = bad[0].replace("loss/", "the loss of the term ")
            raise UserError(
                f"step {step + 1}: {what} is not finite; stopped, and the last checkpoint is from "
                "before it. Try a smaller --config.optimizer.learning_rate or "
                "--config.optimizer.clip_norm=1.0"
            )
    means = {}
    for key in fetched[0][1]:
        values = [v[key] for _, v in fetched if math.isfinite(v[key])]
        if key.startswith(("temperature/", "learning_rate")):
            means[key] = values[-1]
        elif key == "temperature_clamped":
            means[key] = sum(values)
        elif values:  # a language that no row of these steps had is left out
            means[key] = sum(values) / len(values)
    return means


def _line(text):
    # At once, also into a pipe or a file: a run is watched while it goes on.
    print(text, flush=True)


class NoLog:
    """What the processes have for a `Log` that are not the first."""

    def start(self, step, steps):
        """As `Log.start`."""

    def write(self, step, values):
        """As `Log.write`."""

    def scalars(self, step, values):
        """As `Log.scalars`."""

    def picture(self, step, name, path):
        """As `Log.picture`."""


class Log:
    """Writes scalars to TensorBoard and a line to the terminal.

    Args:
        folder: of TensorBoard's event files.
        examples_per_step: rows of the global batch.
        show: function of a line.
        eta: function of seconds to a short text.
    """

    def __init__(self, folder, examples_per_step, show=_line, eta="{:.0f} s".format):
        self._events = Events(folder, show)
        self._rows, self._show, self._eta = examples_per_step, show, eta

    def start(self, step, steps):
        """Starts the clock."""
        self._steps, self._begun = steps, None
        self._last = (step, time.perf_counter())

    def write(self, step, values):
        """One set of scalars, at a step."""
        now = time.perf_counter()
        before, then = self._last
        self._last = (step, now)
        rate = self._rows * (step - before) / (now - then)
        # The first step holds the tracing of the graph; the time left is judged without it.
        if self._begun is None:
            self._begun, left = (step, now), ""
        else:
            begun, since = self._begun
            seconds = (self._steps - step) * (now - since) / max(step - begun, 1)
            left = f"  {self._eta(seconds)} left" if step < self._steps else ""
        self.scalars(step, {**values, "examples_per_second": rate})
        terms = "  ".join(f"{k[5:]} {v:.3f}" for k, v in values.items() if k.startswith("loss/"))
        sigma = " ".join(f"{v:.4f}" for k, v in values.items() if k.startswith("temperature/"))
        skipped = values.get("skipped_images")
        skipped = f"  {skipped} images skipped" if skipped else ""
        self._show(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {values['loss']:.3f}  "
            f"{terms}  temperature {sigma}  {rate:.0f} examples/s{skipped}{left}"
        )

    def scalars(self, step, values):
        """Scalars for TensorBoard alone."""
        self._events.scalars(step, values)

    def picture(self, step, name, path):
        """A PNG file for TensorBoard."""
        self._events.picture(step, name, path)
