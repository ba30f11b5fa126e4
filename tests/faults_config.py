"""A config of small towers that starts quickly: tools/train.py --config=faults_config.py"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import workers_config  # noqa: E402

STEPS = 200  # of 8 rows: an epoch of the captions has 12, one of the bitext 16.5


def get_config(stage):
    """MURAL with everything random that a resume could get wrong."""
    config = workers_config.get_config(stage)
    config.steps = STEPS
    config.model.text.dropout, config.model.image.stochastic_depth = 0.1, 0.2
    config.max_bad_records = 1.0  # one bad record in 96 is met again and again
    config.checkpoint_every = 3
    config.evaluate_every = 40
    return config
