"""The control of ETCL: MURAL is continued with the number of steps and the learning rate of ETCL.

The additional steps of ETCL would also improve MURAL. Therefore the gain of ETCL is the difference
between ETCL and this control, which has the same number of steps.
"""

from . import etcl, mural


def get_config(size="tiny"):
    """Returns a config with the loss and the data of MURAL, and the schedule of ETCL."""
    config = etcl.follow_up(mural.get_config(size), size)
    config.stage = "control"
    config.optimizer.warmup_steps = 0
    return config
