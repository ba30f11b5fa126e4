"""Config of a short run of MURAL whose terms train embeddings of the sizes 16, 8 and 4."""

from configs import mural


def get_config(stage):
    """Returns the config of a stage; the embeddings have 16 values."""
    config = mural.get_config("tiny")
    config.model.embedding_dim = 16
    config.batch_size, config.steps, config.optimizer.warmup_steps = 8, 2, 0
    config.log_every = config.checkpoint_every = 2
    for term in config.terms.values():
        term.dims = (16, 8, 4)
    config.evaluation.retrieval.languages = ("en",)
    config.report.show = 0
    return config
