"""Runs commands in separate processes, without importing TensorFlow for each command.

`CommandServer` starts a server process, which imports TensorFlow once, and forks a child process
for each command. The child runs the command, and ends with the exit code of the command. The server
process runs this file as a script.
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
_TIMEOUT = 400  # in seconds; a command that takes longer ends with exit code -14


@dataclasses.dataclass
class Done:
    """Exit code and output of a command.

    Attributes:
        code: exit code.
        out, err: texts that the command wrote to stdout and stderr.
    """

    code: int
    out: str
    err: str

    def error(self):
        """Asserts that the command printed a one-line error with exit code 2; returns the text."""
        is_refused = self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1
        assert is_refused, (self.code, self.out, self.err)
        return self.err.removeprefix("error: ").strip()


class CommandServer:
    """Runs commands of tools/ (`CommandServer().run(cwd, "train.py", "--stage=align")`)."""

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
            cwd: working directory of the command; stdout and stderr are written to files in it.
            tool: name of a file in tools/, such as "train.py".
            *arguments: flags of the command.
            interrupt_at: text; after the command has printed this text, it receives SIGINT, the
                signal of Ctrl-C. None: no signal.

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
                os.kill(pid, 0)  # raises an error if the command has ended
            os.kill(pid, signal.SIGINT)
        code = self._receive()
        return Done(code, *map(_read, files))

    def close(self):
        """Ends the server process."""
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
    """Forks a child process for each request, and returns the request in the child."""
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
    """Runs a command in this process."""
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.close(0)
    os.chdir(cwd)
    signal.alarm(_TIMEOUT)
    # SIGINT is ignored if the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path[0] = ROOT
    _run_command(*_serve())
