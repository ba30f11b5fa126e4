"""Runs an object in a process of its own, which is idle between calls."""

import contextlib
import importlib
import json
import multiprocessing
import subprocess
import time
import traceback


class Worker:
    """Runs the methods of an object in another process.

    Args:
        module: module of the object's class.
        name: name of the class.
        children: whether the object starts processes of its own.
        **arguments: arguments of the constructor.

    Raises:
        RuntimeError: the other process failed; the message has its traceback. All methods can
            raise this error.
    """

    def __init__(self, module, name, children=False, **arguments):
        # A fork would inherit locks of the threads of any framework that is loaded here.
        context = multiprocessing.get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(child_connection, module, name, arguments), daemon=not children
        )
        self._process.start()
        child_connection.close()
        self._receive()

    def call(self, method, *arguments):
        """Calls a method of the object.

        Returns:
            (result, elapsed seconds, processor seconds of all threads).
        """
        self._connection.send((method, arguments))
        return self._receive()

    def close(self):
        """Stops the process."""
        self._connection.close()
        self._process.join()

    def _receive(self):
        try:
            failure, answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"the process of {self._process.name} ended with code {self._process.exitcode} "
                "(-9: out of memory?)"
            ) from None
        if failure:
            raise RuntimeError(failure)
        return answer


class ScriptWorker:
    """Runs a script with another Python, whose environment has the packages of a peer.

    The script reads a line of JSON per call from standard input, [method, arguments]. After the
    call, it prints a line {"seconds": elapsed seconds} or {"error": message}. With `facts`, the
    script first prints a line of JSON that describes the run. Other lines are ignored.

    Args:
        python: path of the interpreter.
        script: path of the script.
        argument: argument of the script.
        facts: whether the script describes the run.

    Attributes:
        facts: description of the run, or None.

    Raises:
        RuntimeError: the process ended. All methods can raise this error.
    """

    def __init__(self, python, script, argument, facts=False):
        self._process = subprocess.Popen(
            [python, script, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.facts = self._receive() if facts else None

    def call(self, method, *arguments):
        """Calls a method of the script.

        Returns:
            (None, elapsed seconds, None).

        Raises:
            RuntimeError: the call failed.
        """
        with contextlib.suppress(BrokenPipeError):  # The answer is then missing, too.
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
        answer = self._receive()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return None, answer["seconds"], None

    def close(self):
        """Stops the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _receive(self):
        for line in self._process.stdout:
            if line.startswith("{"):  # Libraries print other lines.
                return json.loads(line)
        raise RuntimeError(f"the process of the peer ended with code {self._process.wait()}")


def _serve(connection, module, name, arguments):
    try:
        instance = getattr(importlib.import_module(module), name)(**arguments)
        connection.send((None, None))
        while True:
            method, arguments = connection.recv()
            wall, processor = time.perf_counter(), time.process_time()
            result = getattr(instance, method)(*arguments)
            seconds = time.perf_counter() - wall, time.process_time() - processor
            connection.send((None, (result, *seconds)))
    except (EOFError, KeyboardInterrupt):
        pass
    except BaseException:
        connection.send((traceback.format_exc(), None))
