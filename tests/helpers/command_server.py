"""Runs commands as processes without importing TensorFlow each time.

`CommandServer` starts a process that imports everything, and forks a child for each command. The
child is a process of its own, which ends as the command does. This file is also the script of that
process.
"""

import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(ROOT, "tools")
_TIMEOUT = 400  # seconds; the exit code of a command that takes longer is -14


@dataclasses.dataclass
class Done:
    """The end of a command.

    Attributes:
        code: exit code.
        out, err: its output.
    """

    code: int
    out: str
    err: str

    def error(self):
        """Returns the message of a user error: exit code 2 and one line, without a traceback."""
        is_refused = self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1
        assert is_refused, (self.code, self.out, self.err)
        return self.err.removeprefix("error: ").strip()


class CommandServer:
    """Runs commands in folders: `CommandServer().run(cwd, "train.py", "--stage=align")`."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, cwd, tool, *arguments, interrupt_at=None):
        """Runs a command to its end.

        Args:
            cwd: working directory; the output is written to files in it.
            tool: name of a file in tools/.
            *arguments: flags.
            interrupt_at: text; when the command has printed it, it receives SIGINT, as of Ctrl-C.

        Returns:
            `Done`.
        """
        files = [os.path.join(cwd, name) for name in (".out", ".err")]
        for path in files:
            open(path, "w").close()
        self._send([str(cwd), files, [os.path.join(TOOLS, tool), *arguments]])
        pid = self._receive()
        if interrupt_at:
            while interrupt_at not in _read(files[0]):
                os.kill(pid, 0)  # raises if the command has ended
            os.kill(pid, signal.SIGINT)
        code = self._receive()
        return Done(code, *map(_read, files))

    def close(self):
        """Ends the process."""
        self._server.stdin.close()
        self._server.wait()

    def _send(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()

    def _receive(self):
        return int(self._server.stdout.readline())


def _read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def _serve():
    """Forks a child for each request; returns in the child, with the request."""
    import keras_hub  # noqa: F401
    import tensorflow  # noqa: F401
    import tensorflow_text  # noqa: F401

    from tf_mural import reports  # noqa: F401
    from tf_mural.experiment import run_stage  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            return json.loads(line)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _run_command(cwd, files, argv):
    """Runs a command as this process."""
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.close(0)
    os.chdir(cwd)
    signal.alarm(_TIMEOUT)
    # Tests in the background of a shell inherit that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path[0] = ROOT
    _run_command(*_serve())
