"""One-line messages for errors that the user can fix: paths, disks, memory, file systems."""

import errno
import re
import traceback

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATH_ERRORS = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_FREE_SPACE = "free some space, and give the same command again"
# TensorFlow and JAX report a full disk and too many open files with the same error code as
# exhausted memory.
_NOT_MEMORY = re.compile("space left|quota|open files")
_MEMORY = re.compile(r"OOM|memory|allocat|reserve", re.IGNORECASE)
# {advice in the errors of the library, which names arguments: the same advice with flags}.
_FLAGS = {
    "choose the backend jax": "set --backend=jax",
    "choose precision=mixed_bfloat16": "set --config.precision=mixed_bfloat16",
    "a smaller learning rate of the optimizer or global_clipnorm=1.0": (
        "a smaller --config.optimizer.learning_rate or --config.optimizer.global_clipnorm=1.0"
    ),
    " to continue from that checkpoint": (
        ", with --allow_config_changes to continue from that checkpoint"
    ),
    "BadStepPolicy(skip=True)": "--config.on_bad_step=skip",
}
_GFILE = "tensorflow/python/lib/io/file_io.py"


def with_flags(message):
    """Replaces the arguments in an error message of the library by the flags of the commands.

    Library errors name arguments and config values in backquotes, as Python code: `workdir`,
    `allow_config_changes=True` or `config.microbatch=none`. The flags are --workdir,
    --allow_config_changes and --config.microbatch=none.
    """
    for advice, flags in _FLAGS.items():
        message = message.replace(advice, flags)
    message = re.sub(r"`(\w+)=True`", r"--\1", message)
    return re.sub(r"`([a-z]\w*(?:\.\w+)*)(=[^`\s]*)?`", r"--\1\2", message)


def error_line(error):
    """Returns a one-line message for an exception that the user can fix, otherwise None.

    Args:
        error: the caught exception.
    """
    if isinstance(error, OSError):
        path = f" ({error.filename})" if error.filename else ""
        if error.errno in _DISK_FULL:
            return f"{error.strerror}{path}: {_FREE_SPACE}"
        return f"{error.strerror}{path}" if path and isinstance(error, _PATH_ERRORS) else None
    if _is_from_gfile(error):
        message = " ".join(line.strip() for line in str(error).splitlines())
        message = message or type(error).__name__
        hint = " (TensorFlow supports local paths and gs://)" if "scheme" in message else ""
        hint = f": {_FREE_SPACE}" if "space left" in message else hint
        return f"the file system reported {message}{hint}"
    if isinstance(error, MemoryError):
        return f"this machine does not have enough memory: {error or 'no details'}"
    if _is_out_of_memory(error):
        return (
            "the device does not have enough memory: in training, set --config.microbatch=64; the "
            "activations then take the memory of 64 rows, and the gradients do not change "
            f"(docs/troubleshooting.md); the error was: {_memory_line(str(error))}"
        )
    return None


def _is_from_gfile(error):
    """Returns whether `tf.io.gfile` raised the error."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith(_GFILE)


def _is_out_of_memory(error):
    """Returns whether TensorFlow or JAX ran out of memory."""
    message, package = str(error), type(error).__module__.partition(".")[0]
    exhausted = type(error).__name__ == "ResourceExhaustedError"
    exhausted = exhausted or (package.startswith("jax") and "RESOURCE_EXHAUSTED" in message)
    return exhausted and not _NOT_MEMORY.search(message)


def _memory_line(message):
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if _MEMORY.search(line)), " ".join(lines))[:200]
