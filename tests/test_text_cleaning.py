"""Tests Unicode forms of texts, long words without spaces, and invisible characters."""

import json
import os
import random
import unicodedata

import pytest
import tensorflow as tf
from conftest import ROOT
from helpers.datasets import convert
from tokenizers import BertWordPieceTokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tf_mural.conversion.ledger import Ledger, format_summary
from tf_mural.data import text_cleaning
from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.data.text_notes import TextNotes
from tf_mural.data.tokenizers import (
    MAX_PIECE_BYTES,
    SPECIAL_TOKENS,
    Tokenizer,
    load_vocabulary,
    save_vocabulary,
    train_vocabulary,
)
from tf_mural.datasets import tatoeba
from tf_mural.errors import UserError
from tf_mural.export.onnx import write_tokenizer

GIVEN = os.path.join(ROOT, "..", "shared", "data", "inputs", "08_texts")
UNK = "[UNK]"
ZERO_WIDTH = "\u200b"
THAI = "เด็กผู้หญิงสวมเสื้อสีแดงกำลังวิ่งเล่นกับสุนัขสีน้ำตาลตัวใหญ่"
LAO = "ເດັກຍິງໃສ່ເສື້ອສີແດງກຳລັງແລ່ນຫຼິ້ນກັບໝາສີນ້ຳຕານໂຕໃຫຍ່"
BURMESE = "ကောင်မလေးသည်အညိုရောင်ခွေးကြီးနှင့်အတူ"
KHMER = ["ក្មេងស្រី", "ពាក់", "អាវ", "ពណ៌", "ក្រហម", "កំពុង", "រត់", "លេង", "ជាមួយ", "ឆ្កែ"]


def characters_of(*texts):
    """Returns a vocabulary in which each character starts a word and continues a word."""
    characters = sorted(set("".join(texts)) - {" ", ZERO_WIDTH})
    return [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]


def split(tokenizer, *texts):
    """Returns the list of pieces of each text."""
    names = tokenizer.vocabulary
    return [[names[i] for i in row] for row in tokenizer.pieces(list(texts)).to_list()]


def greedy(word, pieces):
    """WordPiece as a simple loop; adjacent characters that start no piece become one [UNK]."""
    result, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in pieces), None)
        if end is None:
            result += [UNK] if result[-1:] != [UNK] else []
            start += 1
        else:
            result.append(prefix + word[start:end])
            start = end
    return result


def given(name):
    path = os.path.join(GIVEN, name)
    if not os.path.exists(path):
        pytest.skip(f"no file {os.path.normpath(path)}")
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


# --- Unicode forms --------------------------------------------------------------------------------


def test_composed_and_decomposed_examples_have_the_same_known_pieces():
    examples = given("composed.jsonl")
    tokenizer = Tokenizer(os.path.join(GIVEN, "vocab.txt"))
    reference = BertWordPieceTokenizer(
        os.path.join(GIVEN, "vocab.txt"), lowercase=False, strip_accents=False
    )
    for example, count in zip(examples, (21, 22, 12), strict=True):
        texts = [example["composed"], example["decomposed"]]
        composed, decomposed = split(tokenizer, *texts)
        assert composed == decomposed and len(composed) == count and UNK not in composed
        assert reference.encode(example["composed"]).tokens[1:-1] == composed


@pytest.mark.parametrize(
    "text",
    [
        "một con mèo đen",
        "고양이가 의자에서 잔다",
        "Ångström",
        # NFC decomposes the letter qa of Devanagari, and sorts the two marks of a with ogonek.
        "\u0958",
        "ą́",
        "\u1100\u1161\u11a8",  # three Jamo form one syllable
    ],
)
@pytest.mark.parametrize("lower_case", [False, True])
def test_all_unicode_forms_of_a_text_have_the_same_pieces(text, lower_case):
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")] + [text]
    alphabet = [*forms, *(unicodedata.normalize("NFD", form.lower()) for form in forms)]
    tokenizer = Tokenizer(characters_of(*alphabet), lower_case=lower_case)
    first, *others = split(tokenizer, *forms)
    assert others == [first, first] and UNK not in first
    if not lower_case:
        assert len(first) == len(forms[0].replace(" ", ""))


