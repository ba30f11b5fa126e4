"""The control of ETCL: MURAL continued for ETCL's steps at ETCL's rate.

More steps alone also help; ETCL's gain is what it adds to this.
"""

from configs import etcl, mural


def get_config(size="tiny"):
    """L_MURAL on MURAL's data, with ETCL's schedule."""
    config = etcl.follow_up(mural.get_config(size), size)
    config.stage = "control"
    config.optimizer.warmup_steps = 0
    return config
