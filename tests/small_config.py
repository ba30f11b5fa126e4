"""Config with small encoders and few steps: tools/train.py --config=small_config.py --stage=etcl"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from helpers import trainers  # noqa: E402, F401  registers the encoders "test"

from configs import etcl, mural  # noqa: E402

STEPS = {"mural": 4, "etcl": 6}


def get_config(stage):
    """Returns the config of a stage with all features that several processes may affect.

    Dropout is not used.
    """
    config = {"mural": mural, "etcl": etcl}[stage].get_config("tiny")
    config.model.image.backbone = config.model.text.backbone = "test"
    config.model.image.image_size = config.images.crop = 32
    config.images.resize = 36
    config.model.image.virtual_batch_size = 2
    config.model.embedding_dim = 16
    config.batch_size, config.steps = 8, STEPS[stage]
    config.optimizer.warmup_steps = 0
    # With a smaller epsilon, LAMB would take full steps along gradients that consist of rounding
    # errors only.
    config.optimizer.epsilon = 1e-3
    config.log_every = 1
    config.checkpoint_every = 2
    config.evaluation.retrieval.languages = ("en",)
    config.report.compare_with, config.report.control, config.report.show = (), None, 0
    return config
