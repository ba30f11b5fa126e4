"""The command build_vocab: training, coverage per language, and refusals."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from tf_mural.cli import app, build_vocab
from tf_mural.data import open_tokenizer, tokenizers
from tf_mural.data.records import Record, write
from tf_mural.errors import UserError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "##c"]


def test_coverage_equals_a_manual_computation():
    tokenizer = tokenizers.Tokenizer(PIECES, max_tokens=6)
    # "abc a" has 4 pieces, 2 words and 4 letters. "abcbc" has 5 pieces, 1 word and 5 letters, and
    # does not fit into 6 tokens. "x" is unknown.
    pairs = [("en", "abc a"), ("en", "abcbc"), ("de", "x a")]
    assert build_vocab.coverage(pairs, tokenizer) == [
        ["de", 1, "1.00", "1.00", "50.00", "0.00"],
        ["en", 2, "3.00", "1.00", "0.00", "50.00"],
        None,
        ["all", 3, "2.20", "1.00", "9.09", "33.33"],
    ]


def test_coverage_counts_every_batch(monkeypatch):
    monkeypatch.setattr(build_vocab, "_BATCH_SIZE", 2)
    tokenizer = tokenizers.Tokenizer(PIECES, max_tokens=6)
    (row,) = build_vocab.coverage([("en", "a")] * 5, tokenizer)
    assert row[:3] == ["en", 5, "1.00"]


def test_vocabulary_of_sentences_is_written_and_not_overwritten(tmp_path, capsys):
    (tmp_path / "sentences.txt").write_text("ein Kreis\nein Quadrat\n\n", encoding="utf-8")
    out = tmp_path / "new" / "vocab.txt"
    arguments = [f"--texts={tmp_path / 'sentences.txt'}", "--size=60", f"--out={out}"]
    build_vocab.main(arguments)
    pieces = tokenizers.load_vocabulary(out)
    assert "ein" in pieces and len(pieces) <= 60
    assert f"hash {tokenizers.vocabulary_hash(pieces)}" in capsys.readouterr().out
    tool = os.path.join(ROOT, "tools", "build_vocab.py")
    done = subprocess.run(
        [sys.executable, tool, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "exists" in done.stderr and "Traceback" not in done.stderr


def test_texts_of_record_sets_are_read(tmp_path):
    write(tmp_path / "set", [Record("1", (), (("de", "ein Kreis"), ("en", "a circle")))])
    app.parse(build_vocab.FLAGS, [f"--records={tmp_path / 'set'}"], build_vocab.__doc__)
    assert list(build_vocab.read_texts()) == [("de", "ein Kreis"), ("en", "a circle")]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_sentencepiece_model_is_trained_and_opened(kind, tmp_path, capsys):
    lines = [f"ein Kreis {i} und zwei Quadrate" for i in range(60)]
    (tmp_path / "sentences.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = [f"--texts={tmp_path / 'sentences.txt'}", "--size=300", f"--type={kind}"]
    hashes = []
    for name in ("a.model", "b.model"):
        build_vocab.main([*arguments, f"--out={tmp_path / name}"])
        tokenizer = open_tokenizer(tmp_path / name)
        assert (tokenizer.pad_id, tokenizer.end, tokenizer.unknown_id) == (0, (1,), 2)
        assert tokenizer.has_bytes == (kind == "bpe") and tokenizer.size <= 300
        hashes.append(tokenizer.hash)
        assert f"hash {tokenizer.hash}" in capsys.readouterr().out
    assert hashes[0] == hashes[1]
    (row,) = build_vocab.coverage([("en", "Ж"), ("en", "ein")], tokenizer)
    assert (row[4] == "0.00") == (kind == "bpe")


@pytest.mark.parametrize(
    "lines, size, message",
    [
        ("a b c", 5, "no bpe vocabulary of 5 pieces can be trained .*: Vocabulary size is smaller"),
        ("a b c", 9000, "no bpe vocabulary of 9000 pieces .*: Vocabulary size too high"),
        ("\n \n", 300, "no text to train a vocabulary from"),
    ],
)
def test_a_sentencepiece_model_that_cannot_be_trained_is_refused(lines, size, message, tmp_path):
    (tmp_path / "a.txt").write_text(lines)
    arguments = [f"--texts={tmp_path / 'a.txt'}", "--type=bpe", f"--size={size}"]
    with pytest.raises(UserError, match=message) as error:
        build_vocab.main([*arguments, f"--out={tmp_path / 'v.model'}"])
    assert os.listdir(tmp_path) == ["a.txt"] and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--texts=a", "--out={}/v.txt", "--type=bpe"], "of --type=bpe ends with .model"),
        (["--texts=a", "--out={}/v.model"], "of --type=wordpiece ends with .txt"),
        ([], "either --records or --texts"),
        (["--texts=a", "--records=b"], "either --records or --texts"),
        (["--texts=a"], "--out="),
        (["--texts=a", "--out={}/v.txt"], "a: No such file"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build_vocab.main([argument.format(tmp_path) for argument in arguments])
    assert not os.listdir(tmp_path)
