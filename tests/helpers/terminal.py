"""Runs a command in a pseudoterminal."""

import fcntl
import os
import pty
import struct
import subprocess
import termios


def run_in_terminal(command, columns, stdout=None, **environment):
    """Runs a command whose stdout and stderr are a terminal.

    Args:
        command: list of strings.
        columns: width of the terminal.
        stdout: file that replaces the terminal as stdout.
        **environment: environment variables.

    Returns:
        (exit code, text that the terminal received, with control characters).
    """
    terminal, stream = pty.openpty()
    fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment = {**inherited, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(command, stdout=stdout or stream, stderr=stream, env=environment)
    os.close(stream)
    output = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # All processes have closed the terminal.
            break
        if not data:
            break
        output += data
    os.close(terminal)
    return process.wait(), output.decode()
