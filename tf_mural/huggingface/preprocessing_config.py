"""What a checkpoint does to texts and images before its model sees them."""

import os

import numpy as np

from tf_mural.data.vocabulary import check_vocabulary, load_vocabulary
from tf_mural.errors import UserError
from tf_mural.huggingface.files import read_json

_TOKENIZERS = (None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast")
# Of EfficientNetImageProcessor, what a file that leaves a value out means.
_PROCESSOR = {
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
_SCALED = {  # x / 127.5 - 1
    "do_resize": True,
    "do_rescale": True,
    "rescale_offset": True,
    "do_normalize": False,
    "include_top": False,
}


def tokens(folder):
    """(pieces of the vocabulary in the order of their ids, whether texts lose case and accents).

    Read from vocab.txt or else tokenizer.json, and from tokenizer_config.json.

    Raises:
        UserError: they are missing, or texts are split otherwise than by BERT's WordPiece.
    """
    settings = read_json(folder, "tokenizer_config.json", optional=True) or {}
    if settings.get("tokenizer_class") not in _TOKENIZERS:
        raise UserError(
            f"{os.path.join(folder, 'tokenizer_config.json')}: tokenizer_class is "
            f"{settings['tokenizer_class']!r}, expected BertTokenizer: texts are split as BERT does"
        )
    whole = read_json(folder, "tokenizer.json", optional=True)
    path = os.path.join(folder, "vocab.txt")
    if os.path.exists(path):
        pieces = load_vocabulary(path)
    elif whole:
        pieces = _pieces(whole, os.path.join(folder, "tokenizer.json"))
    else:
        raise UserError(f"{folder} holds no vocab.txt and no tokenizer.json; fetch one of them")
    return pieces, _lower_case(settings, (whole or {}).get("normalizer") or {}, folder)


def _pieces(whole, where):
    model = whole.get("model", {})
    if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{where}: the model is {model.get('type')!r}, expected WordPiece")
    ids = {**model["vocab"], **{t["content"]: t["id"] for t in whole.get("added_tokens", ())}}
    pieces = sorted(ids, key=ids.get)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise UserError(f"{where}: expected the ids 0 to {len(pieces) - 1}, each once")
    check_vocabulary(pieces, where)
    return pieces


def _lower_case(settings, normalizer, folder):
    def setting(name, theirs, default):
        found = settings[name] if name in settings else normalizer.get(theirs)
        return default if found is None else found

    # BertTokenizer's own default.
    lower_case = setting("do_lower_case", "lowercase", True)
    strip_accents = setting("strip_accents", "strip_accents", lower_case)
    if strip_accents != lower_case or not setting(
        "tokenize_chinese_chars", "handle_chinese_chars", True
    ):
        raise UserError(
            f"{folder}: do_lower_case is {lower_case}, strip_accents {strip_accents}; expected "
            "both or neither, and tokenize_chinese_chars: texts are split as BERT does"
        )
    return lower_case


def images(folder):
    """{"resize", "crop"} in pixels: what evaluation does to an image.

    Read from preprocessor_config.json or else processor_config.json. Where the checkpoint does not
    crop, the two are equal.

    Raises:
        UserError: they are missing, an image is not square, or pixels are not x / 127.5 - 1.
    """
    name = "preprocessor_config.json"
    found = read_json(folder, name, optional=True)
    if found is None:
        name = "processor_config.json"
        found = (read_json(folder, name, optional=True) or {}).get("image_processor")
    if found is None:
        raise UserError(f"{folder} holds no preprocessor_config.json, which tells the image size")
    where = os.path.join(folder, name)
    found = {**_PROCESSOR, **found}
    for key, expected in _SCALED.items():
        if found[key] != expected:
            raise UserError(
                f"{where}: {key} is {found[key]}, expected {expected}; the image tower takes "
                "pixels x / 127.5 - 1"
            )
    if not np.isclose(found["rescale_factor"], 1 / 127.5, rtol=1e-6):
        raise UserError(
            f"{where}: rescale_factor is {found['rescale_factor']}, expected {1 / 127.5} (1/127.5)"
        )
    side = _side(found["size"], f"{where}: size")
    cropped = found["do_center_crop"]
    crop = _side(found["crop_size"], f"{where}: crop_size") if cropped else side
    return {"resize": side, "crop": crop}


def _side(size, where):
    sides = {size} if isinstance(size, int) else {size.get("height"), size.get("width")}
    if len(sides) != 1 or None in sides:
        raise UserError(f"{where} is {size}, expected a square with height and width")
    return sides.pop()
