"""Trains a cased vocabulary and prints how it splits the texts of each language.

    python tools/build_vocab.py --records=data/mine/train --size=8000 --out=data/mine/vocab.txt
    python tools/build_vocab.py --texts=sentences.txt --size=8000 --out=vocab.txt
    python tools/build_vocab.py --texts=sentences.txt --type=unigram --size=8000 --out=my.model

A vocabulary is of the type wordpiece, or a SentencePiece model of the type unigram or bpe. Training
WordPiece twice on the same texts gives vocabularies that differ in a few pieces. Therefore keep the
vocabulary file of each model.
"""

import collections
import os

from absl import flags

from tf_mural.cli import app
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_RECORDS = flags.DEFINE_list(
    "records", [], "Comma-separated folders of record sets.", flag_values=FLAGS
)
_TEXTS = flags.DEFINE_string(
    "texts",
    None,
    "UTF-8 file with one sentence per line, instead of --records.",
    flag_values=FLAGS,
)
_SIZE = flags.DEFINE_integer(
    "size", 30_000, "Maximum number of pieces, including special tokens.", flag_values=FLAGS
)
_TYPE = flags.DEFINE_enum(
    "type",
    "wordpiece",
    ["wordpiece", "unigram", "bpe"],
    "Type of the vocabulary. unigram and bpe are SentencePiece models; bpe splits characters that "
    "are not in the vocabulary into bytes.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Vocabulary file to write: *.txt with one piece per line for wordpiece, *.model for the other "
    "types. Required.",
    flag_values=FLAGS,
)
_MIN_FREQUENCY = flags.DEFINE_integer(
    "min_frequency",
    2,
    "Minimum frequency of two adjacent pieces that are merged into one piece (only wordpiece).",
    flag_values=FLAGS,
)
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens",
    64,
    "Maximum number of tokens of a text including special tokens. The printed table counts longer "
    "texts as cut.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replaces an existing vocabulary file.", flag_values=FLAGS
)

_BATCH_SIZE = 4096


def main(argv=None):
    """Trains a vocabulary. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    from tf_mural import reports

    if bool(_RECORDS.value) == bool(_TEXTS.value):
        raise UserError("name the texts: give either --records or --texts")
    if not _OUT.value:
        raise UserError("name the file of the vocabulary: --out=vocab.txt")
    extension = ".txt" if _TYPE.value == "wordpiece" else ".model"
    if not _OUT.value.endswith(extension):
        raise UserError(
            f"--out={_OUT.value}: the file of a vocabulary of --type={_TYPE.value} ends with "
            f"{extension}"
        )
    if os.path.exists(_OUT.value) and not _OVERWRITE.value:
        raise UserError(
            f"{_OUT.value} exists, and models may depend on it: choose another --out, or give "
            "--overwrite"
        )
    os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
    tokenizer, save = _train((text for _, text in read_texts()))
    rows = coverage(read_texts(), tokenizer)
    save()
    header = ["language", "texts", "tokens per word", "tokens per character", "unknown %", "cut %"]
    print(reports.table(rows, header))
    print(f"\n{tokenizer.size:,} pieces in {_OUT.value}, hash {tokenizer.hash}")
    print(f"cut: texts of more than {_MAX_TOKENS.value} tokens, including special tokens")
    if tokenizer.size < _SIZE.value:
        print(f"the texts contain fewer than {_SIZE.value:,} pieces of the minimum frequency")


def _train(texts):
    """Returns a trained tokenizer, and a function that writes it to --out."""
    from tf_mural.data import sentencepiece_training, tokenizers
    from tf_mural.data.sentencepiece_tokenizer import SentencePieceTokenizer

    if _TYPE.value == "wordpiece":
        pieces = tokenizers.train_vocabulary(texts, _SIZE.value, _MIN_FREQUENCY.value)
        tokenizer = tokenizers.Tokenizer(pieces, _MAX_TOKENS.value)
        return tokenizer, lambda: tokenizers.save_vocabulary(_OUT.value, pieces)
    content = sentencepiece_training.train_model(texts, _SIZE.value, _TYPE.value)
    tokenizer = SentencePieceTokenizer(content, _MAX_TOKENS.value)
    return tokenizer, lambda: sentencepiece_training.save_model(_OUT.value, content)


def read_texts():
    """Yields (language, text) of all texts; the language is "" for the texts of --texts."""
    from tf_mural.data.records import RecordSet

    for folder in _RECORDS.value:
        for record in RecordSet.open(folder):
            yield from record.texts
    if _TEXTS.value:
        try:
            with open(_TEXTS.value, encoding="utf-8", newline="\n") as lines:
                yield from (("", line.rstrip("\r\n")) for line in lines if line.strip())
        except OSError as error:
            raise UserError(f"{_TEXTS.value}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{_TEXTS.value}: expected UTF-8, {error}") from error


def coverage(pairs, tokenizer):
    """Returns the table rows: one per language, and a row "all" if there are several languages.

    Args:
        pairs: iterable of (language, text). The words of a text are its parts between spaces.
        tokenizer: an object with the interface of `tokenizers.Tokenizer`.
    """
    counts = collections.defaultdict(collections.Counter)
    batches = collections.defaultdict(list)
    for language, text in pairs:
        batches[language].append(text)
        if len(batches[language]) == _BATCH_SIZE:
            counts[language].update(_count(batches.pop(language), tokenizer))
    for language, batch in batches.items():
        counts[language].update(_count(batch, tokenizer))
    rows = [[language or "-", *_ratios(counts[language])] for language in sorted(counts)]
    if len(rows) > 1:
        rows += [None, ["all", *_ratios(sum(counts.values(), collections.Counter()))]]
    return rows


def _count(batch, tokenizer):
    pieces = tokenizer.pieces(batch)
    lengths = pieces.row_lengths().numpy()
    return {
        "texts": len(batch),
        "tokens": int(lengths.sum()),
        "words": sum(len(text.split()) for text in batch),
        "characters": sum(len("".join(text.split())) for text in batch),
        "unknown": int((pieces.flat_values.numpy() == tokenizer.unknown_id).sum()),
        "cut": int((lengths + tokenizer.num_special > tokenizer.max_tokens).sum()),
    }


def _ratios(count):
    tokens = max(1, count["tokens"])
    return [
        count["texts"],
        f"{count['tokens'] / max(1, count['words']):.2f}",
        f"{count['tokens'] / max(1, count['characters']):.2f}",
        f"{100 * count['unknown'] / tokens:.2f}",
        f"{100 * count['cut'] / count['texts']:.2f}",
    ]
