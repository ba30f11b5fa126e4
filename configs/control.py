"""The control of ETCL: MURAL is continued with the number of steps and the learning rate of ETCL.

Training for more steps improves MURAL, too. The gain of ETCL is therefore the difference between
ETCL and this control.
"""

from configs import etcl, mural


def get_config(size="tiny"):
    """Returns a config with the loss and the data of MURAL, and the schedule of ETCL."""
    config = etcl.follow_up(mural.get_config(size), size)
    config.stage = "control"
    config.optimizer.warmup_steps = 0
    return config
