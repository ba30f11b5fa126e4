"""Config with small encoders for quick starts: tools/train.py --config=faults_config.py"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import small_config  # noqa: E402

# Each step has 8 rows. An epoch has 12 steps for the captions and 16.5 steps for the bitext.
STEPS = 200


def get_config(stage):
    """Returns the config of MURAL with all random operations that a resume could change."""
    config = small_config.get_config(stage)
    config.steps = STEPS
    config.model.text.dropout, config.model.image.stochastic_depth = 0.1, 0.2
    config.max_bad_records = 1.0  # 1 of 96 records is bad; the default limit is 1 %
    config.checkpoint_every = 3
    config.evaluate_every = 40
    return config
