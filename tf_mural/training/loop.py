"""Training loop: runs the steps of a stage on any backend and strategy."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tf_mural.errors import UserError
from tf_mural.train_step import combine_logs
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
    extra_metrics=None,
    steps_per_loop=1,
    signals=None,
    should_stop=None,
):
    """Trains from the current step of the trainer to step number `steps`.

    The logs of a step are checked before its state is saved. If a loss or gradient norm is not
    finite, `trainer.bad_step_policy` decides: either the run stops and its last checkpoint is
    intact, or the step was skipped and a message reports it. Checkpoints are written at intervals
    of steps or minutes, before every evaluation, after the last step, and when a signal asks the
    run to stop.

    All processes of a run call this function, each with its own batches. Only the primary process
    writes with `writer` and `checkpoints`.

    Args:
        trainer: trainer of the backend, with restored state if the run is resumed.
        runner: object with `start(step)`, `run(count)` and `processes`. `run` takes `count` steps
            and returns {name: one value per step}. See `backends.tensorflow.step_runner.Runner`.
        steps: number of the last step.
        checkpoints: object with `save(step)`, which may continue in the background,
            `check_for_errors()` and `wait_until_finished()`; see `checkpoints.CheckpointManager`.
        writer: `MetricWriter`.
        log_every: interval between logs in steps.
        checkpoint_every: interval between checkpoints in steps, or None.
        checkpoint_minutes: interval between checkpoints in minutes, or None.
        evaluate: callable that takes the number of a step and evaluates the model, or None.
        evaluate_every: interval between evaluations in steps; None for no evaluations.
        last_evaluated: number of the last step that was evaluated. If an evaluation is due at the
            current step and was not made, the loop starts with this evaluation.
        skipped_records: `data.skipped_records.SkippedRecords`, whose counts are logged, or None.
        extra_metrics: callable that takes the number of a step and returns {name: number} to log,
            for example the passes over each language; or None.
        steps_per_loop: maximum number of steps per call of the runner. A call of the runner takes
            fewer steps if a log, checkpoint or evaluation is due earlier.
        signals: `preemption.SignalHandler`, or None.
        should_stop: callable that returns whether training must end before `steps`, with the same
            result on all processes; or None.

    Returns:
        The number of the last step taken.

    Raises:
        UserError: a loss or the gradient norm is not finite, the gradient norm is too large, or too
            many consecutive steps were skipped; the message names the term and the step.
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
    logs = _PendingLogs(trainer.bad_step_policy, writer, skipped_records, processes, extra_metrics)

    def evaluate_if_due(step):
        if schedule.evaluates_at(step):
            # The state of this step is saved, so a signal may interrupt the evaluation.
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
    stop, _ = stop_poll.poll(0, sync=True)  # a signal may have arrived during the wait
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
        """Returns the number of steps until the next log, checkpoint or evaluation."""
        # The first call of the runner takes a single step, so that the first logs appear early.
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
    """Logs of past steps that have not been fetched from the device.

    Args:
        policy: `BadStepPolicy` of the trainer.
        writer, skipped_records, extra_metrics: see `train`.
        processes: `ProcessGroup`.
    """

    def __init__(self, policy, writer, skipped_records, processes, extra_metrics=None):
        self._policy, self._writer = policy, writer
        self._skipped_records, self._processes = skipped_records, processes
        self._extra_metrics = extra_metrics
        self._pending = []  # (first step, {name: values on the device})

    def append(self, first_step, values):
        """Adds the logs of consecutive steps, {name: one value per step}."""
        self._pending.append((first_step, values))

    def write(self, step):
        """Fetches and checks the pending logs, and writes their means."""
        means, messages = _fetch_logs(self._pending, self._policy)
        for message in messages:
            self._writer.info(message)
        if self._skipped_records:
            means |= self._skipped_records.check(self._processes.all_gather_object)
        if self._extra_metrics:
            means |= self._extra_metrics(step)
        self._writer.write(step, means)
        self._pending = []


def _run(runner, count, skipped_records):
    try:
        return runner.run(count)
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise (skipped_records.explain(error) if skipped_records else error) from None


def _save(checkpoints, step, processes):
    # `save` waits for the previous checkpoint, whose writing may fail in the primary process only.
    # All processes therefore wait together first, and raise the error together.
    if processes.world_size > 1:
        _run_on_all(checkpoints.wait_until_finished, processes)
    _run_on_all(functools.partial(checkpoints.save, step), processes)


def _run_on_all(call, processes):
    """Calls a function in all processes; a `UserError` in one process is raised in all of them."""
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


def _fetch_logs(pending, policy):
    """Fetches logs from the device.

    Args:
        pending: list of (first step, {name: one value per consecutive step}).
        policy: `BadStepPolicy`.

    Returns:
        ({name: value combined by `train_step.combine_logs`}, list of messages about skipped steps).
    """
    logs_by_step, messages = [], []
    for first, values in pending:
        values = {k: np.asarray(v) for k, v in values.items()}
        for i in range(len(values["loss"])):
            logs_by_step.append((first + i, {k: float(v[i]) for k, v in values.items()}))
    for step, logs in logs_by_step:
        message = policy.check_logs(step + 1, logs)
        if message:
            messages.append(message)
    return combine_logs([logs for _, logs in logs_by_step]), messages
