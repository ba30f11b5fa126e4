"""Record sets, and the input pipeline that turns them into batches."""

import importlib

# Maps each public name to the module that defines it. The module is imported when the name is first
# used, because `import tf_mural.data` must not import TensorFlow.
_EXPORTS = {
    "BaseTokenizer": "base_tokenizer",
    "BytePairTokenizer": "byte_pair_tokenizer",
    "CodeSwitch": "code_switching",
    "KerasHubTokenizer": "encoder_inputs",
    "Lexicon": "lexicon",
    "MinedNegatives": "mined_negatives",
    "Preprocessing": "preprocessing",
    "SentencePieceTokenizer": "sentencepiece_tokenizer",
    "Tokenizer": "tokenizers",
    "as_preprocessing": "encoder_inputs",
    "as_tokenizer": "encoder_inputs",
    "load_tokenizer": "encoder_inputs",
    "open_tokenizer": "tokenizer_files",
    "save_tokenizer": "encoder_inputs",
    "training_dataset": "training_data",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
