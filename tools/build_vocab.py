"""Trains a cased WordPiece vocabulary and shows how it cuts the texts of each language.

    python tools/build_vocab.py --records=data/mine/train --size=8000 --out=data/mine/vocab.txt
    python tools/build_vocab.py --texts=sentences.txt --size=8000 --out=vocab.txt

Two runs on the same texts differ by a few pieces: keep the file, do not make it again.
"""

import collections
import os

import common
from absl import flags

from tf_mural.errors import UserError

_RECORDS = flags.DEFINE_list("records", [], "Folders of record sets, parted by commas.")
_TEXTS = flags.DEFINE_string("texts", None, "Or a UTF-8 file with one sentence a line.")
_SIZE = flags.DEFINE_integer("size", 30_000, "Pieces at most, special tokens included.")
_OUT = flags.DEFINE_string("out", None, "File to write, one piece a line. Required.")
_MIN_FREQUENCY = flags.DEFINE_integer("min_frequency", 2, "Merges seen less often are not made.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 64, "Width of a row, for the share of cut texts.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces the file where it exists.")

_BATCH = 4096


def main():
    from tf_mural import reports
    from tf_mural.data import tokenizers

    if bool(_RECORDS.value) == bool(_TEXTS.value):
        raise UserError("say where the texts are: either --records or --texts")
    if not _OUT.value:
        raise UserError("say where the vocabulary goes: --out=vocab.txt")
    if os.path.exists(_OUT.value) and not _OVERWRITE.value:
        raise UserError(f"{_OUT.value} exists, and models may need it as it is; or --overwrite")
    os.makedirs(os.path.dirname(os.path.abspath(_OUT.value)), exist_ok=True)
    pieces = tokenizers.train_vocabulary((t for _, t in texts()), _SIZE.value, _MIN_FREQUENCY.value)
    tokenizer = tokenizers.Tokenizer(pieces, _MAX_TOKENS.value)
    rows = coverage(texts(), tokenizer)
    tokenizers.save_vocabulary(_OUT.value, pieces)
    columns = ["language", "texts", "tokens a word", "tokens a character", "unknown %", "cut %"]
    print(reports.table(rows, columns))
    print(f"\n{len(pieces):,} pieces in {_OUT.value}, hash {tokenizer.hash}")
    print(f"cut: texts of more than {_MAX_TOKENS.value} tokens, [CLS] and [SEP] included")
    if len(pieces) < _SIZE.value:
        print(f"the texts hold no more than these; {_SIZE.value:,} were asked for")


def texts():
    """Yields (language, text) of every text; the language is "" in a file of sentences."""
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
    """Rows of the table: per language, and "all" if there are several.

    Args:
        pairs: (language, text), any number; a word is what stands between spaces.
        tokenizer: `text.Tokenizer`.
    """
    counts = collections.defaultdict(collections.Counter)
    waiting = collections.defaultdict(list)
    for language, text in pairs:
        waiting[language].append(text)
        if len(waiting[language]) == _BATCH:
            counts[language].update(_count(waiting.pop(language), tokenizer))
    for language, rest in waiting.items():
        counts[language].update(_count(rest, tokenizer))
    rows = [[language or "-", *_shares(counts[language])] for language in sorted(counts)]
    if len(rows) > 1:
        rows += [None, ["all", *_shares(sum(counts.values(), collections.Counter()))]]
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


def _shares(count):
    tokens = max(1, count["tokens"])
    return [
        count["texts"],
        f"{count['tokens'] / max(1, count['words']):.2f}",
        f"{count['tokens'] / max(1, count['characters']):.2f}",
        f"{100 * count['unknown'] / tokens:.2f}",
        f"{100 * count['cut'] / count['texts']:.2f}",
    ]


if __name__ == "__main__":
    common.run(main)
