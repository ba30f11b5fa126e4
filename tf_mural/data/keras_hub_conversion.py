"""Converts tokenizers of KerasHub for SentencePiece models and for CLIP into those of this package.

KerasHub's preprocessors convert only ASCII letters to lower case, and its tokenizers do not
normalize Unicode. The converted tokenizers give the ids of Hugging Face's tokenizers.
"""

from typing import Any

from tf_mural.data import sentencepiece_model, text_steps
from tf_mural.data.base_tokenizer import BaseTokenizer
from tf_mural.data.byte_pair_tokenizer import BytePairTokenizer
from tf_mural.data.sentencepiece_tokenizer import SentencePieceTokenizer
from tf_mural.data.tokenizer_settings import Settings

_SETTINGS = Settings("", tokenizer_class="SiglipTokenizer")


def convert(tokenizer: Any, max_tokens: int, pad_id: int | None = None) -> BaseTokenizer | None:
    """Converts a tokenizer of KerasHub.

    Args:
        tokenizer: tokenizer of KerasHub.
        max_tokens: number of tokens per row, including special tokens.
        pad_id: token that pads rows. None: the padding token of the tokenizer.

    Returns:
        `SentencePieceTokenizer` or `BytePairTokenizer`; None if the tokenizer is of a class that
        cannot be converted, or returns rows of a fixed length, or has no padding token.

    Raises:
        UserError: `max_tokens` is too small, or the vocabulary cannot be used.
    """
    pad_id = getattr(tokenizer, "pad_token_id", None) if pad_id is None else pad_id
    if getattr(tokenizer, "sequence_length", None) is not None or pad_id is None:
        return None
    options = {
        "max_tokens": max_tokens,
        "start": _ids(tokenizer, "start_token_id"),
        "end": _ids(tokenizer, "end_token_id"),
    }
    if isinstance(getattr(tokenizer, "proto", None), bytes):
        return _convert_sentencepiece(tokenizer, pad_id, options)
    if "CLIPTokenizer" in (base.__name__ for base in type(tokenizer).__mro__):
        return _convert_clip(tokenizer, pad_id, options)
    return None


def _ids(tokenizer, name):
    token = getattr(tokenizer, name, None)
    return () if token is None else (token,)


def _convert_sentencepiece(tokenizer, pad_id, options):
    name = type(tokenizer).__name__
    if tokenizer.add_bos or tokenizer.add_eos:
        return None
    where = f"the {name}"
    proto = sentencepiece_model.parse_model(tokenizer.proto, where)
    steps = ()
    if name in ("XLMRobertaTokenizer", "MetaCLIP2Tokenizer"):
        has_mask = name == "XLMRobertaTokenizer"
        proto = sentencepiece_model.xlm_r_model(proto, where, has_mask)
    elif name == "SigLIPTokenizer":
        is_bpe = proto.trainer_spec.model_type == sentencepiece_model.BPE
        steps = text_steps.with_lower_case(_SETTINGS.steps((), is_bpe), True)
    if len(proto.pieces) != tokenizer.vocabulary_size():
        return None  # This class changes ids in a way of its own.
    return SentencePieceTokenizer(proto, pad_id=pad_id, steps=steps, **options)


def _convert_clip(tokenizer, pad_id, options):
    # Some classes replace the padding token by the token at the end when they pad rows.
    if getattr(tokenizer, "pad_with_end_token", False) and pad_id == tokenizer.pad_token_id:
        pad_id = tokenizer.end_token_id
    ids = tokenizer.vocabulary
    if sorted(ids.values()) != list(range(len(ids))):
        return None
    merges = [tuple(merge.split(" ")) for merge in tokenizer.merges if "#version" not in merge]
    return BytePairTokenizer(sorted(ids, key=ids.get), merges, pad_id=pad_id, **options)
