"""Commands: one module per command, with its flags and `main(argv)`.

    python tools/train.py --stage=etcl
    python -m tf_mural.cli train --stage=etcl

Flags are read here and nowhere else in the package. Each command has flags of its own, so that
several commands can be imported and called in one process, also more than once:

    from tf_mural.cli import train

    train.main(["--stage=etcl", "--seed=1"])
"""

import importlib
import sys

COMMANDS = (
    "build_vocab",
    "compare",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "index",
    "inspect_data",
    "search",
    "sweep",
    "train",
)


def run(module):
    """Runs `main()` of a module as the work of this process, and ends the process.

    Args:
        module: dotted name, such as "tf_mural.cli.train". If it has RESILIENT_STDOUT = True, it
            goes on when stdout cannot be written.
    """
    try:
        app = importlib.import_module("tf_mural.cli.app")
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install -r requirements.txt")
    app.run(command.main, getattr(command, "RESILIENT_STDOUT", False))


def main():
    """Runs the command that is the first argument of the command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m tf_mural.cli COMMAND [flags], COMMAND: {', '.join(COMMANDS)}")
    run(f"tf_mural.cli.{sys.argv.pop(1)}")
