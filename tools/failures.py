"""What an exception says in one line to who can mend it: places, disks, memory, file systems."""

import errno
import re
import traceback

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a file at its most
_PLACES = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_ROOM = "make room, and give the same command again"
# What else the code stands for that TensorFlow and JAX give to lacking memory.
_NO_MEMORY = re.compile("space left|quota|open files")
_SAYS = re.compile(r"OOM|memory|allocat|reserve", re.IGNORECASE)
_REMOTE = "tensorflow/python/lib/io/file_io.py"


def line_of(error):
    """What to say of an exception, or None where it is no matter of the machine.

    Args:
        error: the exception, as it was caught.
    """
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            return f"{error.strerror}{where}: {_ROOM}"
        return f"{error.strerror}{where}" if where and isinstance(error, _PLACES) else None
    if _is_remote(error):
        said = " ".join(line.strip() for line in str(error).splitlines()) or type(error).__name__
        hint = " (TensorFlow knows local paths and gs://)" if "scheme" in said else ""
        hint = f": {_ROOM}" if "space left" in said else hint
        return f"a file system said {said}{hint}"
    if isinstance(error, MemoryError):
        return f"the machine's memory does not suffice: {error or 'it said no more'}"
    if _is_exhausted(error):
        return (
            "the device's memory does not suffice: in training --config.microbatch=64 keeps the "
            "batch and the gradients and takes the memory of 64 rows (docs/troubleshooting.md); it "
            f"said: {_first_line(str(error))}"
        )
    return None


def _is_remote(error):
    """Whether it comes from `tf.io.gfile`."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith(_REMOTE)


def _is_exhausted(error):
    """Whether TensorFlow or JAX lacks memory."""
    text, package = str(error), type(error).__module__.partition(".")[0]
    exhausted = type(error).__name__ == "ResourceExhaustedError"
    exhausted = exhausted or (package.startswith("jax") and "RESOURCE_EXHAUSTED" in text)
    return exhausted and not _NO_MEMORY.search(text)


def _first_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if _SAYS.search(line)), " ".join(lines))[:200]
