"""What an exception says in one line to who can mend it: places, disks, memory, file systems."""

import errno
import re
import traceback

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a file at its most
_PLACES = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
# What TensorFlow, JAX and their allocators write; its code alone also means a full disk.
_MEMORY = re.compile(r"\bOOM\b|out of memory|failed to allocate", re.IGNORECASE)
_REMOTE = "tensorflow/python/lib/io/file_io.py"


def line_of(error):
    """What to say of an exception, or None where it is no matter of the machine.

    Args:
        error: the exception, as it was caught.
    """
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            return f"{error.strerror}{where}: make room, and give the same command again"
        return f"{error.strerror}{where}" if where and isinstance(error, _PLACES) else None
    if _is_remote(error):
        said = " ".join(line.strip() for line in str(error).splitlines())
        hint = " (TensorFlow knows local paths and gs://)" if "scheme" in said else ""
        return f"a file system said {said or type(error).__name__}{hint}"
    if isinstance(error, MemoryError) or _MEMORY.search(_text(error)):
        return (
            "the memory of the device does not suffice: take fewer rows at a time (in training "
            "--config.microbatch, which keeps the batch, or --config.batch_size; elsewhere "
            f"--batch_size) or smaller images; it said: {_first_line(error)}"
        )
    return None


def _is_remote(error):
    """Whether it comes from `tf.io.gfile`."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.replace("\\", "/").endswith(_REMOTE)


def _text(error):
    """What an exception of TensorFlow or JAX says; of others nothing, to mistake none."""
    package = type(error).__module__.partition(".")[0]
    return str(error) if package in ("tensorflow", "jax", "jaxlib") else ""


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if _MEMORY.search(line)), repr(error))[:200]
