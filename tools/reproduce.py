"""Repeats measured results and compares them with the tables: see tf_mural/cli/reproduce.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tf_mural import cli  # noqa: E402

if __name__ == "__main__":
    cli.run("tf_mural.cli.reproduce")
