"""Config `small_config.py` whose terms train embeddings of the sizes 16, 8 and 4."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import small_config  # noqa: E402


def get_config(stage):
    """Returns the config of a stage; the embeddings have 16 values."""
    config = small_config.get_config(stage)
    config.steps = config.checkpoint_every = 2
    for term in config.terms.values():
        term.dims = (16, 8, 4)
    return config
