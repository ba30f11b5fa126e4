"""Between the steps: what the processes of a run tell each other, and when one of them is lost."""

import contextlib
import json
import time

import numpy as np

from tf_mural.errors import UserError

_CHUNK = 1 << 22  # values of an array that travel at once
_GRACE = 1.0  # seconds that a process stays for those that are behind


class WorkerLost(UserError):
    """Another process of the run is gone. The run can be started again as it is."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Processes:
    """The processes of a run; usually a single one. A backend gives it a gather of its own.

    All methods but `watched` are collective: every process calls them, in the same order.

    Args:
        number: of this process, from 0.
        count: how many there are.

    Attributes:
        number, count: likewise.
        first: whether this is the one that writes what the run leaves behind.
    """

    # What collectives end with when a process is gone; which of them, is a matter of the moment.
    lost = ()

    def __init__(self, number=0, count=1):
        self.number, self.count, self.first = number, count, number == 0

    def wait(self):
        """Returns once all processes are here."""
        self.gather(np.zeros(1, np.int32))

    def leave(self):
        """The last call of a run that went well: nobody ends while another one needs it."""
        if self.count == 1:
            return
        # All work is done. A process that has its part of the collective may be gone before the
        # others have fetched theirs from it, which is no loss.
        with contextlib.suppress(*self.lost):
            self.wait()
        time.sleep(_GRACE)

    def gather(self, array):
        """Arrays of all processes.

        Args:
            array: numpy (n, ...), of one shape and dtype (32 bits) in all processes.

        Returns:
            (count, n, ...), by number of the process.
        """
        array = np.asarray(array)
        if self.count == 1 or not array.size:  # the collective crashes on nothing
            return np.repeat(array[np.newaxis], self.count, axis=0)
        rows = max(1, _CHUNK // array[0].size)
        parts = [array[i : i + rows] for i in range(0, len(array), rows)]
        return np.concatenate([self._gathered(part) for part in parts], axis=1)

    def _gathered(self, part):
        """An array of all processes, stacked; of a few million values at most."""
        raise NotImplementedError

    def exchange(self, value):
        """Plain data of all processes, [value], by number of the process."""
        if self.count == 1:
            return [value]
        data = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        size = int(self.gather(np.array([len(data)], np.int32)).max())
        # Padded with spaces, which JSON passes over.
        padded = np.pad(data, (0, size - len(data)), constant_values=ord(" "))
        return [json.loads(row.astype(np.uint8).tobytes()) for row in self.gather(padded)]

    def agree(self, values, advice):
        """Raises UserError where processes hold different values.

        Args:
            values: {what it is, for the message: plain data}.
            advice: what to do then.
        """
        everywhere = self.exchange(values)
        for what in sorted(set().union(*everywhere)):
            held = [one.get(what) for one in everywhere]
            if any(value != held[0] for value in held):
                told = ", ".join(f"{value} in process {i}" for i, value in enumerate(held))
                time.sleep(_GRACE * (self.count > 1))  # for the others to find the same
                raise UserError(f"the processes do not agree on {what}: {told}; {advice}")

    @contextlib.contextmanager
    def watched(self):
        """Turns the errors that a lost process leaves in the others into `WorkerLost`."""
        try:
            yield
        except self.lost as error:
            if self.count == 1 or not self._is_loss(error):
                raise
            raise WorkerLost(
                f"process {self.number} of {self.count} has lost another one "
                f"({type(error).__name__}: {_first_line(error)}): stopped. The output of that one "
                "says why; start all processes again, by the same command, and the run goes on "
                "from its last checkpoint"
            ) from error

    def _is_loss(self, error):
        """Whether one of `lost` is what a process that is gone leaves; the backend knows more."""
        return True


def _first_line(error, most=200):
    # TensorFlow puts where an operation was made before what became of it.
    where = ("Graph execution error", "Detected at node", "  File ")
    lines = (line for line in str(error).splitlines() if line and not line.startswith(where))
    line = next(lines, "")
    return line if len(line) <= most else line[: most - 3] + "..."


class SharedEmbedder:
    """An `embed` for several processes: each embeds its share, and all of them get all rows.

    Every process runs the same evaluation on the same records: those who would wait for the first
    one's scores may as well compute them.

    Args:
        embed: has `images` and `texts`, see `embedder.Embedder`.
        processes: `Processes`.
    """

    def __init__(self, embed, processes):
        self._embed, self._processes = embed, processes

    def images(self, encoded):
        """As those of `embed`; every process reads all items and embeds its own."""
        return self._shared(self._embed.images, encoded)

    def texts(self, texts):
        """As those of `embed`."""
        return self._shared(self._embed.texts, texts)

    def _shared(self, embed, items):
        number, count = self._processes.number, self._processes.count
        total, error, rows = 0, None, None

        def own():
            nonlocal total
            for item in items:
                total += 1
                if (total - 1) % count == number:
                    yield item

        try:
            rows = embed(own())
        except Exception as caught:  # told to all of them first: they would wait for the rows
            error = caught
        self._raise(error)
        share = np.zeros((-(-total // count), rows.shape[1]), np.float32)
        share[: len(rows)] = rows
        gathered = self._processes.gather(share)  # (count, share, d), items taken in turn
        return gathered.transpose(1, 0, 2).reshape(-1, rows.shape[1])[:total]

    def _raise(self, error):
        """Raises this process's error, or that of another one."""
        number, count = self._processes.number, self._processes.count
        position = getattr(error, "position", None)
        if position is not None:
            told = f"position {position}"
            position = error.position = position * count + number
            error.args = (str(error).replace(told, f"position {position}"), *error.args[1:])
        code = getattr(error, "exit_code", 2)
        told = None if error is None else [position, str(error), code]
        others = self._processes.exchange(told)
        if error is not None:
            raise error
        for other, told in enumerate(others):
            if told is not None:
                failure = UserError(f"in process {other}: {told[1]}")
                failure.exit_code = told[2]
                if told[0] is not None:
                    failure.position = told[0]
                raise failure
