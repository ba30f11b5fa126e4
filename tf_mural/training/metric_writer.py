"""What a run tells while it goes on: a line in the terminal, and numbers for TensorBoard."""

import contextlib
import time

import tensorflow as tf


class Events:
    """Writes scalars and pictures. What cannot be written is told once; the run goes on.

    Args:
        folder: of the files.
        say: function of a line.
    """

    def __init__(self, folder, say=print):
        self._writer, self._say, self._told = tf.summary.create_file_writer(folder), say, False

    def scalars(self, step, values):
        """{name: number} of a step."""
        with self._writing():
            for key, value in values.items():
                tf.summary.scalar(key, value, step=step)

    def picture(self, step, name, path):
        """A PNG file."""
        image = tf.io.decode_png(tf.io.read_file(path), channels=3)
        with self._writing():
            tf.summary.image(name, image[tf.newaxis], step=step)

    def settings(self, values):
        """{name: number, string or bool} of a run, for TensorBoard's HParams."""
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
            reason = error.message.splitlines()[0]
            if not self._told:
                self._say(f"TensorBoard's events cannot be written ({reason}): going on without")
            self._told = True


def _skipped(values):
    """ "  3 records skipped (scenes/train/records-00001-of-00004 2, ...)", or ""."""
    total = values.get("skipped_records")
    if not total:
        return ""
    shards = {k.split("/", 1)[1]: v for k, v in values.items() if k.startswith("skipped_records/")}
    most = sorted(shards, key=shards.get, reverse=True)
    listed = [f"{shard} {shards[shard]}" for shard in most[:2]] + ["..."] * (len(most) > 2)
    return f"  {total} records skipped ({', '.join(listed)})"


def _line(text):
    # At once, also into a pipe or a file: a run is watched while it goes on.
    print(text, flush=True)


class NoLog:
    """What the processes have for a `Log` that are not the first."""

    def start(self, step, steps):
        """As `Log.start`."""

    def goes_on(self, step):
        """As `Log.goes_on`."""

    def write(self, step, values):
        """As `Log.write`."""

    def note(self, line):
        """As `Log.note`."""

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

    def goes_on(self, step):
        """Leaves what happened since the last step out of the rate: an evaluation, say."""
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
        skipped = _skipped(values)
        self._show(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {values['loss']:.3f}  "
            f"{terms}  temperature {sigma}  {rate:.0f} examples/s{skipped}{left}"
        )

    def note(self, line):
        """A line for the terminal alone."""
        self._show(line)

    def scalars(self, step, values):
        """Scalars for TensorBoard alone."""
        self._events.scalars(step, values)

    def settings(self, values):
        """As `Events.settings`."""
        self._events.settings(values)

    def picture(self, step, name, path):
        """A PNG file for TensorBoard."""
        self._events.picture(step, name, path)
