"""All differences from Hugging Face's tokenizer, intended or due to other Unicode versions."""

import os
import unicodedata

import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from tf_mural.data.tokenizers import SPECIAL_TOKENS, Tokenizer

PIECES = [*SPECIAL_TOKENS, "a", "b", "##a", "##b", "ab"]
CLS, SEP = (SPECIAL_TOKENS.index(piece) for piece in ("[CLS]", "[SEP]"))
UNKNOWN, A, B, INNER_A = (PIECES.index(piece) for piece in ("[UNK]", "a", "b", "##a"))
# Code points of ideographs that the reference tokenizer does not treat as ideographs.
IDEOGRAPHS = range(0x2B820, 0x2B920)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(PIECES, max_tokens=160)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = os.path.join(tmp_path_factory.mktemp("vocabulary"), "vocab.txt")
    with open(path, "w") as file:
        file.write("\n".join(PIECES) + "\n")
    return BertWordPieceTokenizer(path, lowercase=False, strip_accents=False)


def tokens_of(tokenizer, text):
    """Returns the token ids of a text without padding."""
    return [int(i) for i in tokenizer([text])[0] if i]


def test_word_of_over_100_characters_is_split_into_pieces(tokenizer, reference):
    short, long = "a" * 100, "a" * 101
    assert (
        tokens_of(tokenizer, short) == reference.encode(short).ids == [CLS, A, *[INNER_A] * 99, SEP]
    )
    assert reference.encode(long).ids == [CLS, UNKNOWN, SEP]
    assert tokens_of(tokenizer, long) == [CLS, A, *[INNER_A] * 100, SEP]


@pytest.mark.parametrize("special", ["[SEP]", "[CLS]", "[MASK]", "[UNK]", "[PAD]"])
def test_special_token_in_a_text_is_plain_text(tokenizer, reference, special):
    text = f"a {special} b"
    assert SPECIAL_TOKENS.index(special) in reference.encode(text).ids[1:-1]
    assert tokens_of(tokenizer, text) == [CLS, A, UNKNOWN, UNKNOWN, UNKNOWN, B, SEP]


def test_only_418_rare_code_points_differ(tokenizer, reference):
    # Most code points that this test omits are surrogates, unassigned, or for private use.
    codes = [*range(1, 0xD800), *range(0xE000, 0x32000), *range(0xE0000, 0xE0200)]
    texts = [f"a{chr(code)}b" for code in codes]
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    rows = np.asarray(Tokenizer(PIECES, max_tokens=8)(texts))
    differing = [
        code
        for code, row, encoding in zip(codes, rows, reference.encode_batch(composed), strict=True)
        if [i for i in row.tolist() if i] != encoding.ids
    ]
    others = [code for code in differing if code not in IDEOGRAPHS]
    assert len(differing) == 418 and len(others) == 162
    # Different versions of Unicode assign different categories to these code points.
    assert {unicodedata.category(chr(code))[0] for code in others} <= set("PCSM")
    assert not any(chr(code).isalnum() for code in others)


def test_invalid_utf8_does_not_crash(tokenizer):
    invalid = [
        b"a\xff\xfeb",
        b"\x80",
        b"a \xed\xa0\x80 b",
        b"\xf8\x88\x80\x80\x80",
        b"a\xc3",
        b"\x00a",
    ]
    rows = np.asarray(tokenizer(np.array(invalid, object)))
    assert [[i for i in row.tolist() if i] for row in rows] == [
        [CLS, PIECES.index("ab"), SEP],
        [CLS, SEP],
        [CLS, A, B, SEP],
        [CLS, SEP],
        [CLS, A, SEP],
        [CLS, A, SEP],
    ]
