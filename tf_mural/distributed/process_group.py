"""Process group: communication between the processes of a run outside the training step."""

import contextlib
import json
import time

import numpy as np

from tf_mural.errors import UserError

_MAX_VALUES = 1 << 22  # maximum number of values per collective operation
_GRACE_SECONDS = 1.0  # seconds that a process waits for slower peers before it ends


class PeerLostError(UserError):
    """Another process of the run died. The run can be restarted by the same command."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: temporary failure, try again


class ProcessGroup:
    """The processes of a run, which may be a single one. Backends implement `_all_gather`.

    All methods except `detect_peer_failure` are collective: every process must call them in the
    same order.

    Args:
        rank: index of this process, from 0.
        world_size: number of processes.

    Attributes:
        rank, world_size: the values of the arguments.
        is_primary: whether this process has rank 0 and therefore writes the outputs of the run.
    """

    # Exceptions that a collective operation may raise after a peer has died. The type of the
    # exception depends on timing.
    peer_errors = ()

    def __init__(self, rank=0, world_size=1):
        self.rank, self.world_size, self.is_primary = rank, world_size, rank == 0

    def barrier(self):
        """Waits until all processes have called this method."""
        self.all_gather(np.zeros(1, np.int32))

    def shutdown(self):
        """Ends a successful run: no process exits while another process needs it."""
        if self.world_size == 1:
            return
        # A peer may exit before this process has fetched its part of the last collective operation.
        # All work is done by then, so the error is ignored.
        with contextlib.suppress(*self.peer_errors):
            self.barrier()
        time.sleep(_GRACE_SECONDS)

    def all_gather(self, array):
        """Gathers the arrays of all processes.

        Args:
            array: numpy array (n, ...), with the same shape and 32-bit dtype in all processes.

        Returns:
            Array (world_size, n, ...), indexed by rank.
        """
        array = np.asarray(array)
        if self.world_size == 1 or not array.size:  # empty arrays crash the collective operation
            return np.repeat(array[np.newaxis], self.world_size, axis=0)
        rows = max(1, _MAX_VALUES // array[0].size)
        parts = [array[i : i + rows] for i in range(0, len(array), rows)]
        return np.concatenate([self._all_gather(part) for part in parts], axis=1)

    def _all_gather(self, part):
        """Stacks the arrays of all processes; `part` has at most a few million values."""
        raise NotImplementedError

    def all_gather_object(self, value):
        """Returns the list of the values of all processes by rank; values must be JSON data."""
        if self.world_size == 1:
            return [value]
        data = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        size = int(self.all_gather(np.array([len(data)], np.int32)).max())
        # The padding consists of spaces, which the JSON parser ignores.
        padded = np.pad(data, (0, size - len(data)), constant_values=ord(" "))
        return [json.loads(row.astype(np.uint8).tobytes()) for row in self.all_gather(padded)]

    def check_consistent(self, values, advice):
        """Checks that all processes have the same values.

        Args:
            values: {name: plain data}; the error message contains the name.
            advice: end of the error message.

        Raises:
            UserError: the values of two processes differ.
        """
        values_by_rank = self.all_gather_object(values)
        for name in sorted(set().union(*values_by_rank)):
            received = [values.get(name) for values in values_by_rank]
            if any(value != received[0] for value in received):
                listed = ", ".join(f"{value} in process {i}" for i, value in enumerate(received))
                # This process waits, because the other processes need time to raise the same error.
                time.sleep(_GRACE_SECONDS * (self.world_size > 1))
                raise UserError(f"the processes do not agree on {name}: {listed}; {advice}")

    @contextlib.contextmanager
    def detect_peer_failure(self):
        """Context manager: turns errors caused by the death of a peer into `PeerLostError`."""
        try:
            yield
        except self.peer_errors as error:
            if self.world_size == 1 or not self._is_peer_failure(error):
                raise
            raise PeerLostError(
                f"process {self.rank} of {self.world_size} has lost another one "
                f"({type(error).__name__}: {_first_line(error)}): stopped. The output of the other "
                "process gives the reason. Start all processes again, by the same command, and the "
                "run continues from its last checkpoint"
            ) from error

    def _is_peer_failure(self, error):
        """Returns whether a lost peer caused one of `peer_errors`; backends may override this."""
        return True


def _first_line(error, max_length=200):
    # TensorFlow's message starts with the place where an operation was created; the reason follows.
    prefixes = ("Graph execution error", "Detected at node", "  File ")
    lines = (line for line in str(error).splitlines() if line and not line.startswith(prefixes))
    line = next(lines, "")
    return line if len(line) <= max_length else line[: max_length - 3] + "..."


class DistributedEmbedder:
    """Embedder for several processes: every process embeds a share, and gets all embeddings.

    Every process then computes the same scores from the embeddings, because waiting for the scores
    of the primary process would take as long.

    Args:
        embed: object with `embed_images` and `embed_texts`, see `evaluation.batch_embedder`.
        processes: `ProcessGroup`.
    """

    def __init__(self, embed, processes):
        self._embed, self._processes = embed, processes

    def embed_images(self, encoded):
        """Embeds images; every process reads all items and embeds its own share."""
        return self._embed_share(self._embed.embed_images, encoded)

    def embed_texts(self, texts):
        """Embeds texts; every process reads all items and embeds its own share."""
        return self._embed_share(self._embed.embed_texts, texts)

    def _embed_share(self, embed, items):
        rank, world_size = self._processes.rank, self._processes.world_size
        total, error, rows = 0, None, None

        def own_items():
            nonlocal total
            for item in items:
                total += 1
                if (total - 1) % world_size == rank:
                    yield item

        try:
            rows = embed(own_items())
        except Exception as caught:  # `_raise_any` raises the error in all processes.
            error = caught
        self._raise_any(error)
        share = np.zeros((-(-total // world_size), rows.shape[1]), np.float32)
        share[: len(rows)] = rows
        # Item i is in row i // world_size of rank i % world_size.
        gathered = self._processes.all_gather(share)  # (world_size, share, d)
        return gathered.transpose(1, 0, 2).reshape(-1, rows.shape[1])[:total]

    def _raise_any(self, error):
        """Raises the error of this process or, if it has none, the error of another process."""
        rank, world_size = self._processes.rank, self._processes.world_size
        position = getattr(error, "position", None)
        if position is not None:
            local_position = f"position {position}"
            position = error.position = position * world_size + rank
            message = str(error).replace(local_position, f"position {position}")
            error.args = (message, *error.args[1:])
        code = getattr(error, "exit_code", 2)
        failure = None if error is None else [position, str(error), code]
        failures = self._processes.all_gather_object(failure)
        if error is not None:
            raise error
        for peer, failure in enumerate(failures):
            if failure is not None:
                position, message, code = failure
                peer_error = UserError(f"in process {peer}: {message}")
                peer_error.exit_code = code
                if position is not None:
                    peer_error.position = position
                raise peer_error
