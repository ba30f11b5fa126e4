"""Commands of tf_mural. Each command is a module with its flags and a function `main(argv)`.

    python tools/train.py --stage=etcl
    tf-mural train --stage=etcl                    of an installed package
    python -m tf_mural.cli train --stage=etcl      both

Only this subpackage reads flags. Each command has its own set of flags. Therefore several commands
can be imported in one process, and each command can be called several times:

    from tf_mural.cli import train

    train.main(["--stage=etcl", "--seed=1"])
"""

import ast
import importlib
import os
import sys

COMMANDS = (
    "build_vocab",
    "compare",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "extract",
    "index",
    "inspect_data",
    "lexicon",
    "mine_negatives",
    "reproduce",
    "search",
    "sweep",
    "train",
)


def run(module):
    """Runs `main()` of the module of a command, and then ends this process.

    Args:
        module: dotted name of the module, such as "tf_mural.cli.train". A module with
            RESILIENT_STDOUT = True continues when stdout cannot be written.
    """
    try:
        app = importlib.import_module("tf_mural.cli.app")
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install -r requirements.txt")
    app.run(command.main, getattr(command, "RESILIENT_STDOUT", False))


def main():
    """Runs the command that the first argument of the command line names.

    The name of a command may be written with dashes or underscores: build-vocab or build_vocab.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "-help", "--help"):
        print(_usage())
        return
    if name == "--version":
        print(importlib.import_module("tf_mural").__version__)
        return
    command = name.replace("-", "_")
    if command not in COMMANDS:
        errors = importlib.import_module("tf_mural.errors")
        names = [known.replace("_", "-") for known in COMMANDS]
        message = f"unknown command {name!r}{errors.suggest(name, names)}" if name else "no command"
        print(f"error: {message}\n\n{_usage()}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    run(f"tf_mural.cli.{command}")


def _usage():
    """Returns the help text: all commands, each with a summary from its docstring."""
    lines = ["usage: tf-mural COMMAND [flags]", "", "commands (COMMAND --help describes one):"]
    for command in COMMANDS:
        path = os.path.join(os.path.dirname(__file__), f"{command}.py")
        with open(path, encoding="utf-8") as file:
            summary = ast.get_docstring(ast.parse(file.read())).splitlines()[0]
        summary = summary.partition(":")[0].rstrip(".")
        lines.append(f"  {command.replace('_', '-'):<16}{summary}")
    return "\n".join(lines)
