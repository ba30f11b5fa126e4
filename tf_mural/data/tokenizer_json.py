"""Reads the file tokenizer.json of Hugging Face: WordPiece, Unigram, BPE and byte-level BPE.

Unigram and BPE vocabularies become SentencePiece models, with the normalization of the file.
"""

import base64
import re
from typing import Any

from tf_mural.data import sentencepiece_model as sp
from tf_mural.data import text_steps
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.byte_pair_tokenizer import CLIP_STEPS, END_OF_WORD, BytePairTokenizer
from tf_mural.data.sentencepiece_tokenizer import SentencePieceTokenizer
from tf_mural.data.tokenizer_normalization import Normalization, read_normalization
from tf_mural.data.tokenizer_settings import Settings, read_object
from tf_mural.data.tokenizers import Tokenizer
from tf_mural.errors import UserError

_BYTE = re.compile("<0x[0-9A-F]{2}>")


def open_json(
    path: str, settings: Settings, max_tokens: int, lower_case: bool | None, prefix: str
) -> BaseTokenizer:
    """Opens the tokenizer in a file tokenizer.json.

    Args:
        path: the file.
        settings: settings of the folder of the file.
        max_tokens, lower_case, prefix: see `tokenizer_files.open_tokenizer`.

    Raises:
        UserError: the file is damaged, its ids have gaps, a special token is missing, or the model,
            the normalizer or the pre-tokenizer is of a type that is not supported.
    """
    data = read_object(path)
    model = data.get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise UserError(f"{path} has no model with a vocabulary; is it a complete tokenizer.json?")
    kind = _model_type(model)
    if kind not in ("WordPiece", "Unigram", "BPE"):
        raise UserError(
            f"{path}: the type of the model is {kind}, expected WordPiece, Unigram or BPE"
        )
    try:
        pieces = _ordered_pieces(path, model["vocab"], data.get("added_tokens") or [])
        if kind == "WordPiece":
            return _open_wordpiece(data, pieces, settings, max_tokens, lower_case, prefix)
        normalization = read_normalization(path, data)
        special = _special_tokens(path, data, pieces, settings)
        steps = settings.steps(normalization.steps, kind == "BPE")
        options = {
            "max_tokens": max_tokens,
            "steps": text_steps.with_lower_case(steps, lower_case),
            "prefix": prefix,
            **special,
        }
        if normalization.is_byte_level:
            return _open_byte_level(path, model, pieces, options)
        proto = _build_model(path, kind, model, pieces, data, normalization)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a valid tokenizer.json ({type(error).__name__}: {error}); copy or "
            "download it again"
        ) from error
    return SentencePieceTokenizer(proto, **options)


def _model_type(model):
    """Returns the type of a model, which old files do not contain."""
    if model.get("type"):
        return model["type"]
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece"


def _ordered_pieces(path, vocabulary, added):
    """Returns the pieces in the order of their ids, including the added tokens."""
    if isinstance(vocabulary, list):
        pieces = {i: piece for i, (piece, _) in enumerate(vocabulary)}
    else:
        pieces = {i: piece for piece, i in vocabulary.items()}
        if len(pieces) < len(vocabulary):
            raise UserError(f"{path}: several pieces of the vocabulary have the same id")
    for token in added:
        if pieces.setdefault(token["id"], token["content"]) != token["content"]:
            raise UserError(
                f"{path}: the id {token['id']} is that of {pieces[token['id']]!r} in the "
                f"vocabulary, and that of {token['content']!r} in added_tokens"
            )
    gap = next((i for i in range(len(pieces)) if i not in pieces), None)
    if gap is not None:
        raise UserError(
            f"{path}: no piece has the id {gap}, but ids go up to {max(pieces)}; expected one "
            "piece for each id"
        )
    return [pieces[i] for i in range(len(pieces))]


# --- special tokens -------------------------------------------------------------------------------


def _special_tokens(path, data, pieces, settings):
    """Returns the arguments `start`, `end` and `pad_id` of a tokenizer."""
    ids = {piece: i for i, piece in enumerate(pieces)}

    def find(role):
        token = settings.special.get(role)
        if token is None:
            return ()
        if token not in ids:
            raise UserError(
                f"{path} has no piece {token!r}, which is the {role} of {settings.folder}; the "
                "files belong to different tokenizers"
            )
        return (ids[token],)

    start, end = _template(data.get("post_processor")) or ((), None)
    if settings.add_start is not None:
        start = find("bos_token") if settings.add_start else ()
    if settings.add_end is not None:
        end = find("eos_token") if settings.add_end else ()
    if end is None:
        # Hugging Face adds no token then. SigLIP was trained with one, and pools it.
        end = find("eos_token") if settings.is_siglip else ()
    for token in (*start, *end):
        if not 0 <= token < len(pieces):
            raise UserError(f"{path}: the special token {token} is not in the vocabulary")
    padding = data.get("padding") or {}
    pad = find("pad_token") or ((padding["pad_id"],) if "pad_id" in padding else ())
    pad = pad or tuple(ids[name] for name in ("<pad>", "[PAD]") if name in ids) or tuple(end)
    if not pad:
        raise UserError(
            f"{path} has no padding token: state pad_token in {settings.folder}"
            "/tokenizer_config.json"
        )
    return {"start": tuple(start), "end": tuple(end), "pad_id": pad[0]}


