"""Resume, the whole state of a run; handover, the weights that the next stage starts from; lock."""

from tf_mural.file_io import read_json, write_json
from tf_mural.training.checkpoints.best_step import Evaluations
from tf_mural.training.checkpoints.config_compat import CONFIG, flat, same_config, started_from
from tf_mural.training.checkpoints.lock import Lock
from tf_mural.training.checkpoints.model_files import (
    MODEL,
    VOCABULARY,
    WEIGHTS,
    by_path,
    load_weights,
    read_model,
    read_weights,
    save_model,
)
from tf_mural.training.checkpoints.resume import BEST, Checkpoints, started

__all__ = [
    "BEST",
    "CONFIG",
    "MODEL",
    "VOCABULARY",
    "WEIGHTS",
    "Checkpoints",
    "Evaluations",
    "Lock",
    "by_path",
    "flat",
    "load_weights",
    "read_json",
    "read_model",
    "read_weights",
    "same_config",
    "save_model",
    "started",
    "started_from",
    "write_json",
]
