"""Runs the steps of a stage under any strategy; it is handed everything that it calls."""

import functools
import math

import numpy as np
import tensorflow as tf

from tf_mural.errors import UserError
from tf_mural.training.preemption import Boundaries, Signals, Stopped


def train(
    trainer,
    runner,
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
    enough=None,
):
    """Trains from the step that the trainer stands at to `steps`.

    A step is checked before anything of it is saved: on a loss or a gradient norm that cannot be,
    the run stops and the last checkpoint is a good one, or the step was skipped and is named; see
    `trainer.limits`. A checkpoint comes every so many steps or minutes, before every evaluation,
    after the last step, and when a signal asks to stop.

    All processes of a run call this, each with the batches of its own; `log` and `checkpoints`
    write in the first one alone.

    Args:
        trainer: of the backend's room, restored already where a run goes on.
        runner: has start(step), run(number of steps) to {name: values}, and `processes`; see
            `distribute.Runner`.
        steps: number of the last step.
        checkpoints: has save(step), which may go on in the background, and check() and wait() on
            that; see `checkpoints.Checkpoints`.
        log: a `Log`.
        log_every, checkpoint_every, evaluate_every: in steps; the last two are 0 for never.
        checkpoint_minutes: between checkpoints; 0 for never.
        steps_per_loop: steps that the runner takes without coming back here, up to the next
            one at which there is something to do.
        evaluate: function of the step, called every `evaluate_every`.
        evaluated: step of the last evaluation; that of the first step is made up for, if it is due.
        health: has check(exchange) to further logs, where exchange is that of
            `Processes`, and explain(error) to an error that says more; both may raise.
        signals: a `stopping.Signals`, while it notes them.
        enough: function, whose answer is the same in all processes: whether to end after what was
            evaluated so far, before `steps`.

    Returns:
        The number of the last step.

    Raises:
        UserError: a loss or the gradient norm is not finite, or the norm too large, or too many
            steps in a row were skipped; names the term and the step.
        Stopped: a signal came to any of the processes; the state is saved.
    """
    step = int(trainer.step.numpy())
    if step >= steps or enough and enough():
        return step
    start, processes = step, runner.processes
    runner.start(start)
    signals = signals or Signals()
    boundaries = Boundaries(processes, signals, checkpoint_minutes)
    saving = [k for k in (checkpoint_every, evaluate and evaluate_every) if k]
    every = [*saving, log_every]

    def evaluate_at(step):
        if evaluate and evaluate_every and step % evaluate_every == 0 and evaluated < step < steps:
            # What it was called after is saved: a signal need not wait for its end.
            with signals.noted(False):
                evaluate(step)
            log.goes_on(step)

    evaluate_at(step)
    pending = []  # (first step, logs of some steps on the device) that nobody has looked at
    log.start(step, steps)
    while step < steps:
        # The first step ends a loop of its own, so that there is something to see early.
        ahead = 1 if step == start else min(steps - step, *(k - step % k for k in every))
        count = min(ahead, steps_per_loop)
        try:
            pending.append((step, runner.run(count)))
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise (health.explain(error) if health else error) from None
        step += count
        saves = step == steps or any(step % k == 0 for k in saving)
        logs = saves or step % log_every == 0 or step == start + 1
        stop, due = boundaries.look(count, meet=logs)
        saves = saves or due or stop
        if logs or saves or processes.count == 1:
            _together(checkpoints.check, processes)
        if logs or saves:
            means, skipped = _looked_at(pending, trainer.limits)
            for line in skipped:
                log.note(line)
            if health:
                means |= health.check(processes.exchange)
            log.write(step, means)
            pending = []
        if saves:
            _save(checkpoints, step, processes)
            boundaries.saved()
        if stop:
            _together(checkpoints.wait, processes)
            raise _stopped(stop, step, processes)
        evaluate_at(step)
        if enough and enough():
            break
    _together(checkpoints.wait, processes)
    stop, _ = boundaries.look(0, meet=True)  # that may have taken long
    if stop:
        raise _stopped(stop, step, processes)
    return step


def _save(checkpoints, step, processes):
    # Saving waits for what was begun, where the one that writes may fail and the others go on.
    if processes.count > 1:
        _together(checkpoints.wait, processes)
    _together(functools.partial(checkpoints.save, step), processes)


def _together(call, processes):
    """Calls what one process may fail at, and all of them raise its error."""
    told = None
    try:
        call()
    except UserError as caught:
        told = [str(caught), getattr(caught, "exit_code", 2)]
    for text, code in filter(None, processes.exchange(told)):
        error = UserError(text)
        error.exit_code = code
        raise error


def _stopped(number, step, processes):
    processes.leave()
    return Stopped(number, f"saved at step {step}; the same command goes on from there")


def _looked_at(pending, limits):
    """Fetches logs of steps: means over the steps where finite, and lines about skipped ones."""
    fetched, skipped = [], []
    for first, values in pending:
        values = {k: np.asarray(v) for k, v in values.items()}
        for i in range(len(values["loss"])):
            fetched.append((first + i, {k: float(v[i]) for k, v in values.items()}))
    for step, values in fetched:
        line = limits.judge(step + 1, values)
        if line:
            skipped.append(line)
    return _means([values for _, values in fetched]), skipped


_LAST = ("temperature/", "learning_rate", "loss_scale", "skipped_")


def _means(steps):
    """{name: value} that stands for some steps, of {name: value} of each."""
    means = {}
    for key in steps[0]:
        values = [step[key] for step in steps if math.isfinite(step[key])]
        if key.startswith(_LAST) and values:
            means[key] = values[-1]
        elif key == "temperature_clamped":
            means[key] = sum(values)
        elif values:
            means[key] = sum(values) / len(values)
        elif not key.startswith("loss_language/"):  # one that no row of these steps had
            means[key] = math.nan
    return means