def test_normalization_in_the_graph_equals_that_of_python_for_all_characters():
    codes = [*range(1, 0xD800), *range(0xE000, 0x30000)]
    texts = [f"a{chr(code)}b" for code in codes]
    actual = text_cleaning.clean(tf.constant(texts), False, lambda s: tf.zeros_like(s, tf.bool))
    expected = [unicodedata.normalize("NFC", text) for text in texts]
    ignored = {"Cc", "Cf", "Co"}
    for text, after in zip(expected, actual.numpy(), strict=True):
        kept = [c for c in text if unicodedata.category(c) not in ignored or c in "\t\n\r"]
        if "\ufffd" not in text and unicodedata.category(text[1]) != "Cn":
            assert after.decode() == "".join(kept)


def test_a_vocabulary_is_trained_on_composed_texts():
    pieces = train_vocabulary([unicodedata.normalize("NFD", "검은 검은 é é")], size=40)
    assert {"검은", "é"} <= set(pieces)


def test_a_note_does_not_depend_on_the_unicode_form():
    notes = TextNotes(Tokenizer(characters_of("un cafe\u0301 noir")), ["fr"])
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "café")
        assert "lacks letters" in notes.language_note(text)


# --- long words -----------------------------------------------------------------------------------


def test_long_examples_have_one_piece_per_character():
    examples = given("long.jsonl")
    tokenizer = Tokenizer(os.path.join(GIVEN, "vocab.txt"))
    for example, count in zip(examples, (145, 142, 165, 146), strict=True):
        (pieces,) = split(tokenizer, example["text"])
        assert len(pieces) == count == len(example["text"]) and UNK not in pieces
        tokens = tokenizer([example["text"]])
        assert tokens.shape == (1, 64) and tokenizer.has_known_tokens(tokens).numpy().all()


@pytest.mark.parametrize("text", [THAI, LAO, BURMESE, "".join(KHMER), "cat" + THAI, THAI + "cat"])
@pytest.mark.parametrize("length", [100, 101, 134, 2000])
def test_a_word_of_any_length_keeps_its_pieces(text, length):
    word = (text * length)[:length]
    (pieces,) = split(Tokenizer(characters_of(text)), word)
    assert pieces == [word[0], *(f"##{character}" for character in word[1:])]


def test_an_unknown_character_makes_a_short_word_unknown_and_stays_unknown_in_a_long_word():
    pieces = [*SPECIAL_TOKENS, "ab", "##ab", "c", "##ccd", "##xx", "d"]
    tokenizer = Tokenizer(pieces)
    short, long = "ab" * 49 + "ñc", "ab" * 49 + "ñññ"
    assert (len(short), len(long)) == (100, 101)
    assert split(tokenizer, short, f"d {long} d", "ab" * 60 + "ccdxabxxd", "ñ" * 300) == [
        [UNK],
        ["d", "ab", *["##ab"] * 48, UNK, "d"],
        # The vocabulary has the character x only in "##xx", and d does not continue a word.
        ["ab", *["##ab"] * 59, "##ccd", UNK, "##ab", "##xx", UNK],
        [UNK],
    ]


def test_pieces_equal_a_plain_loop_for_random_words():
    source = random.Random(0)
    words = ["".join(source.choices("abกข文", k=source.randint(1, 4))) for _ in range(60)]
    pieces = {source.choice(("", "##")) + word.replace("文", "") for word in words} - {"", "##"}
    tokenizer = Tokenizer([*SPECIAL_TOKENS, *sorted(pieces)])
    texts, expected = [], []
    for _ in range(300):
        letters = "abกข" + source.choice(("", "", "zñ"))
        lengths = [source.choice((1, 5, 99, 100, 101, 150, 400)) for _ in range(3)]
        text = ["".join(source.choices(letters, k=length)) for length in lengths]
        lists = [greedy(word, pieces) for word in text]
        texts.append(" ".join(text))
        pairs = zip(text, lists, strict=True)
        lists = [
            [UNK] if len(w) <= 100 and UNK in split_word else split_word for w, split_word in pairs
        ]
        expected.append(sum(lists, []))
    assert sum(UNK in row for row in expected) > 50
    assert split(tokenizer, *texts) == expected
    # The pieces of a text do not depend on the other texts of the batch.
    assert [split(tokenizer, text)[0] for text in texts[:20]] == expected[:20]


