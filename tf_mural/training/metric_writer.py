"""Writes the metrics of a run: lines to the terminal, scalars and images to TensorBoard."""

import contextlib
import os
import tempfile
import time

import tensorflow as tf

from tf_mural import file_io
from tf_mural.losses import SCALARS

_COPY_SECONDS = 60.0  # time between two copies of the event files to a remote storage


class TensorBoardWriter:
    """Writes scalars and images. Write errors do not end the run; only the first error is reported.

    A remote storage cannot append to a file. Event files for a remote folder are therefore written
    to a local temporary folder, and copied about once a minute and by `copy_events`.

    Args:
        log_dir: folder of the event files.
        print_fn: callable that prints a line.
    """

    def __init__(self, log_dir, print_fn=print):
        self._log_dir, self._print, self._reported = log_dir, print_fn, False
        is_remote = file_io.is_remote(log_dir)
        self._temporary = tempfile.TemporaryDirectory() if is_remote else None
        folder = self._temporary.name if is_remote else log_dir
        self._writer, self._copied = tf.summary.create_file_writer(folder), time.monotonic()

    def copy_events(self):
        """Copies the event files to the remote folder; does nothing if the folder is local."""
        if not self._temporary:
            return
        self._copied = time.monotonic()
        try:
            for name in sorted(os.listdir(self._temporary.name)):
                source = os.path.join(self._temporary.name, name)
                file_io.copy(source, os.path.join(self._log_dir, name))
        except (OSError, tf.errors.OpError) as error:
            self._report(error)

    def scalars(self, step, values):
        """Writes the scalars of a step, {name: number}."""
        with self._writing():
            for key, value in values.items():
                tf.summary.scalar(key, value, step=step)

    def image(self, step, name, path):
        """Writes the image in a PNG file."""
        image = tf.io.decode_png(file_io.read_bytes(path), channels=3)
        with self._writing():
            tf.summary.image(name, image[tf.newaxis], step=step)

    def hparams(self, values):
        """Writes the hyperparameters of a run, {name: number, string or bool}."""
        from tensorboard.plugins.hparams import api

        with self._writing():
            api.hparams(values)

    @contextlib.contextmanager
    def _writing(self):
        try:
            with self._writer.as_default():
                yield
            self._writer.flush()
        except tf.errors.OpError as error:
            self._report(error)
        if time.monotonic() - self._copied > _COPY_SECONDS:
            self.copy_events()

    def _report(self, error):
        reason = str(getattr(error, "message", error)).splitlines()[0]
        if not self._reported:
            self._print(f"TensorBoard events cannot be written ({reason}): continuing without them")
        self._reported = True


def _scalars_note(kind, values):
    """Returns "  <kind> <values>" for a kind of learned scalar, or "" if there are no values."""
    numbers = [f"{v:.4f}" for k, v in values.items() if k.startswith(f"{kind}/")]
    return f"  {kind} {' '.join(numbers)}" if numbers else ""


def _skipped_note(values):
    """Returns, for example, "  3 records skipped (scenes/train/records-00001-of-00004 2, ...)".

    The note also states the number of slots of windows that took another record. The result is ""
    if no record was skipped and no slot took another record.
    """
    total, replaced = values.get("skipped_records"), values.get("replaced_slots")
    slots = f"  {replaced} slots replaced" if replaced else ""
    if not total:
        return slots
    shards = {k.split("/", 1)[1]: v for k, v in values.items() if k.startswith("skipped_records/")}
    by_count = sorted(shards, key=shards.get, reverse=True)
    listed = [f"{shard} {shards[shard]}" for shard in by_count[:2]] + ["..."] * (len(by_count) > 2)
    return f"  {total} records skipped ({', '.join(listed)}){slots}"


def _passes_note(values):
    """Returns, for example, "  passes 0.1 (en) to 2.3 (sw)" over all sources.

    The result is "" if there are fewer than two languages.
    """
    passes = [(v, k.split("/", 2)[2]) for k, v in values.items() if k.startswith("passes/")]
    if len(passes) < 2:
        return ""
    return "  passes " + " to ".join(f"{n:.2g} ({code})" for n, code in (min(passes), max(passes)))


def _print_now(text):
    # With the flush, a line appears at once even if the output is a pipe or a file.
    print(text, flush=True)


class NullWriter:
    """Replaces `MetricWriter` in all processes except the primary one; does nothing."""

    def start(self, step, steps):
        """See `MetricWriter.start`."""

    def reset_timer(self, step):
        """See `MetricWriter.reset_timer`."""

    def write(self, step, values):
        """See `MetricWriter.write`."""

    def info(self, line):
        """See `MetricWriter.info`."""

    def scalars(self, step, values):
        """See `MetricWriter.scalars`."""

    def image(self, step, name, path):
        """See `MetricWriter.image`."""

    def hparams(self, values):
        """See `MetricWriter.hparams`."""

    def copy_events(self):
        """See `MetricWriter.copy_events`."""


class MetricWriter:
    """Writes scalars to TensorBoard, and a line per log interval to the terminal.

    Args:
        log_dir: folder of TensorBoard's event files.
        examples_per_step: global batch size.
        print_fn: callable that prints a line.
        format_eta: callable that formats a number of seconds as a short text.
    """

    def __init__(
        self, log_dir, examples_per_step, print_fn=_print_now, format_eta="{:.0f} s".format
    ):
        self._tensorboard = TensorBoardWriter(log_dir, print_fn)
        self._examples_per_step = examples_per_step
        self._print, self._format_eta = print_fn, format_eta

    def start(self, step, steps):
        """Starts to measure time; `step` is the current step, and `steps` is the last step."""
        self._steps, self._first_log = steps, None
        self._last_log = (step, time.perf_counter())

    def reset_timer(self, step):
        """Excludes the time since the last step, such as that of an evaluation, from examples/s."""
        self._last_log = (step, time.perf_counter())

    def write(self, step, values):
        """Writes the metrics of a step, {name: number}, to TensorBoard and the terminal."""
        now = time.perf_counter()
        last_step, last_time = self._last_log
        self._last_log = (step, now)
        rate = self._examples_per_step * (step - last_step) / (now - last_time)
        # The first step includes the tracing of the graph, so the remaining time is estimated from
        # the later steps.
        if self._first_log is None:
            self._first_log, eta = (step, now), ""
        else:
            first_step, first_time = self._first_log
            seconds = (self._steps - step) * (now - first_time) / max(step - first_step, 1)
            eta = f"  {self._format_eta(seconds)} left" if step < self._steps else ""
        self.scalars(step, {**values, "examples_per_second": rate})
        terms = "  ".join(f"{k[5:]} {v:.3f}" for k, v in values.items() if k.startswith("loss/"))
        scalars = "".join(_scalars_note(kind, values) for kind in SCALARS)
        notes = _passes_note(values) + _skipped_note(values)
        self._print(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {values['loss']:.3f}  "
            f"{terms}{scalars}  {rate:.0f} examples/s{notes}{eta}"
        )

    def info(self, line):
        """Prints a line to the terminal only."""
        self._print(line)

    def scalars(self, step, values):
        """Writes scalars to TensorBoard only."""
        self._tensorboard.scalars(step, values)

    def hparams(self, values):
        """Writes hyperparameters to TensorBoard."""
        self._tensorboard.hparams(values)

    def copy_events(self):
        """Copies the event files of TensorBoard to a remote workdir."""
        self._tensorboard.copy_events()

    def image(self, step, name, path):
        """Writes the image in a PNG file to TensorBoard."""
        self._tensorboard.image(step, name, path)
