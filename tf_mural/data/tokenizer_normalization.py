"""Reads normalizer and pre-tokenizer of tokenizer.json: how a text becomes words."""

import dataclasses

from tf_mural.data.sentencepiece_model import SPACE
from tf_mural.errors import UserError

_FORMS = {"NFC": "nfc", "NFD": "nfd", "NFKC": "nfkc", "NFKD": "nfkd"}
_STEPS = {**_FORMS, "Lowercase": "lower", "StripAccents": "strip_accents"}
# Patterns of white space that tokenizers replace by one space.
_SPACES, _WHITE_SPACE = (" {2,}", " +"), (r"\s+", r"\s{2,}")


@dataclasses.dataclass
class Normalization:
    """Normalization of texts before they are split into pieces.

    Attributes:
        steps: names of steps (see `text_steps`).
        charsmap: compiled table of the normalization of characters, in base64.
        single_spaces: whether spaces at the start, at the end and of two or more are removed.
        dummy_prefix: whether a space is put before each text.
        is_byte_level: whether words are split into bytes.
    """

    steps: tuple = ()
    charsmap: str = ""
    single_spaces: bool = False
    dummy_prefix: bool = False
    is_byte_level: bool = False


def read_normalization(path: str, data: dict) -> Normalization:
    """Reads the normalization of a file tokenizer.json.

    Args:
        path: name of the file in messages.
        data: content of the file.

    Raises:
        UserError: a part of the normalizer or of the pre-tokenizer is not supported.
    """
    result = Normalization()
    for node in _flatten(data.get("normalizer"), "normalizers"):
        _add_normalizer(path, node, result)
    for node in _flatten(data.get("pre_tokenizer"), "pretokenizers"):
        _add_pre_tokenizer(path, node, result)
    return result


def _flatten(node, key):
    """Returns the parts of a node, which may be a sequence; key: name of its list of parts."""
    if node is None:
        return []
    if node["type"] == "Sequence":
        return [part for child in node[key] for part in _flatten(child, key)]
    return [node]


def _add_normalizer(path, node, result):
    kind = node["type"]
    if kind in _STEPS:
        if result.charsmap:
            raise UserError(
                f"{path}: the normalizer {kind} follows the normalizer Precompiled; only the "
                "reverse order is supported"
            )
        result.steps += (_STEPS[kind],)
    elif kind == "Precompiled":
        result.charsmap = node["precompiled_charsmap"] or ""
    elif kind == "Prepend" and node["prepend"] == SPACE:
        result.dummy_prefix = True
    elif kind == "Strip":
        # SentencePiece strips texts if it removes repeated spaces.
        result.single_spaces = True
    elif kind != "Replace" or not _add_replacement(node, result):
        raise UserError(
            f"{path}: the normalizer {_describe(node)} is not supported; supported are "
            f"{', '.join(_STEPS)}, Precompiled, Prepend, Strip and Replace of spaces"
        )


def _add_replacement(node, result):
    """Adds the replacement of spaces, and returns whether it is supported."""
    kind, pattern = next(iter(node["pattern"].items()))
    if kind == "String":
        return pattern == " " and node["content"] == SPACE
    if node["content"] not in (" ", SPACE):
        return False
    if pattern in _WHITE_SPACE:
        result.steps += ("single_spaces",)
    elif pattern in _SPACES:
        result.single_spaces = True
    return pattern in (*_WHITE_SPACE, *_SPACES)


def _add_pre_tokenizer(path, node, result):
    kind = node["type"]
    if kind == "WhitespaceSplit":
        result.single_spaces = True
    elif kind == "Metaspace":
        scheme = node.get("prepend_scheme", "always" if node.get("add_prefix_space") else "never")
        result.dummy_prefix |= scheme != "never"
    elif kind == "ByteLevel":
        result.is_byte_level = True
        if node.get("add_prefix_space"):
            raise UserError(f"{path}: ByteLevel with add_prefix_space=true is not supported")
    elif kind != "Split" or not _is_supported_split(node):
        raise UserError(
            f"{path}: the pre-tokenizer {_describe(node)} is not supported; supported are "
            "Metaspace, WhitespaceSplit, ByteLevel, and the Split of Gemma and of CLIP"
        )


def _is_supported_split(node):
    """Returns whether a split separates spaces, or is that of CLIP."""
    kind, pattern = next(iter(node["pattern"].items()))
    if kind == "String":
        return pattern == " "
    return pattern.endswith(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def _describe(node):
    details = [str(value) for name, value in node.items() if name != "type"]
    return f"{node['type']} ({', '.join(details)[:60]})" if details else node["type"]
