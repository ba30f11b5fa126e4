"""Plans a run on a TPU: see tools/tpu_planner/cli.py."""

import os
import sys

TOOLS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TOOLS), TOOLS]

from tf_mural import cli  # noqa: E402

if __name__ == "__main__":
    cli.run("tpu_planner.cli")
