"""The control of ETCL: MURAL continues for the steps of ETCL at its learning rate.

More steps help in any case; the gain of ETCL is its difference to this control.
"""

from . import etcl, mural


def get_config(size="tiny"):
    """L_MURAL on MURAL's data, with the schedule of ETCL."""
    config = etcl.follow_up(mural.get_config(size), size)
    config.stage = "control"
    config.optimizer.warmup_steps = 0
    return config
