import os
import subprocess
import sys

import build_vocab
import pytest
from conftest import ROOT

from tf_mural.data import tokenizers
from tf_mural.data.records import Record, write

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "##c"]


def run(*arguments):
    tool = os.path.join(ROOT, "tools", "build_vocab.py")
    return subprocess.run(
        [sys.executable, tool, *arguments], capture_output=True, text=True, timeout=120
    )


def test_coverage_by_hand():
    tokenizer = tokenizers.Tokenizer(PIECES, max_tokens=6)
    # "abc a" has 4 pieces in 2 words and 4 letters, "abcbc" 5 in 1 and 5: cut at 6. "x" is unknown.
    pairs = [("en", "abc a"), ("en", "abcbc"), ("de", "x a")]
    assert build_vocab.coverage(pairs, tokenizer) == [
        ["de", 1, "1.00", "1.00", "50.00", "0.00"],
        ["en", 2, "3.00", "1.00", "0.00", "50.00"],
        None,
        ["all", 3, "2.20", "1.00", "9.09", "33.33"],
    ]


def test_coverage_counts_every_batch(monkeypatch):
    monkeypatch.setattr(build_vocab, "_BATCH", 2)
    tokenizer = tokenizers.Tokenizer(PIECES, max_tokens=6)
    (row,) = build_vocab.coverage([("en", "a")] * 5, tokenizer)
    assert row[:3] == ["en", 5, "1.00"]


def test_writes_a_vocabulary_of_sentences(tmp_path):
    (tmp_path / "sentences.txt").write_text("ein Kreis\nein Quadrat\n\n", encoding="utf-8")
    out = tmp_path / "new" / "vocab.txt"
    arguments = [f"--texts={tmp_path / 'sentences.txt'}", "--size=60", f"--out={out}"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    pieces = tokenizers.load_vocabulary(out)
    assert "ein" in pieces and len(pieces) <= 60
    assert f"hash {tokenizers.vocabulary_hash(pieces)}" in done.stdout
    again = run(*arguments)
    assert again.returncode == 2
    assert "exists" in again.stderr and "Traceback" not in again.stderr


def test_reads_record_sets(tmp_path, monkeypatch):
    write(tmp_path / "set", [Record("1", (), (("de", "ein Kreis"), ("en", "a circle")))])
    monkeypatch.setattr(build_vocab, "_RECORDS", Flag([str(tmp_path / "set")]))
    monkeypatch.setattr(build_vocab, "_TEXTS", Flag(None))
    assert list(build_vocab.texts()) == [("de", "ein Kreis"), ("en", "a circle")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "either --records or --texts"),
        (["--texts=a", "--records=b"], "either --records or --texts"),
        (["--texts=a"], "--out="),
        (["--texts=a", "--out={}/v.txt"], "a: No such file"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path):
    done = run(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not os.listdir(tmp_path)


class Flag:
    def __init__(self, value):
        self.value = value
