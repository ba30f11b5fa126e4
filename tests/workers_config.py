"""A config of small towers and few steps: tools/train.py --config=workers_config.py --stage=etcl"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from helpers import trainers  # noqa: E402, F401  adds the sizes "test"

from configs import etcl, mural  # noqa: E402

STEPS = {"mural": 4, "etcl": 6}


def get_config(stage):
    """A stage with everything that several processes could get wrong, dropout apart."""
    config = {"mural": mural, "etcl": etcl}[stage].get_config("tiny")
    config.model.image.name = config.model.text.name = "test"
    config.model.image.image_size = config.images.crop = 32
    config.images.resize = 36
    config.model.image.virtual_batch_size = 2
    config.model.embedding_dim = 16
    config.batch_size, config.steps = 8, STEPS[stage]
    config.optimizer.warmup_steps = 0
    # Else LAMB makes whole steps out of the rounding that is all there is to some gradients.
    config.optimizer.epsilon = 1e-3
    config.log_every = 1
    config.checkpoint_every = 2
    config.evaluation.retrieval.languages = ("en",)
    config.report.compare_with, config.report.control, config.report.show = (), None, 0
    return config