def test_a_saved_function_splits_long_words(tmp_path):
    tokenizer = Tokenizer(characters_of(THAI, LAO), max_tokens=300)
    module = tf.Module()
    module.tokenize = tf.function(tokenizer, input_signature=[tf.TensorSpec((None,), tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    texts = [THAI * 4, "x" + LAO * 4, "x", "", f"{THAI * 2}{ZERO_WIDTH}{THAI}", b"\xff" + b"e"]
    loaded = tf.saved_model.load(str(tmp_path)).tokenize(tf.constant(texts))
    assert loaded.numpy().tolist() == tokenizer(texts).numpy().tolist()


def test_pieces_that_no_tokenizer_accepts_are_not_written_and_not_read(tmp_path):
    captions = [THAI * 3, THAI * 3, "a cat", "a cat"]
    pieces = train_vocabulary(captions, size=2000)
    assert max(len(piece.removeprefix("##").encode()) for piece in pieces) <= MAX_PIECE_BYTES
    save_vocabulary(tmp_path / "vocab.txt", pieces)
    assert UNK not in split(Tokenizer(tmp_path / "vocab.txt"), THAI * 3)[0]
    limits = [*SPECIAL_TOKENS, "ก" * 85 + "x", "##" + "ก" * 85 + "x"]  # 256 bytes
    assert Tokenizer(limits).size == 7
    (tmp_path / "long.txt").write_text("\n".join([*limits, "ก" * 86]), encoding="utf-8")
    with pytest.raises(UserError, match=r"long.txt, line 8: piece .* has 258 bytes, expected at"):
        load_vocabulary(tmp_path / "long.txt")


# --- invisible characters -------------------------------------------------------------------------


def test_zero_width_spaces_separate_the_words_of_a_long_run():
    words = KHMER * 3
    joined = ZERO_WIDTH.join(words)
    assert len("".join(words)) > 100
    tokenizer = Tokenizer([*SPECIAL_TOKENS, *KHMER, "##x"], max_tokens=64)
    assert split(tokenizer, joined) == [words]
    assert split(Tokenizer(characters_of(*KHMER)), joined) == split(
        Tokenizer(characters_of(*KHMER)), " ".join(words)
    )


def test_zero_width_spaces_of_a_short_run_separate_words_that_are_known_only_then():
    words = Tokenizer([*SPECIAL_TOKENS, *KHMER, "##x"])
    assert split(words, ZERO_WIDTH.join(KHMER[:3]), "".join(KHMER[:3])) == [KHMER[:3], [UNK]]
    # Otherwise the pieces are those of the reference tokenizer, which removes zero-width spaces.
    pieces = characters_of(*KHMER)
    reference = BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(pieces)}, lowercase=False, strip_accents=False
    )
    text = f"{ZERO_WIDTH.join(KHMER[:3])} {KHMER[3]}{ZERO_WIDTH * 2}{KHMER[4]}{ZERO_WIDTH}"
    assert split(Tokenizer(pieces), text) == [reference.encode(text).tokens[1:-1]]


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم کتاب\u200cها",  # Persian, zero-width non-joiners
        "👨\u200d👩\u200d👧 🏳\ufe0f\u200d🌈",  # emoji, joined
        "ക്\u200dഷ ന്\u200d",  # Malayalam chillus
        "soft\u00adhyphen \u2066isolate\u2069 word\u2060joiner",
    ],
)
def test_joiners_are_handled_as_by_the_reference_tokenizer(text):
    pieces = characters_of(text)
    reference = BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(pieces)}, lowercase=False, strip_accents=False
    )
    expected = reference.encode(unicodedata.normalize("NFC", text)).tokens[1:-1]
    assert split(Tokenizer(pieces), text) == [expected] and UNK not in expected


