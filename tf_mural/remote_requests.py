"""Requests to remote storage: repetition until a deadline, and clear errors without secrets.

The environment variable TF_MURAL_STORAGE_DEADLINE sets the deadline in seconds.
"""

import errno
import os
import random
import re
import time

from tf_mural.errors import StorageError, StorageUnavailable, UserError

DEADLINE_VARIABLE = "TF_MURAL_STORAGE_DEADLINE"
_DEADLINE_SECONDS, _AFTER_FAILURE_SECONDS = 120.0, 5.0
FIRST_WAIT, _LONGEST_WAIT = 0.1, 8.0  # seconds, upper bounds of the random waits

_CREDENTIALS = "check the credentials and permissions of this process (docs/running.md)"
_TEMPORARY_STATUS = (408, 425, 429)
# Errors of the local disk and of this process.
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EROFS)
_REGION_CODES = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "Redirect",
    "TemporaryRedirect",
)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
# Packages whose other errors are those of a connection.
_NETWORK = ("aiohttp", "botocore", "aiobotocore", "requests", "urllib3", "httpx", "httpcore", "ssl")
_NETWORK += ("httpx2", "httpcore2", "google", "gcsfs", "azure")
_ADDRESS = re.compile(r"[a-z][\w+.-]*://[^\s'\"]+")
_MAX_REASON = 160  # characters


class _State:
    """Whether the last request of this process that ended was given up at its deadline."""

    given_up = False


def deadline():
    """Returns the number of seconds after which a request that fails again and again is given up.

    After a request was given up, the next requests are given up after `_AFTER_FAILURE_SECONDS`,
    until one of them succeeds. A command whose storage is unavailable therefore ends soon, although
    it still tries to copy its last files.

    Raises:
        UserError: the environment variable is not a positive number.
    """
    text = os.environ.get(DEADLINE_VARIABLE, "")
    try:
        seconds = float(text) if text else _DEADLINE_SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UserError(f"{DEADLINE_VARIABLE} is {text!r}, expected a positive number of seconds")
    return min(seconds, _AFTER_FAILURE_SECONDS) if _State.given_up else seconds


def retried(call, path, until=None):
    """Returns `call()`, repeated while the storage is temporarily unavailable.

    Args:
        call: callable without arguments.
        path: path for messages.
        until: time of `time.monotonic` at which the last attempt may start; None: after `deadline`.

    Raises:
        FileNotFoundError: there is no such file.
        StorageUnavailable: all attempts until the deadline failed.
        StorageError: the storage refused the request.
    """
    began = time.monotonic()
    until = began + deadline() if until is None else until
    wait = FIRST_WAIT
    while True:
        try:
            result = call()
            _State.given_up = False
            return result
        except Exception as error:
            translated = translate(error, path)
            if not isinstance(translated, StorageUnavailable):
                raise translated from (None if translated is not error else error.__cause__)
            remaining = until - time.monotonic()
            pause = min(wait * random.random(), remaining)
            if remaining <= 0:
                _State.given_up = True
                raise StorageUnavailable(
                    f"{shown(path)}: the storage did not answer for "
                    f"{time.monotonic() - began:.0f} s ({translated}); give the same command again "
                    "later"
                ) from None
        time.sleep(pause)
        wait = min(2 * wait, _LONGEST_WAIT)


def shown(path):
    """Returns a path for messages, without a user name, a password and a query."""
    start, separator, rest = str(path).partition("://")
    if start not in ("http", "https"):
        return str(path)
    host, slash, name = rest.partition("?")[0].partition("/")
    return f"{start}{separator}{host.rpartition('@')[2]}{slash}{name}"


def translate(error, path):
    """Returns the exception that replaces an error of a request.

    Args:
        error: the caught exception.
        path: path of the file or folder.

    Returns:
        FileNotFoundError; StorageUnavailable, if the request may succeed later; StorageError, if
        the storage refused the request; or the error itself, if it is another error.
    """
    if isinstance(error, StorageError) or getattr(error, "errno", None) in _LOCAL:
        return error
    status, code, region = _response_of(error)
    path = shown(path)
    if code == "NoSuchBucket":
        return StorageError(f"{path}: the bucket does not exist; create it, or correct the path")
    if code in _REGION_CODES or status in (301, 307, 308):
        place = f"the region {region}" if region else "another region"
        return StorageError(
            f"{path}: the bucket is in {place}; set the region of this process (AWS_REGION, "
            "docs/running.md)"
        )
    if status == 412 or (isinstance(error, FileExistsError) and not code):
        return changed(path)
    if status == 416:
        return StorageError(
            f"{path} is shorter than expected; it was changed, or was not copied completely"
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(2, "No such file or directory", path)
    if type(error).__name__ in _NO_CREDENTIALS:
        return StorageError(f"{path}: there are no credentials for this storage; {_CREDENTIALS}")
    is_refused = status in (401, 403) or isinstance(error, PermissionError)
    if is_refused or "Forbidden" in str(error):
        return StorageError(f"{path}: permission denied ({reason(error, code)}); {_CREDENTIALS}")
    if status is not None and 400 <= status < 500 and status not in _TEMPORARY_STATUS:
        return StorageError(f"{path}: the storage refused the request ({reason(error, code)})")
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError | TimeoutError) or package in _NETWORK or status:
        return StorageUnavailable(reason(error, code))
    return error


def changed(path):
    """Returns the error of a file whose version differs from the version at the start."""
    return StorageError(
        f"{shown(path)} was changed while it was read; give the same command again when no other "
        "process writes it"
    )


def reason(error, code=None):
    """Returns the name and the text of an error on one line, without addresses and secrets."""
    text = _ADDRESS.sub("...", " ".join(str(error).split()))
    name = code or type(error).__name__
    return f"{name}: {text[:_MAX_REASON]}" if text and text != name else name


def _response_of(error):
    """Returns (HTTP status, error code of S3, region) of an error; None for what it lacks."""
    for value in (getattr(getattr(error, "response", None), "status_code", None), *_numbers(error)):
        if isinstance(value, int) and 300 <= value < 600:
            return value, None, None
    # s3fs replaces the error of botocore, which has the response, by an OSError.
    for response in (getattr(e, "response", None) for e in (error, error.__cause__)):
        if isinstance(response, dict):
            details, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
            region = details.get("Region")
            region = region or metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region")
            return metadata.get("HTTPStatusCode"), details.get("Code"), region
    return None, None, None


def _numbers(error):
    for name in ("status", "code"):
        value = getattr(error, name, None)
        yield int(value) if isinstance(value, str) and value.isdigit() else value
