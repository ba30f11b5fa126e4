"""Writes small public models with random weights, which replace those of the notebooks in tests.

Their layout is that of Hugging Face, and their tokenizer has the vocabulary of scenes, so that the
captions of the notebooks have known tokens.
"""

import glob
import json
import os
import shutil

from helpers import public_checkpoints, sentence_checkpoints
from tf_mural.datasets import scenes

_VOCABULARY = os.path.join(os.path.dirname(scenes.__file__), "vocab.txt")
_TOKENIZER_FILES = ("*.model", "vocab.json", "merges.txt", "tokenizer_config.json")
_SIZE, _MAX_TOKENS = 64, 32
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_WIDTH = 32


def siglip(folder):
    """Writes a `SiglipModel` for images of 64 pixels, and returns the folder."""
    settings = _settings({"projection_size": _WIDTH})
    return _with_scenes_tokenizer(public_checkpoints.siglip(folder, **settings))


def clip(folder):
    """Writes a `CLIPModel`, see `siglip`."""
    return _with_scenes_tokenizer(public_checkpoints.clip(folder, **_clip_settings()))


def metaclip_2(folder):
    """Writes a `MetaClip2Model`, see `siglip`."""
    return _with_scenes_tokenizer(public_checkpoints.metaclip_2(folder, **_clip_settings()))


def bert(folder):
    """Writes a BERT without an embedding space of its own, see `siglip`."""
    pieces = len(_read_vocabulary())
    return _with_scenes_tokenizer(sentence_checkpoints.bert(folder, vocab_size=pieces))


def _read_vocabulary():
    with open(_VOCABULARY, encoding="utf-8") as file:
        return file.read().splitlines()


def _settings(text):
    pieces = _read_vocabulary()
    common = {"hidden_size": _WIDTH, **_LAYERS}
    text = {"vocab_size": len(pieces), "max_position_embeddings": _MAX_TOKENS, **common, **text}
    vision = {"image_size": _SIZE, "patch_size": 16, **common}
    return {"text_config": text, "vision_config": vision}


def _clip_settings():
    ids = {f"{name}_token_id": _read_vocabulary().index(piece) for name, piece in _ENDS.items()}
    return {**_settings(ids), "projection_dim": _WIDTH}


_ENDS = {"bos": "[CLS]", "eos": "[SEP]"}


def _with_scenes_tokenizer(folder):
    for pattern in _TOKENIZER_FILES:
        for path in glob.glob(os.path.join(folder, pattern)):
            os.remove(path)
    shutil.copy(_VOCABULARY, os.path.join(folder, "vocab.txt"))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    settings["model_max_length"] = _MAX_TOKENS
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(settings, file)
    _set_image_size(os.path.join(folder, "preprocessor_config.json"))
    return folder


def _set_image_size(path):
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        processor = json.load(file)
    for name in ("size", "crop_size"):
        if name in processor:
            processor[name] = dict.fromkeys(processor[name], _SIZE)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(processor, file)
