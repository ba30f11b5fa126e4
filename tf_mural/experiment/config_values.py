"""Reads and sets values of nested configs by dotted names, such as "model.text.max_tokens"."""

import functools

from tf_mural.configs import base

MISSING = object()


def get_value(data, name):
    """Returns the value with a dotted name, with tuples as lists; `MISSING` if there is none.

    Args:
        data: nested dicts or ConfigDicts.
        name: dotted name.
    """
    for key in name.split("."):
        if key not in data:
            return MISSING
        data = data[key]
    return list(data) if isinstance(data, tuple) else data


def set_values(config, values):
    """Sets values of a config.

    Args:
        config: ConfigDict, changed in place.
        values: {dotted name: value}; lists become tuples.

    Returns:
        List of "name=value" of the values that changed.
    """
    changed = []
    for name, value in values.items():
        *groups, key = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        value = tuple(value) if isinstance(value, list) else value
        if group[key] != value:
            group[key] = value
            changed.append(f"{name}={value}")
    return changed


def is_default(config, name):
    """Returns whether a value of a config equals the default of its size in configs/base.py.

    Args:
        config: ConfigDict of a stage. If its size is unknown, the value may equal the default of
            any size.
        name: dotted name of the value.
    """
    value = get_value(config, name)
    sizes = [config.size] if config.size in base.SIZES else base.SIZES
    return any(value == get_value(_default_config(size), name) for size in sizes)


@functools.cache
def _default_config(size):
    return base.base_config("", size)
