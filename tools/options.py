"""Command line to config: which file, and which of its values are overridden."""

import ast
import importlib
import importlib.util
import os

from ml_collections import ConfigDict

from tf_mural.errors import UserError, lookup, suggest

STAGES = ("align", "mural", "etcl", "control", "sixlang", "one_language", "finetune")
SIZES = ("tiny", "b3_mini", "paper")


def load_config(stage, size, path=None):
    """The config of a stage: `configs/<stage>.py` at a size, or `get_config(stage)` of a file.

    Raises:
        UserError: an unknown stage or size; or a file that is none, has no `get_config`, or
            whose `get_config` fails or returns something else than that stage.
    """
    lookup(dict.fromkeys(STAGES), stage, "stage")
    lookup(dict.fromkeys(SIZES), size, "size")
    if path is None:
        return importlib.import_module(f"configs.{stage}").get_config(size)
    if not os.path.isfile(path):
        raise UserError(f"no config file {path!r}")
    spec = importlib.util.spec_from_file_location("user_config", path)
    if spec is None:
        raise UserError(f"{path} is no Python file; expected a file with get_config(stage)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be read as a config: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(stage) that returns a ConfigDict")
    try:
        config = module.get_config(stage)
    except Exception as error:
        raise UserError(
            f"{path}: get_config({stage!r}) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict) or config.get("stage") != stage:
        found = f"stage {config.get('stage')!r}" if isinstance(config, ConfigDict) else type(config)
        raise UserError(
            f"{path}: get_config({stage!r}) is to return the ConfigDict of that stage, got {found}"
        )
    return config


def override(config, arguments):
    """Applies `--config.a.b=value` arguments, typed as the values that they replace.

    Args:
        config: ConfigDict, changed in place.
        arguments: strings such as "--config.optimizer.learning_rate=1e-4".

    Raises:
        UserError: an argument is none of that form, names nothing, or has another type.
    """
    for argument in arguments:
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not equals:
            raise UserError(f"expected --config.name=value, got {argument!r}")
        *parents, last = name.split(".")
        node = config
        for key in parents + [last]:
            if not isinstance(node, ConfigDict) or key not in node:
                known = sorted(_names(config))
                raise UserError(
                    f"--config.{name}: the config has no such value{suggest(name, known)}; "
                    f"it has {', '.join(known)}"
                )
            node, parent = node[key], node
        parent[last] = _typed(text, node, f"--config.{name}")


def _names(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _typed(text, old, name):
    """`text` as a value of the type of `old`."""
    if isinstance(old, ConfigDict):
        raise UserError(f"{name} is a group; set one of {', '.join(_names(old, name[2:] + '.'))}")
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{name}: expected true or false, got {text!r}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        # en,de is as good as ("en", "de"), and nothing at all as ().
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        value = parts if isinstance(old, tuple) else text
    if isinstance(old, tuple):
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(old):
        kind = {"int": "a whole number", "float": "a number"}.get(type(old).__name__, type(old))
        raise UserError(f"{name}: expected {kind} like {old!r}, got {text!r}")
    return value
