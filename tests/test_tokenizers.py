"""Tokenizer and vocabularies: manual examples, the reference tokenizer, and training."""

import glob
import itertools
import os
import unicodedata

import pytest
import tensorflow as tf
from tokenizers import BertWordPieceTokenizer
from tokenizers.normalizers import BertNormalizer

from tf_mural.data.tokenizers import (
    SPECIAL_TOKENS,
    Tokenizer,
    load_vocabulary,
    save_vocabulary,
    train_vocabulary,
    vocabulary_hash,
)
from tf_mural.errors import UserError

TATOEBA = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "data", "tatoeba")
PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    "a", "##b", "##c", "d", "中", "文", "[", "]", "SE", "##P", "É", "E", "##é",
]  # fmt: skip
PAD, UNK, CLS, SEP = 0, 1, 2, 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(PIECES, max_tokens=8)


def pieces_of(tokenizer, string):
    """Returns the pieces of a string without special tokens and padding."""
    (row,) = tokenizer([string]).numpy()
    end = list(row).index(SEP)
    assert row[0] == CLS and all(row[end + 1 :] == PAD)
    return [tokenizer.vocabulary[i] for i in row[1:end]]


def test_rows_equal_a_manual_computation(tokenizer):
    rows = tokenizer(tf.constant(["abc d", "", "x"]))
    assert rows.dtype == tf.int32
    assert rows.numpy().tolist() == [
        [CLS, 5, 6, 7, 8, SEP, PAD, PAD],
        [CLS, SEP, PAD, PAD, PAD, PAD, PAD, PAD],
        [CLS, UNK, SEP, PAD, PAD, PAD, PAD, PAD],
    ]


@pytest.mark.parametrize("num_words, num_kept", [(5, 5), (6, 6), (7, 6), (100, 6)])
def test_truncation_keeps_sep(tokenizer, num_words, num_kept):
    (row,) = tokenizer([" ".join("d" * num_words)]).numpy()
    assert row.tolist() == ([CLS] + [8] * num_kept + [SEP] + [PAD] * 8)[:8]


def test_chinese_is_split_into_characters(tokenizer):
    assert pieces_of(tokenizer, "中文d中") == ["中", "文", "d", "中"]


def test_case_and_accents_are_kept(tokenizer):
    assert pieces_of(tokenizer, "É E Aé") == ["É", "E", "[UNK]"]


@pytest.mark.parametrize(
    "string, expected",
    [
        ("ABC d", ["a", "##b", "##c", "d"]),
        ("\u00c4Bc \u0061\u0301bc", ["a", "##b", "##c", "a", "##b", "##c"]),
        # İ loses its dot; ß, ！ and ２ do not change; Σ becomes σ even at the end of a word.
        ("İ", ["i"]),
        ("ß ！２", ["ß", "！", "２"]),
        ("ΣΣ", ["σ", "##σ"]),
        ("한", ["ᄒ", "##ᅡ", "##ᆫ"]),
    ],
)
def test_lower_case_removes_case_and_accents(string, expected):
    pieces = [*PIECES[:5], *"a ##b ##c d i ß ！ ２ σ ##σ ᄒ ##ᅡ ##ᆫ ss ##ss ! 2 ##ς".split()]
    assert pieces_of(Tokenizer(pieces, 9, lower_case=True), string) == expected


def test_lower_case_is_part_of_the_hash(tokenizer):
    assert Tokenizer(PIECES, lower_case=True).hash == tokenizer.hash + "-lower"


def test_special_token_in_a_text_is_plain_text(tokenizer):
    assert pieces_of(tokenizer, "[SEP]") == ["[", "SE", "##P", "]"]
    assert pieces_of(tokenizer, "[PAD]") == ["[", "[UNK]", "]"]


@pytest.mark.parametrize(
    "noise",
    [b"\x00", b"\x07", b"\xff", b"\xc3", b"\xed\xa0\x80", "\u200d\u00ad\ufffd\ue000".encode()],
)
def test_invisible_characters_and_invalid_utf8_are_dropped(tokenizer, noise):
    assert pieces_of(tokenizer, b"ab" + noise + b"c d") == ["a", "##b", "##c", "d"]


def test_word_of_three_byte_characters_is_not_limited_to_100_bytes():
    thai = Tokenizer([*PIECES[:5], "ก", "##ก"], max_tokens=102)
    (row,) = thai(["ก" * 100]).numpy()
    assert row.tolist() == [CLS, 5] + [6] * 99 + [SEP]


