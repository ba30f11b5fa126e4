"""Errors that a user can correct, and lookup of names in tables."""

import difflib


class UserError(ValueError):
    """An error that the user can correct. Commands print only the message and exit with code 2.

    The message names the file or record, the expected and the received value, and a remedy.
    """


class StorageError(OSError):
    """A remote storage refused a request, or a remote file cannot be used.

    Commands print only the message. The message contains no credentials and no endpoint.
    """

    exit_code = 2


class StorageUnavailable(StorageError):
    """A remote storage did not answer until the deadline; the same command may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def suggest(name, known):
    """Returns "; did you mean 'x'?" for the most similar name x, or "" if no name is similar."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def lookup(table, name, description):
    """Returns `table[name]`.

    Args:
        table: dict from names to any values.
        name: key of the table.
        description: noun for a value of the table ("loss"), used in the error message.

    Raises:
        UserError: `name` is not in the table; the message lists the known names.
    """
    try:
        return table[name]
    except (KeyError, TypeError):  # TypeError: `name` is unhashable, such as a list from a config
        known = ", ".join(str(key) for key in table) or "(none)"
        message = f"unknown {description} {name!r}; known: {known}{suggest(name, table)}"
        raise UserError(message) from None
