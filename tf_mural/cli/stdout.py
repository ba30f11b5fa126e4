"""The standard output of a command: errors of writing, and closed pipes."""

import contextlib
import os
import select
import sys


def flush(stream):
    """Flushes a stream. Returns the OSError if the stream cannot be written, otherwise None."""
    try:
        stream.flush()
    except OSError as error:
        return error
    return None


def stdout_is_closed():
    """Returns whether stdout is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class ResilientStdout:
    """A text stream that raises no error if writing fails, but discards all further output.

    With this stream as stdout, training continues when the terminal is closed, the reader of the
    pipe has ended, or the disk is full.

    Args:
        stream: the text stream to write to.
    """

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        """Writes or discards the text. Returns the number of characters of the text."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self):
        """Flushes the stream. If this fails, prints a line on stderr and discards all output."""
        if error := flush(self._stream):
            self._drop(error)

    def _drop(self, error):
        self._stream = open(os.devnull, "w", encoding="utf-8")
        with contextlib.suppress(OSError):
            print(
                f"stdout cannot be written ({error.strerror}): training continues without output",
                file=sys.stderr,
            )

    def __getattr__(self, name):
        return getattr(self._stream, name)