def test_tokenizer_has_static_shapes_in_a_dataset(tokenizer):
    data = tf.data.Dataset.from_tensor_slices(["abc", "d", "", "d d"]).batch(2, drop_remainder=True)
    data = data.map(tokenizer)
    assert data.element_spec.shape == (2, 8) and data.element_spec.dtype == tf.int32
    rows = [row.tolist() for batch in data.as_numpy_iterator() for row in batch]
    assert rows == tokenizer(["abc", "d", "", "d d"]).numpy().tolist()


def test_tokenizer_created_inside_a_function_works_outside():
    created = []

    @tf.function
    def tokenize(strings):
        created.append(Tokenizer(PIECES, max_tokens=4))
        return created[-1](strings)

    assert tokenize(tf.constant(["d"])).numpy().tolist() == [[CLS, 8, SEP, PAD]]
    assert created[-1](["a"]).numpy().tolist() == [[CLS, 5, SEP, PAD]]


def test_no_strings_give_no_rows(tokenizer):
    assert tokenizer(tf.zeros((0,), tf.string)).shape == (0, 8)


def test_has_known_tokens_finds_rows_with_a_known_piece(tokenizer):
    strings = ["a", "x", "", "x x x x x x", "x x x x x a", "x x x x x x a", "x a x", "\u200b", "中"]
    known = [True, False, False, False, True, False, True, False, True]  # rows hold six pieces
    assert tokenizer.has_known_tokens(tokenizer(strings)).numpy().tolist() == known
    reordered = Tokenizer(["d", "[SEP]", "[MASK]", "[CLS]", "[UNK]", "[PAD]"], max_tokens=5)
    assert reordered.has_known_tokens(reordered(["d", "x", ""])).numpy().tolist() == [
        True,
        False,
        False,
    ]


def test_hash_depends_on_pieces_and_order(tokenizer):
    # The hash was computed by: printf '[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]' | sha256sum
    assert vocabulary_hash(PIECES[:5]) == "1b6c0da91a73cdc9"
    assert tokenizer.hash == vocabulary_hash(PIECES)
    assert vocabulary_hash(["a", "b"]) != vocabulary_hash(["b", "a"])


def test_special_tokens_may_have_any_id():
    reordered = Tokenizer(["d", "[SEP]", "[MASK]", "[CLS]", "[UNK]", "[PAD]"], max_tokens=5)
    assert reordered.pad_id == 5
    assert reordered(["d x"]).numpy().tolist() == [[3, 0, 4, 1, 5]]


