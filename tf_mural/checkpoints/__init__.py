"""Resume, the whole state of a run; handover, the weights that the next stage starts from; lock."""

from tf_mural.checkpoints.evaluations import Evaluations
from tf_mural.checkpoints.handover import (
    MODEL,
    VOCABULARY,
    WEIGHTS,
    by_path,
    load_weights,
    read_model,
    read_weights,
    save_model,
)
from tf_mural.checkpoints.lock import Lock
from tf_mural.checkpoints.resume import BEST, Checkpoints, started
from tf_mural.checkpoints.settings import CONFIG, flat, same_config, started_from
from tf_mural.files import read_json, write_json

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
