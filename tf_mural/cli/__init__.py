"""Commands of tf_mural. Each command is a module with its flags and a function `main(argv)`.

    python tools/train.py --stage=etcl
    python -m tf_mural.cli train --stage=etcl

Only this subpackage reads flags. Each command has its own set of flags. Therefore several commands
can be imported in one process, and each command can be called several times:

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
    """Runs the command that the first argument of the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        commands = ", ".join(COMMANDS)
        sys.exit(f"usage: python -m tf_mural.cli COMMAND [flags]; COMMAND is one of {commands}")
    run(f"tf_mural.cli.{sys.argv.pop(1)}")
