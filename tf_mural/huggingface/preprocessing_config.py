"""Reads the preprocessing of texts and images from the files of a checkpoint."""

import os

import numpy as np

from tf_mural.data.tokenizers import check_vocabulary, load_vocabulary
from tf_mural.errors import UserError
from tf_mural.huggingface.checkpoint_files import read_json

# Smallest number of tokens of a tokenizer, divided by the number of rows of the embedding table.
_MIN_SHARE = 0.9
_TOKENIZERS = (None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast")
# Keys that a processor config omits have these values, the defaults of EfficientNetImageProcessor.
_PROCESSOR_DEFAULTS = {
    "do_resize": True,
    "size": {"height": 346, "width": 346},
    "do_center_crop": False,
    "crop_size": {"height": 289, "width": 289},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "include_top": True,
}
# With these values and a rescale factor of 1 / 127.5, EfficientNetImageProcessor computes
# x / 127.5 - 1 for every pixel x.
_REQUIRED_VALUES = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_offset": True,
    "do_normalize": False,
    "include_top": False,
}


def read_tokenizer(folder):
    """Reads the vocabulary, and whether the tokenizer lower-cases texts.

    The vocabulary is read from vocab.txt or, if vocab.txt is missing, from tokenizer.json. Other
    settings are read from tokenizer_config.json or, if a key is missing there, from tokenizer.json.

    Returns:
        A tuple: the pieces in the order of their ids, and True if the tokenizer lower-cases texts
        and removes accents.

    Raises:
        UserError: files are missing, or the tokenizer is not the WordPiece tokenizer of BERT.
    """
    settings = read_json(folder, "tokenizer_config.json", optional=True) or {}
    if settings.get("tokenizer_class") not in _TOKENIZERS:
        raise UserError(
            f"{os.path.join(folder, 'tokenizer_config.json')}: tokenizer_class is "
            f"{settings['tokenizer_class']!r}, expected BertTokenizer, the only supported tokenizer"
        )
    tokenizer = read_json(folder, "tokenizer.json", optional=True)
    vocabulary_path = os.path.join(folder, "vocab.txt")
    if os.path.exists(vocabulary_path):
        pieces = load_vocabulary(vocabulary_path)
    elif tokenizer:
        pieces = _pieces(tokenizer, os.path.join(folder, "tokenizer.json"))
    else:
        raise UserError(f"{folder} has no vocab.txt and no tokenizer.json; download one of them")
    normalizer = (tokenizer or {}).get("normalizer") or {}
    return pieces, _is_lower_case(settings, normalizer, folder)


def _pieces(tokenizer, where):
    model = tokenizer.get("model", {})
    if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{where}: the model is {model.get('type')!r}, expected WordPiece")
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
    ids = {**model["vocab"], **added}
    pieces = sorted(ids, key=ids.get)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise UserError(f"{where}: expected the ids 0 to {len(pieces) - 1}, each of them once")
    check_vocabulary(pieces, where)
    return pieces


def _is_lower_case(settings, normalizer, folder):
    def setting(name, normalizer_name, default):
        value = settings[name] if name in settings else normalizer.get(normalizer_name)
        return default if value is None else value

    # By default, BertTokenizer lower-cases texts.
    lower_case = setting("do_lower_case", "lowercase", True)
    strip_accents = setting("strip_accents", "strip_accents", lower_case)
    if strip_accents != lower_case or not setting(
        "tokenize_chinese_chars", "handle_chinese_chars", True
    ):
        raise UserError(
            f"{folder}: do_lower_case is {lower_case}, strip_accents is {strip_accents}; expected "
            "two equal values, and the value True of tokenize_chinese_chars, as in BertTokenizer"
        )
    return lower_case


def read_image_sizes(folder):
    """Reads the sizes to which images are resized and cropped, and checks the scaling of pixels.

    The sizes are read from preprocessor_config.json or, if this file is missing, from
    processor_config.json.

    Returns:
        {"resize": pixels, "crop": pixels}. The two sizes are equal if images are not cropped.

    Raises:
        UserError: both files are missing, images are not square, or pixels are not scaled to
            x / 127.5 - 1.
    """
    name = "preprocessor_config.json"
    config = read_json(folder, name, optional=True)
    if config is None:
        name = "processor_config.json"
        config = (read_json(folder, name, optional=True) or {}).get("image_processor")
    if config is None:
        raise UserError(f"{folder} has no preprocessor_config.json, which contains the image size")
    path = os.path.join(folder, name)
    config = {**_PROCESSOR_DEFAULTS, **config}
    for key, expected in _REQUIRED_VALUES.items():
        if config[key] != expected:
            raise UserError(
                f"{path}: {key} is {config[key]}, expected {expected}; the inputs of the image "
                "tower are x / 127.5 - 1"
            )
    factor = config["rescale_factor"]
    if not np.isclose(factor, 1 / 127.5, rtol=1e-6):
        raise UserError(f"{path}: rescale_factor is {factor}, expected {1 / 127.5} (1/127.5)")
    resize = _square_size(config["size"], f"{path}: size")
    if not config["do_center_crop"]:
        return {"resize": resize, "crop": resize}
    return {"resize": resize, "crop": _square_size(config["crop_size"], f"{path}: crop_size")}


def _square_size(size, where):
    sides = {size} if isinstance(size, int) else {size.get("height"), size.get("width")}
    if len(sides) != 1 or None in sides:
        raise UserError(f"{where} is {size}, expected a square with height and width")
    return sides.pop()


def check_tokenizer_size(tokenizer, vocabulary_size, folder):
    """Checks that a tokenizer has about as many tokens as the embedding table of a model.

    Args:
        tokenizer: object with the attribute `size`.
        vocabulary_size: `vocab_size` of config.json.
        folder: folder of the checkpoint, for the message.

    Raises:
        UserError: the tokenizer has more tokens, or less than 90 % of them. Tables are often padded
            to a multiple of 64 or 128 rows.
    """
    if not _MIN_SHARE * vocabulary_size <= tokenizer.size <= vocabulary_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens, but config.json has "
            f"vocab_size={vocabulary_size}; expected the files of a single model"
        )
