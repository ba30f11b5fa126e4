"""Loads the config of a stage, and overrides its values from the command line."""

import ast
import importlib
import importlib.util
import os
import re

from ml_collections import ConfigDict, config_dict

from tf_mural import configs
from tf_mural.errors import UserError, lookup, suggest

STAGES = (
    "align",
    "mural",
    "etcl",
    "control",
    "sixlang",
    "one_language",
    "finetune",
    "distil",
    "codeswitch",
)
SIZES = ("tiny", "b3_mini", "paper")

_PREFIX = "--config."
_FOLDER = "configs/"


def load_config(stage, size, path=None):
    """Returns the config of a stage, from `configs/<stage>.py` or from a file of the user.

    Args:
        stage: one of `STAGES`.
        size: one of `SIZES`; it has no effect if `path` is given.
        path: Python file that defines `get_config(stage)`, see `find_file`. None:
            `configs/<stage>.py`.

    Returns:
        `ml_collections.ConfigDict`.

    Raises:
        UserError: the stage or the size is unknown; the file is missing, is not a Python file, or
            has no `get_config`; or `get_config` raises an error or returns a wrong value.
    """
    lookup(dict.fromkeys(STAGES), stage, "stage")
    lookup(dict.fromkeys(SIZES), size, "size")
    if path is None:
        return importlib.import_module(f"{configs.__name__}.{stage}").get_config(size)
    if not os.path.isfile(path := find_file(path)):
        raise UserError(f"no config file {path!r}")
    module = import_file(path, "config", "a file with get_config(stage)")
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(stage) that returns a ConfigDict")
    try:
        config = module.get_config(stage)
    except Exception as error:
        raise UserError(
            f"{path}: get_config({stage!r}) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict) or config.get("stage") != stage:
        is_config = isinstance(config, ConfigDict)
        received = f"stage {config.get('stage')!r}" if is_config else type(config)
        raise UserError(
            f"{path}: get_config({stage!r}) must return the ConfigDict of that stage, got "
            f"{received}"
        )
    return config


def find_file(path):
    """Finds the file of a config or a sweep, and returns its path.

    Args:
        path: path of a file. A path that begins with `configs/` and does not exist in the current
            folder is searched in the package: configs/examples/own.py is found from every folder.
    """
    if not os.path.isfile(path) and path.startswith(_FOLDER):
        packaged = os.path.join(configs.__path__[0], path.removeprefix(_FOLDER))
        return packaged if os.path.isfile(packaged) else path
    return path


def import_file(path, kind, expected):
    """Imports a Python file, and returns the module.

    Args:
        path: path of an existing file.
        kind: "config" or "sweep", the word for the file in error messages.
        expected: description of a correct file, for error messages.

    Raises:
        UserError: the file is not a Python file, or cannot be imported.
    """
    name = f"user_{kind}"
    folder, real_path = os.path.realpath(configs.__path__[0]), os.path.realpath(path)
    if real_path.startswith(folder + os.sep):  # its relative imports need this name
        module_path = os.path.splitext(os.path.relpath(real_path, folder))[0]
        name = f"{configs.__name__}.{module_path.replace(os.sep, '.')}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"{path} is not a Python file; expected {expected}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        hint = "; to use a config of the package: from tf_mural.configs import base"
        hint = hint if re.search("relative import|named 'configs'", str(error)) else ""
        raise UserError(f"{path} cannot be read as a {kind}: {error}{hint}") from error
    return module


def split_overrides(argv):
    """Separates `--config.name=value` from the other arguments of a command line.

    Args:
        argv: list of strings.

    Returns:
        (overrides, other arguments), two lists of strings.
    """
    overrides = [argument for argument in argv if argument.startswith(_PREFIX)]
    return overrides, [argument for argument in argv if not argument.startswith(_PREFIX)]


def apply_overrides(config, overrides):
    """Applies `--config.a.b=value` arguments. A new value gets the type of the value it replaces.

    The text `none` sets None if the value may be None. `configs/base.py` defines such values with
    `_optional`.

    Args:
        config: ConfigDict, changed in place.
        overrides: strings such as "--config.optimizer.learning_rate=1e-4".

    Raises:
        UserError: an argument is not of the form `--config.name=value`, the name is unknown, or the
            value has another type.
    """
    for override in overrides:
        name, equals, text = override.removeprefix(_PREFIX).partition("=")
        if not override.startswith(_PREFIX) or not equals:
            raise UserError(f"expected --config.name=value, got {override!r}")
        *groups, key = name.split(".")
        group = config
        for part in groups:
            group = group[part] if isinstance(group, ConfigDict) and part in group else None
        if not isinstance(group, ConfigDict) or key not in group:
            names = sorted(_names(config))
            raise UserError(
                f"`config.{name}`: the config has no such value{suggest(name, names)}; "
                f"it has {', '.join(names)}"
            )
        group[key] = _parse_value(text, group, key, f"config.{name}")


def _names(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _parse_value(text, group, key, name):
    """Returns `text` as a value of the type that `group[key]` has."""
    current, value_type = group[key], group.get_type(key)
    if isinstance(current, ConfigDict):
        names = ", ".join(_names(current, f"{name}."))
        raise UserError(f"`{name}` is a group; set one of {names}")
    if text.lower() == "none" and may_be_none(group, key):
        return None
    if value_type is str:
        return text
    if value_type is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"`{name}`: expected true or false, got {text!r}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        # en,de is read like ("en", "de"), and an empty string like ().
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        value = parts if value_type is tuple else text
    if value_type is tuple:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if value_type is float and type(value) is int:
        return float(value)
    if type(value) is not value_type:
        expected = {int: "a whole number", float: "a number"}.get(value_type, value_type)
        example = "" if current is None else f" like {current!r}"
        alternative = " or none" if may_be_none(group, key) else ""
        raise UserError(f"`{name}`: expected {expected}{example}{alternative}, got {text!r}")
    return value


def may_be_none(group, key):
    """Returns whether `group[key]` may be None, because it is a typed placeholder."""
    values = dict(group.items(preserve_field_references=True))
    return isinstance(values[key], config_dict.FieldReference)
