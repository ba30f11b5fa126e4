"""Mines hard negatives of record sets: see tf_mural/cli/mine_negatives.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tf_mural import cli  # noqa: E402

if __name__ == "__main__":
    cli.run("tf_mural.cli.mine_negatives")
