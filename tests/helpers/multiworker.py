"""Starts runs with several processes on this machine, without importing TensorFlow in each process.

`Launcher` starts a server process that imports TensorFlow and forks the processes of a run. The
processes find each other by TF_CONFIG and communicate over the loopback device. The server runs
this file as a script.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TIMEOUT_SECONDS = 400  # time limit of a process, which is then killed


class Launcher:
    """Starts scripts as one or several processes: `with Launcher() as launcher: ...`."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, cwd, count, *argv):
        """Starts a script.

        Args:
            cwd: working folder. Process i writes its stdout to the file i.out and its stderr to the
                file i.err in this folder.
            count: number of processes. A single process gets no TF_CONFIG.
            *argv: path of the script, and the arguments of the script.

        Returns:
            A `Job`.
        """
        os.makedirs(cwd, exist_ok=True)
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
        pids = []
        for i in range(count):
            for name in ("out", "err"):
                open(os.path.join(cwd, f"{i}.{name}"), "w").close()
            tf_config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
            request = [str(cwd), i, [str(a) for a in argv], tf_config if count > 1 else None]
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            pids.append(int(self._server.stdout.readline()))
        return Job(str(cwd), pids)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait()


class Job:
    """The processes of a started script.

    Attributes:
        cwd: working folder of the processes.
        pids: process ids by rank.
    """

    def __init__(self, cwd, pids):
        self.cwd, self.pids = cwd, pids

    def wait_for_output(self, text, rank=0):
        """Waits until the process of a rank has printed `text`."""
        while text not in self.read(f"{rank}.out"):
            code = self.exit_codes()[rank]
            assert code is None, (code, self.read(f"{rank}.err"))
            time.sleep(0.02)

    def wait(self):
        """Waits for all processes; returns their exit codes (-s: killed by signal s)."""
        while None in (codes := self.exit_codes()):
            time.sleep(0.02)
        return codes

    def exit_codes(self):
        """Returns the exit codes by rank, with None for a process that is still running."""
        paths = [os.path.join(self.cwd, f"{pid}.code") for pid in self.pids]
        return [int(_read(path)) if os.path.exists(path) else None for path in paths]

    def read(self, name):
        """Returns the contents of a file in the working folder."""
        return _read(os.path.join(self.cwd, name))

    def send_signal(self, rank, number=signal.SIGKILL):
        """Sends a signal to the process of a rank."""
        os.kill(self.pids[rank], number)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def _serve():
    """Reads requests from stdin and forks two processes for each request.

    One process runs the script, and this function returns the request in that process. The other
    process waits for the script and saves its exit code.
    """
    import keras_hub  # noqa: F401

    from helpers import trainers  # noqa: F401
    from tf_mural import reports  # noqa: F401
    from tf_mural.experiment import run_stage  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        request, (read_end, write_end) = json.loads(line), os.pipe()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            pid = os.fork()
            if not pid:
                return request
            os.write(write_end, b"%d\n" % pid)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            path = os.path.join(request[0], f"{pid}.code")
            with open(f"{path}.tmp", "w", encoding="utf-8") as file:
                file.write(str(code))
            os.rename(f"{path}.tmp", path)
            os._exit(0)
        print(os.read(read_end, 20).decode().strip(), flush=True)
        os.close(read_end)
        os.close(write_end)
    os._exit(0)


def _run_script(cwd, rank, argv, tf_config):
    """Runs a script in this process."""
    os.chdir(cwd)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{rank}.{name}", os.O_WRONLY | os.O_APPEND), descriptor)
    os.close(0)
    signal.alarm(_TIMEOUT_SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if tf_config:
        os.environ["TF_CONFIG"] = json.dumps(tf_config)
    sys.argv, sys.path[0] = argv, os.path.dirname(argv[0])
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path[0:1] = [TESTS, os.path.dirname(TESTS), TESTS]
    _run_script(*_serve())
