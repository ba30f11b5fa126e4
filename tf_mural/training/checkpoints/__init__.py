"""Checkpoints of a run, files of a trained model, and the lock of a workdir."""

from tf_mural.file_io import read_json, write_json
from tf_mural.training.checkpoints.best_step import BestStepTracker
from tf_mural.training.checkpoints.config_compat import (
    CONFIG,
    check_same_config,
    flatten_config,
    resolve_init,
)
from tf_mural.training.checkpoints.lock import Lock
from tf_mural.training.checkpoints.manager import BEST, CheckpointManager, has_checkpoint
from tf_mural.training.checkpoints.model_files import (
    MODEL,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
    copy_vocabulary,
    find_vocabulary,
    load_weights,
    read_model,
    read_weights,
    save_model,
    variables_by_path,
)

__all__ = [
    "BEST",
    "CONFIG",
    "MODEL",
    "TOKENIZER",
    "VOCABULARY",
    "WEIGHTS",
    "BestStepTracker",
    "CheckpointManager",
    "Lock",
    "check_same_config",
    "copy_vocabulary",
    "find_vocabulary",
    "flatten_config",
    "has_checkpoint",
    "load_weights",
    "read_json",
    "read_model",
    "read_weights",
    "resolve_init",
    "save_model",
    "variables_by_path",
    "write_json",
]
