"""Runs an object in a process of its own, which is idle between calls."""

import importlib
import multiprocessing
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
