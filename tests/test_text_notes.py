"""Notes about texts that a model truncates, or whose language the model was not trained on."""

import json
import shutil
import warnings

import pytest

import tf_mural
from tf_mural import experiment
from tf_mural.data import text_notes
from tf_mural.data.records import deserialize
from tf_mural.data.tokenizers import SPECIAL_TOKENS, Tokenizer
from tf_mural.experiment import model_io

SCENES = "cs de en es fr it ja ko sw tr uk zh".split()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(experiment.find_vocabulary("scenes", ""), 32)


def test_captions_of_the_training_languages_have_no_notes(tokenizer, data_dir):
    notes = text_notes.TextNotes(tokenizer, SCENES)
    records = experiment.open_records("scenes/test", str(data_dir)).read(range(12))
    texts = [text for data in records for _, text in deserialize(data).texts]
    assert len(texts) == 12 * len(SCENES)
    assert set(map(notes.language_note, texts)) == {""}


@pytest.mark.parametrize(
    "languages, text, note",
    [
        (SCENES, "красный круг", "lacks letters of 'красный': its language may not be one of"),
        (SCENES, "ένας κόκκινος κύκλος", "is written in Greek letters, but none of the languages"),
        (SCENES, "دائرة حمراء", "is written in Arabic letters"),
        (SCENES, "un círculo rojo", ""),
        (SCENES, "RED 赤い丸 ☃ 12", ""),
        (["en", "de"], "赤い丸", "is written in Chinese letters"),
        (["ja"], "ＲＥＤ", "is written in Latin letters"),
        (["en", "de"], "a circle 赤", ""),
        (["sr"], "црвени krug", ""),
        # A language whose scripts are not listed may be written in any script.
        (["en", "tlh"], "ένας κόκκινος κύκλος", "lacks letters of 'ένας'"),
        ((), "красный круг", ""),
        (None, "красный круг", ""),
    ],
)
def test_a_language_is_judged_by_its_letters(tokenizer, languages, text, note):
    actual = text_notes.TextNotes(tokenizer, languages).language_note(text)
    assert note in actual if note else actual == ""


def test_accents_do_not_count_in_a_vocabulary_without_accents():
    pieces = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz"]
    for lower_case in (True, False):
        notes = text_notes.TextNotes(Tokenizer(pieces, 8, lower_case), ["en"])
        assert bool(notes.language_note("Café")) != lower_case


def test_a_text_is_noted_from_the_first_token_that_is_cut():
    pieces = [*SPECIAL_TOKENS, "a", "b"]
    notes = text_notes.TextNotes(Tokenizer(pieces, 6))
    fitting, cut = " ".join("abab"), " ".join("ababa")
    message = "'a b a b a' has 5 tokens, of which the model reads the first 4"
    assert notes([fitting, cut, ""]) == ["", message, ""]
    assert notes([]) == []
    # A text that is too long and is not in a training language has both notes.
    (both,) = text_notes.TextNotes(Tokenizer(pieces, 6), ["en"])([cut + " круг"])
    assert "has 6 tokens" in both and "lacks letters of 'круг'" in both


@pytest.mark.parametrize("lower_case", [False, True])
@pytest.mark.parametrize("languages", [["en", "de"], ["ja"], ["el"], ["en", "tlh"], None])
def test_notes_of_many_texts_are_those_of_each_text(lower_case, languages):
    """Compares the notes of a list, which skip most texts, with `language_note`."""
    pieces = [*SPECIAL_TOKENS, *"abcdehinorstuzσοδ", "##a", "##σ"]
    notes = text_notes.TextNotes(Tokenizer(pieces, 6, lower_case), languages)
    # The lower case of Σ is ς at the end of a word, and ς is not in the vocabulary.
    words = ["ΟΔΟΣ", "Σ", "one", "DREI", "Café", "赤", "круг", "☃", "12", "", "a b a b a", "[PAD]"]
    texts = [f"{first} {second}" for first in words for second in words]
    expected = [notes.language_note(text) for text in texts]
    assert notes.language_notes(texts) == expected
    assert len(set(expected)) > 1 or languages is None
    lengths = notes.length_notes(texts)
    assert any(lengths) and not all(lengths)
    tokens = notes._tokenizer(texts)
    assert notes.length_notes(texts, tokens) == lengths
    assert notes(texts, tokens) == notes(texts)


def test_only_texts_without_padding_are_tokenized_again(monkeypatch):
    tokenizer = Tokenizer([*SPECIAL_TOKENS, "a"], 6)
    notes = text_notes.TextNotes(tokenizer, ["en"])
    texts = ["a", "a a a", "a a a a", "a a a a a"]
    tokens, tokenized, pieces = tokenizer(texts), [], tokenizer.pieces

    def count_pieces(strings):
        tokenized.extend(text.decode() for text in strings.numpy())
        return pieces(strings)

    monkeypatch.setattr(tokenizer, "pieces", count_pieces)
    assert list(map(bool, notes(texts, tokens))) == [False, False, False, True]
    assert tokenized == ["a a a a", "a a a a a"]


# --- models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder(finished):
    return tf_mural.Embedder.load(finished[0], batch_size=4)


def test_a_run_stores_the_languages_of_its_texts(finished):
    assert json.loads((finished[0] / "model.json").read_text())["languages"] == SCENES


def test_a_run_adds_the_languages_of_its_initial_weights():
    description = {"languages": ["de", "en"]}
    model_io.add_languages(description, {"languages": ["en", "uk"]})
    assert description["languages"] == ["de", "en", "uk"]
    for init in (None, {"languages": None}):  # public weights; a run of an earlier version
        description = {"languages": ["de", "en"]}
        model_io.add_languages(description, init)
        assert description["languages"] is None


def test_the_embedder_warns_once_and_counts(embedder):
    long_text = "a red circle " * 20
    with pytest.warns(UserWarning) as caught:
        embedder.embed_texts(["a red circle", long_text, "красный круг", "ein Kreis"])
    (warning,) = caught
    assert str(warning.message).startswith("2 of 4 texts, such as: 'a red circle a red circle")
    assert "of which the model reads the first 30" in str(warning.message)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.embed_texts(["a red circle", "ein Kreis"])
        embedder.embed_texts([long_text], warn=False)
    assert [bool(note) for note in embedder.text_notes(["a circle", long_text])] == [False, True]


def test_a_warning_tokenizes_no_text_a_second_time(embedder, monkeypatch):
    calls, pieces = [], Tokenizer.pieces
    monkeypatch.setattr(
        Tokenizer, "pieces", lambda self, strings: calls.append(1) or pieces(self, strings)
    )
    embedder.embed_texts(["a red circle", "ein Kreis"], warn=False)
    without_notes = len(calls)
    embedder.embed_texts(["a red circle", "ein Kreis"])
    assert len(calls) == 2 * without_notes


def test_a_model_without_languages_has_no_notes_about_them(finished, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("checkpoints"))
    description = json.loads((folder / "model.json").read_text())
    del description["languages"]
    (folder / "model.json").write_text(json.dumps(description))
    older = tf_mural.Embedder.load(folder)
    assert older.text_notes(["красный круг"]) == [""]
