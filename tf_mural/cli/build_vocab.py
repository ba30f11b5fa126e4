"""Trains a cased WordPiece vocabulary and prints how it splits the texts of each language.

    python tools/build_vocab.py --records=data/mine/train --size=8000 --out=data/mine/vocab.txt
    python tools/build_vocab.py --texts=sentences.txt --size=8000 --out=vocab.txt

Training twice on the same texts gives vocabularies that differ in a few pieces. Therefore keep the
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
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Vocabulary file to write, with one piece per line. Required.",
    flag_values=FLAGS,
)
_MIN_FREQUENCY = flags.DEFINE_integer(
    "min_frequency",
    2,
    "Minimum frequency of two adjacent pieces that are merged into one piece.",
    flag_values=FLAGS,
)
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens",
    64,
    "Maximum number of tokens of a text including [CLS] and [SEP]. The printed table counts longer "
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
    from tf_mural.data import tokenizers

    if bool(_RECORDS.value) == bool(_TEXTS.value):
        raise UserError("name the texts: give either --records or --texts")
    if not _OUT.value:
        raise UserError("name the file of the vocabulary: --out=vocab.txt")
    if os.path.exists(_OUT.value) and not _OVERWRITE.value:
        raise UserError(
            f"{_OUT.value} exists, and models may depend on it: choose another --out, or give "
            "--overwrite"
        )
    os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
    texts = (text for _, text in read_texts())
    pieces = tokenizers.train_vocabulary(texts, _SIZE.value, _MIN_FREQUENCY.value)
    tokenizer = tokenizers.Tokenizer(pieces, _MAX_TOKENS.value)
    rows = coverage(read_texts(), tokenizer)
    tokenizers.save_vocabulary(_OUT.value, pieces)
    header = ["language", "texts", "tokens per word", "tokens per character", "unknown %", "cut %"]
    print(reports.table(rows, header))
    print(f"\n{len(pieces):,} pieces in {_OUT.value}, hash {tokenizer.hash}")
    print(f"cut: texts of more than {_MAX_TOKENS.value} tokens, including [CLS] and [SEP]")
    if len(pieces) < _SIZE.value:
        print(f"the texts contain fewer than {_SIZE.value:,} pieces of the minimum frequency")


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
        tokenizer: `tokenizers.Tokenizer`.
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
    unknown = tokenizer.vocabulary.index("[UNK]")
    return {
        "texts": len(batch),
        "tokens": int(lengths.sum()),
        "words": sum(len(text.split()) for text in batch),
        "characters": sum(len("".join(text.split())) for text in batch),
        "unknown": int((pieces.flat_values.numpy() == unknown).sum()),
        "cut": int((lengths + 2 > tokenizer.max_tokens).sum()),
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
