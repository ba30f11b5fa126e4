"""Training loop: runs the steps of a stage on any backend and strategy."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tf_mural.errors import UserError
from tf_mural.training.preemption import Preempted, SignalHandler, StopPoll


def train(
    trainer,
    runner,
    steps,
    checkpoints,
    writer,
    log_every=100,
    checkpoint_every=1000,
    checkpoint_minutes=None,
    evaluate=None,
    evaluate_every=None,
    last_evaluated=0,
    skipped_records=None,
    steps_per_loop=1,
    signals=None,
    should_stop=None,
):
    """Trains from the current step of the trainer to `steps`.

    The logs of a step are checked before its state is saved. On a non-finite loss or gradient norm,
    the run stops with an intact last checkpoint, or the step was skipped and is reported; see
    `trainer.bad_step_policy`. Checkpoints are written at intervals of steps or minutes, before
    every evaluation, after the last step, and when a signal asks the run to stop.

    All processes of a run call this function, each with its own batches. Only the primary process
    writes with `writer` and `checkpoints`.

    Args:
        trainer: trainer of the backend, with restored state if the run is resumed.
        runner: has `start(step)`, `run(count)`, which returns {name: values of each step}, and
            `processes`; see `backends.tensorflow.step_runner.Runner`.
        steps: number of the last step.
        checkpoints: has `save(step)`, which may continue in the background, `check_for_errors()`
            and `wait_until_finished()`; see `checkpoints.CheckpointManager`.
        writer: `MetricWriter`.
        log_every, checkpoint_every, evaluate_every: intervals in steps; None (the last two): off.
        checkpoint_minutes: interval between checkpoints in minutes; None: off.
        evaluate: callable that takes the step.
        last_evaluated: step of the last evaluation. If the evaluation of the first step is due and
            missing, it is made first.
        skipped_records: `data.skipped_records.SkippedRecords`, whose counts are logged.
        steps_per_loop: number of steps that the runner takes at once. Events such as a checkpoint
            end a loop early.
        signals: `preemption.SignalHandler` that defers signals.
        should_stop: callable, identical on all processes; True ends training before `steps`.

    Returns:
        The number of the last step taken.

    Raises:
        UserError: a loss or the gradient norm is not finite, or the norm is too large, or too many
            consecutive steps were skipped; the message names the term and the step.
        Preempted: a process received a signal; the state is saved.
    """
    start = step = int(trainer.step.numpy())
    if step >= steps or should_stop and should_stop():
        return step
    processes, signals = runner.processes, signals or SignalHandler()
    runner.start(start)
    stop_poll = StopPoll(processes, signals, checkpoint_minutes)
    evaluate_every = evaluate_every if evaluate else None
    schedule = _Schedule(start, steps, log_every, checkpoint_every, evaluate_every, last_evaluated)
    logs = _PendingLogs(trainer.bad_step_policy, writer, skipped_records, processes)

    def evaluate_if_due(step):
        if schedule.evaluates_at(step):
            # The state of this step is saved: a signal need not wait for the evaluation to end.
            with signals.deferred(False):
                evaluate(step)
            writer.reset_timer(step)

    evaluate_if_due(step)
    writer.start(step, steps)
    while step < steps:
        count = min(schedule.steps_to_event(step), steps_per_loop)
        logs.append(step, _run(runner, count, skipped_records))
        step += count
        saves, logs_due = schedule.saves_at(step), schedule.logs_at(step)
        stop, save_due = stop_poll.poll(count, sync=logs_due)
        saves = saves or save_due or stop
        if logs_due or saves or processes.world_size == 1:
            _run_on_all(checkpoints.check_for_errors, processes)
        if logs_due or saves:
            logs.write(step)
        if saves:
            _save(checkpoints, step, processes)
            stop_poll.reset_save_timer()
        if stop:
            _run_on_all(checkpoints.wait_until_finished, processes)
            raise _preempted(stop, step, processes)
        evaluate_if_due(step)
        if should_stop and should_stop():
            break
    _run_on_all(checkpoints.wait_until_finished, processes)
    stop, _ = stop_poll.poll(0, sync=True)  # waiting may have taken long
    if stop:
        raise _preempted(stop, step, processes)
    return step


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """Steps at which the loop logs, saves and evaluates; see the arguments of `train`."""

    start: int
    steps: int
    log_every: int
    checkpoint_every: int | None
    evaluate_every: int | None
    last_evaluated: int

    @property
    def _save_intervals(self):
        return [k for k in (self.checkpoint_every, self.evaluate_every) if k]

    def steps_to_event(self, step):
        """Number of steps until the next log, checkpoint or evaluation."""
        # The first step is a loop by itself, so that its logs appear early.
        if step == self.start:
            return 1
        intervals = [*self._save_intervals, self.log_every]
        return min(self.steps - step, *(k - step % k for k in intervals))

    def saves_at(self, step):
        return step == self.steps or any(step % k == 0 for k in self._save_intervals)

    def logs_at(self, step):
        return self.saves_at(step) or step % self.log_every == 0 or step == self.start + 1

    def evaluates_at(self, step):
        is_due = self.evaluate_every and step % self.evaluate_every == 0
        return bool(is_due) and self.last_evaluated < step < self.steps


class _PendingLogs:
    """Logs of steps that are still on the device.

    Args:
        limits: `BadStepPolicy` of the trainer.
        writer, skipped_records: see `train`.
        processes: `ProcessGroup`.
    """

    def __init__(self, limits, writer, skipped_records, processes):
        self._limits, self._writer = limits, writer
        self._skipped_records, self._processes = skipped_records, processes
        self._pending = []  # (first step, {name: values on the device})

    def append(self, first_step, values):
        """Adds the logs of consecutive steps, {name: values of each}."""
        self._pending.append((first_step, values))

    def write(self, step):
        """Fetches and checks the logs, and writes their means."""
        means, messages = _fetch_logs(self._pending, self._limits)
        for message in messages:
            self._writer.info(message)
        if self._skipped_records:
            means |= self._skipped_records.check(self._processes.all_gather_object)
        self._writer.write(step, means)
        self._pending = []


def _run(runner, count, skipped_records):
    try:
        return runner.run(count)
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise (skipped_records.explain(error) if skipped_records else error) from None


def _save(checkpoints, step, processes):
    # `save` waits for the previous checkpoint. That may fail in the primary process only, so all
    # processes wait together.
    if processes.world_size > 1:
        _run_on_all(checkpoints.wait_until_finished, processes)
    _run_on_all(functools.partial(checkpoints.save, step), processes)


def _run_on_all(call, processes):
    """Calls a function; a `UserError` in one process is raised by all of them."""
    failure = None
    try:
        call()
    except UserError as caught:
        failure = [str(caught), getattr(caught, "exit_code", 2)]
    for message, code in filter(None, processes.all_gather_object(failure)):
        error = UserError(message)
        error.exit_code = code
        raise error


def _preempted(signal_number, step, processes):
    processes.shutdown()
    return Preempted(signal_number, f"saved at step {step}; the same command continues from there")


def _fetch_logs(pending, limits):
    """Fetches logs from the device.

    Args:
        pending: list of (first step, {name: values of consecutive steps}).
        limits: `BadStepPolicy`.

    Returns:
        ({name: mean over the steps with a finite value}, messages about skipped steps).
    """
    logs_by_step, messages = [], []
    for first, values in pending:
        values = {k: np.asarray(v) for k, v in values.items()}
        for i in range(len(values["loss"])):
            logs_by_step.append((first + i, {k: float(v[i]) for k, v in values.items()}))
    for step, logs in logs_by_step:
        message = limits.check_logs(step + 1, logs)
        if message:
            messages.append(message)
    return _means([logs for _, logs in logs_by_step]), messages


# Logs of which the last value is reported, not the mean.
_STATES = ("temperature/", "learning_rate", "loss_scale", "skipped_")


def _means(logs):
    """Combines the logs of several steps, [{name: value}], into one {name: value}."""
    means = {}
    for key in logs[0]:
        values = [step[key] for step in logs if math.isfinite(step[key])]
        if key.startswith(_STATES) and values:
            means[key] = values[-1]
        elif key == "temperature_clamped":
            means[key] = sum(values)
        elif values:
            means[key] = sum(values) / len(values)
        elif not key.startswith("loss_language/"):  # a language that none of the batches contained
            means[key] = math.nan
    return means
