"""Starts runs of several processes on this machine, without TensorFlow's import for each of them.

`Workers` starts one process that imports everything, and forks the processes of a run, which find
each other by TF_CONFIG over loopback. Run as a script it is that process.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(os.path.dirname(HERE), "tools")
_SECONDS = 400  # after which a process is ended


class Workers:
    """Runs of several processes: `with Workers() as workers: workers.start(...)`."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, cwd, count, *argv):
        """Starts a script as `count` processes, without TF_CONFIG if it is one; returns a `Job`.

        What process i writes goes to the files i.out and i.err in `cwd`.
        """
        os.makedirs(cwd, exist_ok=True)
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
        pids = []
        for i in range(count):
            for name in ("out", "err"):
                open(os.path.join(cwd, f"{i}.{name}"), "w").close()
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
            request = [str(cwd), i, [str(a) for a in argv], task if count > 1 else None]
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
    """The processes of a run.

    Attributes:
        pids: of the processes.
    """

    def __init__(self, cwd, pids):
        self.cwd, self.pids = cwd, pids

    def wait_for(self, text, number=0):
        """Returns once a process has written `text`."""
        while text not in self.read(f"{number}.out"):
            code = self.codes()[number]
            assert code is None, (code, self.read(f"{number}.err"))
            time.sleep(0.02)

    def wait(self):
        """Exit codes of all processes, once all have ended; by signal s, -s."""
        while None in (codes := self.codes()):
            time.sleep(0.02)
        return codes

    def codes(self):
        """Exit codes, None of those that run on."""
        paths = [os.path.join(self.cwd, f"{pid}.code") for pid in self.pids]
        return [int(_read(path)) if os.path.exists(path) else None for path in paths]

    def read(self, name):
        """What is in a file."""
        return _read(os.path.join(self.cwd, name))

    def end(self, number, how=signal.SIGKILL):
        """Sends a process a signal."""
        os.kill(self.pids[number], how)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def _serve():
    """Forks two for each request: one that becomes the script, one that notes its exit code."""
    import keras_hub  # noqa: F401
    import replicas  # noqa: F401

    from tf_mural import experiment, reports  # noqa: F401

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


def _become(cwd, number, argv, task):
    """Runs the script as this process."""
    os.chdir(cwd)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_APPEND), descriptor)
    os.close(0)
    signal.alarm(_SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if task:
        os.environ["TF_CONFIG"] = json.dumps(task)
    sys.argv, sys.path[0] = argv, os.path.dirname(argv[0])
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path[1:1] = [os.path.dirname(HERE), HERE]
    _become(*_serve())
