"""Trains SentencePiece models, unigram and BPE."""

import io
import itertools
import os
from collections.abc import Iterable

from tf_mural import file_io
from tf_mural.data import text_cleaning
from tf_mural.errors import UserError, lookup

# The ids of T5 and of SigLIP. `open_tokenizer` reads them from the model.
_SPECIAL_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_OPTIONS = {
    "unigram": {"normalization_rule_name": "nmt_nfkc"},
    # Like Gemma's: texts are not changed, and characters that are not in the vocabulary are split
    # into bytes.
    "bpe": {
        "normalization_rule_name": "identity",
        "byte_fallback": True,
        "split_digits": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
    },
}
# The share of the characters of the texts that are pieces of their own, the most frequent first.
# The value is that of XLM-R.
_CHARACTER_COVERAGE = 0.9995
# Of more sentences, a random sample is used, because all sentences are kept in memory.
_MAX_SENTENCES = 10_000_000


def train_model(texts: Iterable[str], size: int, model_type: str = "unigram") -> bytes:
    """Trains a SentencePiece model with the special tokens <pad>, </s> and <unk>.

    Training twice on the same texts gives the same model.

    Args:
        texts: iterable of texts, read once.
        size: number of pieces, including special tokens. A unigram vocabulary of few texts has
            fewer pieces.
        model_type: "unigram", like the models of XLM-R and T5, or "bpe", like that of Gemma.

    Returns:
        Content of a file *.model.

    Raises:
        UserError: `texts` contains no text, or `size` is too small or too great for the texts, or
            the package sentencepiece is missing.
    """
    options = lookup(_OPTIONS, model_type, "type of SentencePiece models")
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"training needs the package sentencepiece ({error}): pip install sentencepiece"
        ) from error
    texts = (text_cleaning.normalize(text).replace("\0", "") for text in texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise UserError("no text to train a vocabulary from: the records or the file contain none")
    file = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], texts),
            model_writer=file,
            model_type=model_type,
            vocab_size=size,
            # More threads would add probabilities in another order.
            num_threads=1,
            character_coverage=_CHARACTER_COVERAGE,
            hard_vocab_limit=model_type != "unigram",
            input_sentence_size=_MAX_SENTENCES,
            minloglevel=2,
            **_SPECIAL_IDS,
            **options,
        )
    except RuntimeError as error:
        reason = str(error).strip().split("] ")[-1].split(". Increase")[0]
        raise UserError(
            f"no {model_type} vocabulary of {size} pieces can be trained from these texts: {reason}"
        ) from error
    return file.getvalue()


def save_model(path: str | os.PathLike, content: bytes) -> None:
    """Writes a SentencePiece model atomically."""
    with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write(content)
