"""Errors that a user can correct, and lookup of names in tables."""

import difflib


class UserError(Exception):
    """Something the user can mend. Tools print its message alone and exit with code 2.

    The message names the file or record, what was expected, what came, and what to do.
    """


def suggest(name, known):
    """The end of a message, "; did you mean 'x'?" with the nearest of `known`, or "" if none is."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def lookup(table, name, what):
    """Returns `table[name]`.

    Args:
        table: dict from names to anything.
        name: the name asked for.
        what: what the table holds, in one word ("loss"), for the message.

    Raises:
        UserError: `name` is not in the table; the message lists what is.
    """
    try:
        return table[name]
    except (KeyError, TypeError):  # TypeError: an unhashable name, such as a list from a config.
        known = ", ".join(str(key) for key in table) or "(none)"
        message = f"unknown {what} {name!r}; known: {known}{suggest(name, table)}"
        raise UserError(message) from None