@pytest.mark.parametrize(
    "pieces, message",
    [
        (PIECES[:4] + ["a"], "no [MASK]"),
        (PIECES + ["d"], "line 19: piece 'd' is already on line 9"),
        (PIECES + ["x\x07"], "line 19: piece 'x\\x07' contains a control character"),
        (PIECES + ["", "x"], "line 19: expected a piece"),
    ],
)
def test_invalid_vocabulary_is_refused(pieces, message, tmp_path):
    with pytest.raises(UserError) as caught:
        Tokenizer(pieces)
    assert message in str(caught.value)
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join(pieces), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Tokenizer(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_vocabulary_with_only_special_tokens_is_refused():
    with pytest.raises(UserError, match="no tokenizer can be built from these 5 pieces"):
        Tokenizer(SPECIAL_TOKENS)


def test_missing_file_and_invalid_encoding_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        Tokenizer(str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes(b"[PAD]\ncaf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8 at byte 9"):
        load_vocabulary(tmp_path / "latin.txt")


def test_max_tokens_below_3_is_refused():
    with pytest.raises(UserError, match="max_tokens is 2"):
        Tokenizer(PIECES, max_tokens=2)


def test_vocabulary_file_is_read_as_written(tmp_path):
    # str.splitlines would split at U+2028 and U+0085.
    pieces = [*PIECES, "\u2028", "##\u3000x"]
    save_vocabulary(tmp_path / "v.txt", pieces)
    assert load_vocabulary(tmp_path / "v.txt") == pieces
    assert os.listdir(tmp_path) == ["v.txt"]
    (tmp_path / "windows.txt").write_bytes("\r\n".join(PIECES).encode() + b"\r\n")
    assert load_vocabulary(tmp_path / "windows.txt") == PIECES


def test_trained_vocabulary_equals_a_manual_computation():
    # "a" and "##b", the only pair of pieces, occur three times together and are merged to "ab". The
    # accent of "é" is kept.
    pieces = train_vocabulary(["ab ab ab é 中中"], size=30)
    assert pieces[:5] == list(SPECIAL_TOKENS)
    assert pieces[5:] == sorted({"a", "##b", "b", "ab", "é", "中"})


def test_training_respects_frequency_and_size():
    assert "ab" not in train_vocabulary(["ab ab cd cd cd"], size=30, min_frequency=3)
    assert "cd" in train_vocabulary(["ab ab cd cd cd"], size=30, min_frequency=3)
    many_characters = "".join(chr(0x4E00 + i) for i in range(500))
    assert len(train_vocabulary([many_characters], size=100)) <= 100
    with pytest.raises(UserError, match="no text"):
        train_vocabulary([], size=100)
    with pytest.raises(UserError, match="vocabulary size 5"):
        train_vocabulary(["a"], size=5)


def tatoeba(lines_per_language):
    files = sorted(glob.glob(os.path.join(TATOEBA, "tatoeba.*-eng.*")))
    files = [file for file in files if not file.endswith(".eng")]
    if not files:
        pytest.skip(f"no Tatoeba sentences at {os.path.normpath(TATOEBA)}")
    for file in files:
        with open(file, encoding="utf-8") as lines:
            yield from (line.rstrip("\n") for line in itertools.islice(lines, lines_per_language))


@pytest.mark.parametrize("lower_case", [False, True])
def test_tokenizer_equals_the_reference_on_sentences_of_all_languages(lower_case):
    sentences = list(tatoeba(lines_per_language=20))
    # Format characters, and long words of letters with three bytes, need special treatment.
    sentences += ["a\u200db\u200c\u00ad \ufeffc", "កខគ" * 20, "ไทย" * 30]
    normalized = sentences
    if lower_case:
        normalized = [
            BertNormalizer(lowercase=True).normalize_str(sentence) for sentence in sentences
        ]
        assert normalized != sentences
    pieces = train_vocabulary(normalized, size=4000)
    reference = BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(pieces)}, strip_accents=lower_case, lowercase=lower_case
    )
    composed = [unicodedata.normalize("NFC", sentence) for sentence in sentences]
    expected = [encoding.ids for encoding in reference.encode_batch(composed)]
    rows = Tokenizer(pieces, max_tokens=200, lower_case=lower_case)(sentences).numpy()
    assert len(sentences) > 2000
    for sentence, row, ids in zip(sentences, rows, expected, strict=True):
        assert row.tolist() == ids + [PAD] * (200 - len(ids)), sentence


@pytest.mark.slow
def test_tokenizer_equals_the_reference_on_all_of_tatoeba():
    sentences = []
    for file in sorted(glob.glob(os.path.join(TATOEBA, "tatoeba.*-eng.*"))):
        with open(file, encoding="utf-8", newline="\n") as lines:
            sentences += [line.rstrip("\n") for line in lines]
    if not sentences:
        pytest.skip(f"no Tatoeba sentences at {os.path.normpath(TATOEBA)}")
    assert len(sentences) == 177_754
    pieces = train_vocabulary(sentences[::10], size=30_000)
    reference = BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(pieces)}, strip_accents=False, lowercase=False
    )
    tokenizer = Tokenizer(pieces, max_tokens=256)
    differing, not_composed = [], set()
    for start in range(0, len(sentences), 16_384):
        batch = sentences[start : start + 16_384]
        rows = tokenizer(batch).numpy()
        composed = [unicodedata.normalize("NFC", sentence) for sentence in batch]
        encodings = zip(
            reference.encode_batch(batch), reference.encode_batch(composed), strict=True
        )
        for sentence, row, (encoding, of_composed) in zip(batch, rows, encodings, strict=True):
            ids = row[row != 0].tolist()
            if unicodedata.normalize("NFC", sentence) != sentence:
                not_composed.add(sentence)
                assert ids == of_composed.ids
            elif ids != encoding.ids:
                differing.append(sentence)
    assert sum(sentence in not_composed for sentence in sentences) == 638
    # The zero-width spaces of a Khmer sentence separate words, because the sentence has a run of
    # 105 characters without a space. The reference tokenizer removes zero-width spaces.
    (sentence,) = differing
    assert [len(run) for run in sentence.split()] == [105] and sentence.count("\u200b") == 24
