"""Config with small encoders for quick starts: tools/train.py --config=faults_config.py"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import small_config  # noqa: E402

STEPS = 200  # with 8 rows each: an epoch of the captions has 12 steps, and one of the bitext 16.5


def get_config(stage):
    """Returns MURAL with all random operations that a resume may affect."""
    config = small_config.get_config(stage)
    config.steps = STEPS
    config.model.text.dropout, config.model.image.stochastic_depth = 0.1, 0.2
    config.max_bad_records = 1.0  # the data contain one bad record of 96, which is drawn often
    config.checkpoint_every = 3
    config.evaluate_every = 40
    return config
