"""Builds models, data and trainers from configs, and runs stages.

Only this subpackage reads configs. Importing this subpackage imports neither Keras nor TensorFlow,
because each name is loaded when it is first used.
"""

import importlib

_EXPORTS = {
    "Model": "model_io",
    "Run": "run",
    "apply_init_settings": "initialization",
    "build": "run",
    "batch_embedder": "model_io",
    "check_config": "config_validation",
    "check_wise_ft_alpha": "initialization",
    "describe": "model_io",
    "field_modalities": "fields",
    "field_towers": "fields",
    "finalize_weights": "initialization",
    "find_vocabulary": "config_validation",
    "fingerprint": "model_io",
    "load": "model_io",
    "load_initial_weights": "initialization",
    "make_records": "data",
    "make_terms": "trainer",
    "make_trainer": "trainer",
    "model_arguments": "model_io",
    "open_records": "data",
    "profiled": "profiling",
    "read_description": "model_io",
    "restore_init_settings": "initialization",
    "trace_step": "dry_run",
    "trial_step": "dry_run",
    "write_retrieval_examples": "qualitative",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