@pytest.mark.parametrize(
    "character",
    "\u00a0 \u200b \u3164 \u2060 \u3000 \ufeff \u115f \uffa0 \u2800 \u00ad \t \ufe0f".split(" "),
)
def test_texts_of_invisible_characters_are_blank(character):
    assert text_cleaning.is_blank(character) and text_cleaning.is_blank(f" {character}{character} ")
    assert not text_cleaning.is_blank(f"{character}.{character}")


def test_a_text_without_characters_is_blank_and_a_mark_is_not():
    assert text_cleaning.is_blank("")
    for visible in ("\u0301", "0", "。", "☃", "\ue000", "ก"):
        assert not text_cleaning.is_blank(visible)


def test_blank_texts_of_a_table_are_dropped_and_counted(tmp_path):
    given("blank.jsonl")
    manifest = convert("table", os.path.join(GIVEN, "blank.jsonl"), tmp_path / "out", "train")
    texts = [record.texts for record in RecordSet.open(tmp_path / "out" / "train")]
    assert texts == [(("en", "a yellow star"),), (("en", "a red circle"),)]
    ledger = manifest["ledger"]
    assert ledger["read"] == 7 and ledger["dropped"] == {"no text": 5}
    assert ledger["dropped_texts"] == {"blank text": 6}
    assert ledger["examples"]["blank text"][0] == "line 1: en '\\xa0'"
    summary = format_summary([{**manifest, "split": "train"}])
    assert "6 texts dropped: blank text (line 1: en '\\xa0')" in summary


@pytest.mark.parametrize("blank", ["\u00a0", "\u200b", "\u3164\u2060", " \ufeff "])
def test_a_pair_of_sentences_with_a_blank_side_is_dropped(tmp_path, blank):
    (tmp_path / "tatoeba.deu-eng.deu").write_text(f"eins\n{blank}\n", encoding="utf-8")
    (tmp_path / "tatoeba.deu-eng.eng").write_text("one\ntwo\n", encoding="utf-8")
    (unit,) = tatoeba.plan(str(tmp_path), "test", ("deu",))
    first, second = tatoeba.read(unit)
    assert first.texts == (("deu", "eins"), ("eng", "one"))
    assert second == Skipped("empty side", "tatoeba.deu-eng:2")


def test_every_converter_drops_blank_texts():
    blank, usual = ("de", "\u200b\u2060"), ("en", "a star")
    ledger = Ledger()
    kept = list(
        ledger.filter([Record("a", (b"x",), (blank, usual)), Record("b", (b"x",), (blank,))])
    )
    assert [record.texts for record in kept] == [(usual,)]
    assert ledger.dropped_texts == {"blank text": 2} and ledger.dropped == {"no text left": 1}
    assert ledger.examples["blank text"] == ["a, de", "b, de"]


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower_case", [False, True])
def test_the_file_for_hugging_face_gives_the_same_rows(tmp_path, lower_case):
    texts = [
        "Über [SEP] dem Café",
        unicodedata.normalize("NFD", "một con mèo đen 고양이"),
        "中文 x",
    ]
    texts += [
        THAI * 40,
        "می\u200cخواهم",
        f"{KHMER[0]}{ZERO_WIDTH}{KHMER[1]}",
        "☃ a" * 60,
        "",
        "a\u0301 ǅ",
    ]
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in texts]
    pieces = characters_of(*forms, *(form.lower() for form in forms[:-1]))
    tokenizer = Tokenizer([piece for piece in pieces if "☃" not in piece], 64, lower_case)
    write_tokenizer(tmp_path / "tokenizer.json", tokenizer)
    loaded = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rows = [encoding.ids for encoding in loaded.encode_batch(texts)]
    assert rows == tokenizer(texts).numpy().tolist()
