"""An object in a process of its own, which computes when it is asked to and sleeps otherwise."""

import importlib
import multiprocessing
import time
import traceback


class Worker:
    """Runs the methods of an object that lives in another process.

    Args:
        module, name: where the class of that object is.
        children: whether the object starts processes of its own.
        **arguments: of its constructor.

    Raises:
        RuntimeError: from every method, when the other process failed; with its traceback.
    """

    def __init__(self, module, name, children=False, **arguments):
        # A fork would inherit the threads' locks of whatever framework is loaded here.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, module, name, arguments), daemon=not children
        )
        self._process.start()
        theirs.close()
        self._receive()

    def call(self, method, *arguments):
        """Calls a method there.

        Returns:
            (what it returned, seconds by the clock, seconds of all its threads on a processor).
        """
        self._connection.send((method, arguments))
        return self._receive()

    def close(self):
        """Ends the process."""
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


def _serve(connection, module, name, arguments):
    try:
        served = getattr(importlib.import_module(module), name)(**arguments)
        connection.send((None, None))
        while True:
            method, positional = connection.recv()
            wall, processor = time.perf_counter(), time.process_time()
            answer = getattr(served, method)(*positional)
            took = time.perf_counter() - wall, time.process_time() - processor
            connection.send((None, (answer, *took)))
    except (EOFError, KeyboardInterrupt):
        pass
    except BaseException:
        connection.send((traceback.format_exc(), None))
