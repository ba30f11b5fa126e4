"""Config with few steps for the notebooks: NOTEBOOK_FLAGS=--config=tests/notebook_config.py"""

from configs import control, etcl, mural

STAGES = {"mural": mural, "etcl": etcl, "control": control}


def get_config(stage):
    """Returns the config of a stage at size tiny with six steps."""
    config = STAGES[stage].get_config("tiny")
    config.batch_size, config.steps, config.log_every = 8, 6, 2
    config.optimizer.warmup_steps = 0
    config.report.show = 8 if stage == "etcl" else 0
    config.evaluation.retrieval.languages = ("de", "en", "es")
    return config