def _template(processor):
    """Returns the tokens before and behind a single text; None if the file does not say."""
    if processor is None:
        return None
    kind = processor["type"]
    if kind == "Sequence":
        templates = map(_template, processor["processors"])
        return next((template for template in templates if template is not None), None)
    if kind in ("RobertaProcessing", "BertProcessing"):
        return (processor["cls"][1],), (processor["sep"][1],)
    if kind != "TemplateProcessing":
        return None
    sides, side = ([], []), 0
    for part in processor["single"]:
        if "Sequence" in part:
            side = 1
        else:
            name = part["SpecialToken"]["id"]
            sides[side].extend(processor["special_tokens"][name]["ids"])
    return tuple(map(tuple, sides))


# --- models ---------------------------------------------------------------------------------------


def _open_wordpiece(data, pieces, settings, max_tokens, lower_case, prefix):
    if lower_case is None:
        normalizer = data.get("normalizer") or {}
        stated = normalizer.get("lowercase", normalizer.get("type") == "Lowercase")
        lower_case = bool(stated if settings.lower_case is None else settings.lower_case)
    return Tokenizer(pieces, max_tokens, lower_case, prefix)


def _open_byte_level(path, model, pieces, options):
    if model.get("end_of_word_suffix") != END_OF_WORD:
        raise UserError(
            f"{path}: this byte-level BPE is not that of CLIP, whose pieces end with {END_OF_WORD} "
            "at the end of a word; other byte-level tokenizers are not supported"
        )
    options["steps"] = options["steps"] or CLIP_STEPS
    return BytePairTokenizer(pieces, _pairs(model["merges"]), **options)


def _pairs(merges):
    """Returns merges as pairs; old files contain strings such as "a b"."""
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]


def _build_model(path, kind, model, pieces, data, normalization: Normalization) -> Any:
    unknown = model.get("unk_token")
    if kind == "Unigram":
        index = model.get("unk_id")
        unknown = None if index is None or not 0 <= index < len(pieces) else pieces[index]
    if unknown not in pieces:
        raise UserError(f"{path} has no token for unknown texts (unk_token or unk_id of the model)")
    kinds = {
        token["content"]: sp.CONTROL if token.get("special") else sp.USER_DEFINED
        for token in data.get("added_tokens") or []
    }
    kinds[unknown] = sp.UNKNOWN
    if model.get("byte_fallback"):
        kinds |= {piece: sp.BYTE for piece in pieces if _BYTE.fullmatch(piece)}
    if kind == "Unigram":
        scores = dict(model["vocab"])
    else:
        normal = {piece for piece in pieces if kinds.get(piece, sp.NORMAL) == sp.NORMAL}
        scores = _scores(path, normal, _pairs(model["merges"]))
    return sp.build_model(
        [(piece, float(scores.get(piece, 0)), kinds.get(piece, sp.NORMAL)) for piece in pieces],
        sp.UNIGRAM if kind == "Unigram" else sp.BPE,
        charsmap=base64.b64decode(normalization.charsmap),
        dummy_prefix=normalization.dummy_prefix,
        single_spaces=normalization.single_spaces,
    )


def _scores(path, pieces, merges):
    """Returns {piece: score} of a BPE model from the merges of normal pieces.

    SentencePiece merges any two adjacent pieces that form a piece, and the piece with the greatest
    score first. Therefore all ways of forming a piece must be in the list of merges, one after the
    other.
    """
    ranks, previous, listed = {}, None, set()
    for left, right in merges:
        piece = left + right
        if piece not in pieces or left not in pieces or right not in pieces:
            continue  # Tokens that are not normal pieces are never merged.
        if piece in ranks and piece != previous:
            raise UserError(
                f"{path}: the merges that form {piece!r} do not follow each other, as those of a "
                "SentencePiece model do; this BPE is not supported"
            )
        ranks.setdefault(piece, len(ranks))
        listed.add((left, right))
        previous = piece
    for piece in pieces:
        for i in range(1, len(piece)):
            pair = piece[:i], piece[i:]
            if pair not in listed and pair[0] in pieces and pair[1] in pieces:
                raise UserError(
                    f"{path}: the merges lack {pair[0]!r} + {pair[1]!r}, which a SentencePiece "
                    "model contains; this BPE is not supported"
                )
    return {piece: -rank for piece, rank in ranks.items()}
