"""Progress of long loops: a live bar on a terminal, and lines of text everywhere else."""

import math
import os
import sys
import time

_MIN_COLUMNS = 80  # minimum width, in characters, of a terminal on which the bar fits


def format_duration(seconds):
    """Returns a duration in two units: "45 s", "3 min 20 s", "2 h 05 min", "3 d 04 h"."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"


def is_terminal(stream):
    """Returns whether a text stream is a terminal that can overwrite its last line."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    except (AttributeError, ValueError):  # There is no stream, or the stream is closed.
        return False


class Progress:
    """Shows the progress of a loop, its rate and the remaining time.

        with Progress("test", total=len(records), noun="records") as progress:
            for number, record in enumerate(records, 1):
                ...
                progress.update(number)

    A terminal shows a bar, which is removed at the end of the loop. A pipe, a log file and a
    notebook get a line after every `seconds` seconds:

        test: 2,000 of 5,000 records, 400 a second, 8 s left

    If the body raises no exception, the last update is printed as a line in both cases.

    Args:
        label: text before the numbers; "" for no text.
        total: number of items of the loop; None if the number is unknown.
        noun: plural noun for the items.
        counted: plural noun for a second number, which `update` receives and whose rate is shown;
            None: no second number, and the rate of the items is shown.
        start: number of items that were finished before the loop.
        print_fn: callable that receives each line. Default: the lines are printed on `stream`. With
            a `print_fn`, no bar is shown.
        stream: text stream of the bar and the lines. Default: `sys.stdout`.
        seconds: minimum number of seconds between two lines.
        delay: number of seconds before the bar appears. With a delay, the bar appears at an update,
            and loops that end earlier show no bar.
        print_end: whether the last update is printed as a line.
    """

    def __init__(
        self,
        label,
        total,
        noun,
        counted=None,
        start=0,
        print_fn=None,
        stream=None,
        seconds=2.0,
        delay=0.0,
        print_end=True,
    ):
        self._label, self._total, self._noun, self._counted = label, total, noun, counted
        self._start, self._done, self._count = start, start, 0
        self._stream = stream or sys.stdout
        self._is_live = print_fn is None and is_terminal(self._stream)
        self._print = print_fn or self._print_line
        self._seconds, self._delay = seconds, delay
        self._print_end, self._is_updated = print_end, False
        self._bar = None

    def __enter__(self):
        self._start_time = self._last_time = time.monotonic()
        if not self._delay:
            self._start_bar()
        return self

    def update(self, done, count=0):
        """Sets the number of finished items, and the second number (see `counted`)."""
        self._done, self._count, self._is_updated = done, count, True
        now = time.monotonic()
        if self._bar is None and now - self._start_time >= self._delay:
            self._start_bar()
        if self._bar:
            self._bar.update(self._task, completed=done, counts=self._counts(now))
        elif not self._is_live and now - self._last_time >= self._seconds and done != self._total:
            self._last_time = now
            self._print(self._line(now))

    def __exit__(self, error_type, *_):
        if self._bar:
            self._bar.stop()
        if error_type is None and self._print_end and self._is_updated:
            self._print(self._line(time.monotonic()))

    def _start_bar(self):
        """Starts the bar if the stream is a terminal."""
        if not self._is_live:
            return
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        console = Console(file=self._stream)
        # A `Column` wraps its text if the terminal is narrow.
        label, counts = (
            progress.TextColumn(text, markup=False, table_column=Column())
            for text in ("{task.description}", "{task.fields[counts]}")
        )
        bars = [progress.BarColumn(20)] if console.width >= _MIN_COLUMNS else []
        self._bar = progress.Progress(
            label,
            *bars,
            counts,
            progress.TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            # Text that the body prints on the same terminal is shown above the bar.
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        )
        self._task = self._bar.add_task(
            self._label,
            total=self._total,
            completed=self._done,
            counts=self._counts(time.monotonic()),
        )
        self._bar.start()

    def _line(self, now):
        label = f"{self._label}: " if self._label else ""
        remaining = ""
        if self._total is not None:
            seconds = (now - self._start_time) / max(self._done - self._start, 1)
            remaining = f", {format_duration(seconds * (self._total - self._done))} left"
        return f"{label}{self._counts(now)}{remaining}"

    def _counts(self, now):
        of_total = "" if self._total is None else f" of {self._total:,}"
        parts = [f"{self._done:,}{of_total} {self._noun}"]
        number = self._done - self._start
        if self._counted:
            number = self._count
            parts.append(f"{number:,} {self._counted}")
        rate = number / max(now - self._start_time, 1e-3)
        return ", ".join([*parts, f"{rate:,.0f} a second"])

    def _print_line(self, line):
        print(line, file=self._stream, flush=True)
