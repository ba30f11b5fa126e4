"""Runs the tools as commands without paying for TensorFlow's import each time.

`Tools` starts one process that imports everything, and forks a child for each command; the child
is a whole process of its own, which ends as the tool does. Run as a script it is that process.
"""

import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
_SECONDS = 400  # after which a command is ended, and its exit code is -14
TOOLS = os.path.join(os.path.dirname(HERE), "tools")


@dataclasses.dataclass
class Done:
    """How a command ended: exit code, and all it wrote."""

    code: int
    out: str
    err: str

    def error(self):
        """The message of a refusal, which is exit code 2 and one line without a traceback."""
        refused = self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1
        assert refused, (self.code, self.out, self.err)
        return self.err.removeprefix("error: ").strip()


class Tools:
    """Commands in folders: `Tools().run(cwd, "train.py", "--stage=align")`."""

    output = Done

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, cwd, tool, *arguments, interrupt_at=None):
        """Runs a tool to its end.

        Args:
            cwd: folder it runs in; its output goes to files there for as long as it runs.
            tool: file name in tools/.
            *arguments: of its command line.
            interrupt_at: sends SIGINT, as Ctrl-C does, once the tool has written this.
        """
        files = [os.path.join(cwd, name) for name in (".out", ".err")]
        for path in files:
            open(path, "w").close()
        self._send([str(cwd), files, [os.path.join(TOOLS, tool), *arguments]])
        pid = self._receive()
        if interrupt_at:
            while interrupt_at not in _read(files[0]):
                os.kill(pid, 0)  # raises once the tool has ended without writing that
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

    from tf_mural import experiment, reports  # noqa: F401
    from tf_mural.training import loop  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            return json.loads(line)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _become(cwd, files, argv):
    """Runs the tool as this process."""
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.close(0)
    os.chdir(cwd)
    signal.alarm(_SECONDS)
    # A test run in the background of a shell inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv, sys.path[0] = argv, TOOLS
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path.insert(1, os.path.dirname(HERE))
    _become(*_serve())
