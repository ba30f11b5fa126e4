"""Lexicons: their files, public dictionaries, word vectors, titles, translation pairs, the command.

Each format has a miniature of the official layout.
"""

import base64
import gzip

import numpy as np
import pytest

from tf_mural.cli import lexicon as command
from tf_mural.data import records
from tf_mural.data.lexicon import Lexicon
from tf_mural.data.records import Record
from tf_mural.datasets import lexicons, scenes
from tf_mural.datasets.lexicons import (
    LexiconOptions,
    alignment,
    dictd,
    make_lexicon,
    wiki_titles,
    word_pairs,
)
from tf_mural.datasets.scenes import lexicon as scenes_lexicon
from tf_mural.datasets.scenes.grammar import GRAMMARS
from tf_mural.errors import UserError


@pytest.fixture
def make(tmp_path):
    """A function that makes a lexicon of files, {name: text or bytes}; returns (tables, notes)."""

    def make_tables(source, files, **options):
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode("utf-8")
            (tmp_path / name).write_bytes(data)
        notes = []
        inputs = [str(tmp_path / name) for name in files if not name.endswith((".dict", ".dz"))]
        lexicon = make_lexicon(source, inputs, LexiconOptions(**options), notes.append)
        return lexicon.tables, notes

    return make_tables


# --- files of a lexicon ---------------------------------------------------------------------------


def test_a_lexicon_is_read_as_it_was_written(tmp_path):
    tables = {
        ("en", "de"): {"dog": ("Hund",), "fire engine": ("Feuerwehr auto", "Löschzug")},
        ("en", "zh-Hant"): {"dog": ("狗",)},
        ("zh-Hant", "en"): {"狗": ("dog",)},
    }
    written = Lexicon(tables)
    written.write(tmp_path)
    (tmp_path / "notes.txt").write_text("not a lexicon")
    read = Lexicon.open(tmp_path)
    assert read.tables == tables and read.notes == []
    assert read.digest == written.digest != Lexicon({("en", "de"): {"dog": ["Hund"]}}).digest
    assert read.targets("en") == ("de", "zh-Hant") and read.targets("de") == ()
    assert read.targets("en", ("de", "fr")) == ("de",)


def test_unusable_lines_are_counted_and_the_first_is_named(tmp_path):
    content = (
        b"\xef\xbb\xbfDog Hund\n\ncat\nred \xff\ntwo words zwei\nbig car\tgro\xc3\x9fes Auto\r\n"
    )
    (tmp_path / "en-de.txt").write_bytes(content)
    lexicon = Lexicon.open(tmp_path)
    table = {"dog": ("Hund",), "big car": ("großes Auto",)}
    assert lexicon.tables == {("en", "de"): table}
    (note,) = lexicon.notes
    assert "en-de.txt: 3 of " in note and "line 3 is not a word and its translation: 'cat'" in note


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "contains no lexicon: expected files such as en-de.txt"),
        ({"en-de.txt": "\n"}, "en-de.txt contains no translation"),
        ({"de.txt": "dog Hund\n"}, "contains no lexicon"),
    ],
)
def test_folders_without_translations_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        Lexicon.open(tmp_path)


# --- word pairs -----------------------------------------------------------------------------------


def test_dictionaries_of_muse_and_cosda_ml_are_read(make):
    files = {
        "en-de.txt": "the die\nthe der\nthe das\nthe den\nand und\n",
        "en-de.5000-6500.txt": "and\tund\nbroken\nDog  Hund\n",
        "sw2.txt": "dog\tmbwa\nred\tnyekundu\n",
    }
    tables, (note,) = make("pairs", files)
    assert tables == {
        ("en", "de"): {"the": ("die", "der", "das"), "and": ("und",), "dog": ("Hund",)},
        ("en", "sw"): {"dog": ("mbwa",), "red": ("nyekundu",)},
    }
    assert "5000-6500.txt: 1 of 3 lines skipped; line 2 is not" in note and "'broken'" in note


def test_long_lines_do_not_need_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(word_pairs, "MAX_LINE", 10)
    (tmp_path / "x").write_bytes(b"dog Hund\n" + b"a" * 25 + b"\ncat Katze")
    lines = list(word_pairs.read_lines(str(tmp_path / "x")))
    assert lines == ["dog Hund\n", "a" * 10, "a" * 10, "aaaaa\n", "cat Katze"]


def test_languages_of_other_files_must_be_given(make):
    with pytest.raises(UserError, match=r"words\.txt: the languages are not known .*=en,de`"):
        make("pairs", {"words.txt": "dog Hund\n"})
    tables, _ = make("pairs", {"words.txt": "dog Hund\n"}, languages=("en", "de"))
    assert tables == {("en", "de"): {"dog": ("Hund",)}}


@pytest.mark.parametrize("content", [b"\x00\xff\xfe" * 99, b"a b c\n" * 3, b""])
def test_files_without_pairs_are_refused(make, content):
    with pytest.raises(UserError, match="en-de.txt: none of the .* lines has a new word"):
        make("pairs", {"en-de.txt": content})


# --- word vectors ---------------------------------------------------------------------------------

ENGLISH = "3 3\ndog 1 0 0\nCat 0 1 0.1\nbird 0 0 -2\n"
GERMAN = "4 3\nHund 8 1 0\nKatze 0 2 0\nVogel 0.1 0 -1\nnichts 0 0 0\nkurz 1 2\n"


def test_translations_are_the_nearest_vectors(make):
    files = {"wiki.multi.en.vec": ENGLISH, "wiki.multi.de.vec": GERMAN}
    tables, notes = make("vectors", files, max_translations=1)
    assert tables == {("en", "de"): {"dog": ("hund",), "cat": ("katze",), "bird": ("vogel",)}}
    assert any(
        "de.vec: 2 of 6 lines skipped; line 5 is not a word and 3 numbers" in n for n in notes
    )
    tables, _ = make("vectors", files, max_translations=2, max_words=2)
    assert tables == {("en", "de"): {"dog": ("hund", "katze"), "cat": ("katze", "hund")}}


def test_neighbors_equal_those_of_all_similarities(make):
    rng = np.random.default_rng(0)
    arrays = {code: rng.normal(size=(n, 8)) for code, n in (("en", 700), ("fr", 90))}
    files = {
        f"wiki.multi.{code}.vec": f"{len(rows)} 8\n"
        + "".join(f"{code}{i} {' '.join(map(str, row))}\n" for i, row in enumerate(rows))
        for code, rows in arrays.items()
    }
    tables, _ = make("vectors", files, max_translations=3)
    unit = {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in arrays.items()}
    nearest = np.argsort(-(unit["en"] @ unit["fr"].T), axis=1)[:, :3]
    expected = {f"en{i}": tuple(f"fr{j}" for j in row) for i, row in enumerate(nearest)}
    assert tables["en", "fr"] == expected


@pytest.mark.parametrize(
    "files, options, message",
    [
        ({"wiki.multi.en.vec": ENGLISH}, {}, "expected a file of vectors of the source language"),
        ({"a.vec": ENGLISH, "b.vec": GERMAN}, {}, r"a\.vec: the language is not known"),
        (
            {"a.vec": ENGLISH, "b.vec": GERMAN},
            {"languages": ("en",)},
            "2 files of vectors, but the languages en: expected one language per file",
        ),
        ({"en.vec": ENGLISH, "de.vec": "a 1 2\n"}, {}, "the vectors have 2 numbers, but those of"),
        ({"en.vec": ENGLISH, "de.vec": "nothing\n"}, {}, r"de\.vec has no word vectors"),
    ],
)
def test_wrong_vectors_are_named(make, files, options, message):
    with pytest.raises(UserError, match=message):
        make("vectors", files, **options)


# --- titles ---------------------------------------------------------------------------------------

TITLES = """<?xml version="1.0" encoding="UTF-8"?>
<wikititles version="1.0">
<article><entry lang="de">Hund</entry><entry lang="en">Dog (animal)</entry></article>
<article>
  <entry lang="de">Kategorie:Rote Farbe</entry>
  <entry lang="en">Category:Red &amp; dark</entry>
  <category name="x">Colors</category>
</article>
<article><entry lang="de">Einsam</entry></article>
<article><entry lang="en">The Lord of the Rings</entry><entry lang="de">HdR</entry></article>
</wikititles>
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_titles_of_linguatools_are_cleaned(make, compressed):
    name = "wikititles-2014_deen.xml"
    files = {f"{name}.gz": gzip.compress(TITLES.encode())} if compressed else {name: TITLES}
    tables, notes = make("titles", files)
    assert tables == {("en", "de"): {"dog": ("hund",), "red & dark": ("rote farbe",)}}
    assert any("1 of 4 articles lack a title in en or de" in note for note in notes)


@pytest.mark.parametrize(
    "content, message",
    [
        (TITLES[:300], "is cut or damaged: .*; download it again"),
        ("<a><b><entry lang='fr'>x</entry></b></a>", "none of the 1 articles has titles in en and"),
        ("dog Hund", "is cut or damaged"),
        (gzip.compress(TITLES.encode())[:80], "is cut or damaged"),
    ],
)
def test_damaged_titles_are_refused(make, content, message):
    name = "wikititles-2014_deen.xml" + (".gz" if isinstance(content, bytes) else "")
    with pytest.raises(UserError, match=message):
        make("titles", {name: content})


def test_titles_are_read_without_keeping_the_articles(tmp_path):
    article = '<article><entry lang="de">H{0}</entry><entry lang="en">D{0}</entry></article>'
    path = tmp_path / "titles.xml"
    path.write_text(f"<t>{''.join(map(article.format, range(2_000)))}</t>")
    titles = wiki_titles.read_titles(str(path))
    assert sum(1 for _ in titles) == 2_000


# --- dictd ----------------------------------------------------------------------------------------

ARTICLES = [
    ("00-database-info", "00-database-info\nA dictionary."),
    (
        "dog",
        'dog /dɒɡ/ <n>\n1. Hund <masc> [zool.], Rüde\n2. (metal) Klaue;\n"a dog"\nSee: hound\n',
    ),
    ("fire engine", "fire engine /x/\nFeuerwehrauto\n"),
    ("a b c d", "a b c d\nvier\n"),
    ("nothing", "nothing\n"),
]


def to_digits(number):
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (to_digits(number // 64) if number >= 64 else "") + alphabet[number % 64]


def dictionary():
    """Returns (index, articles) in the format of dictd."""
    data, lines = b"", []
    for word, article in ARTICLES:
        encoded = article.encode()
        lines.append(f"{word}\t{to_digits(len(data))}\t{to_digits(len(encoded))}\n")
        data += encoded
    return "".join(lines), data


@pytest.mark.parametrize("compressed", [False, True])
def test_dictionaries_of_freedict_are_read(make, compressed):
    index, data = dictionary()
    index += "cut\tAAAA\n" + "far\t////\tB\n" + "odd\t!\tB\n"
    articles = {"eng-deu.dict.dz": gzip.compress(data)} if compressed else {"eng-deu.dict": data}
    tables, (note,) = make("freedict", {"eng-deu.index": index, **articles})
    expected = {"dog": ("Hund", "Rüde", "Klaue"), "fire engine": ("Feuerwehrauto",)}
    assert tables == {("en", "de"): expected}
    assert "3 of 8 lines skipped; line 6 has no article: 'cut\\tAAAA'" in note


def test_positions_are_numbers_in_base_64():
    data = (123_456).to_bytes(3, "big")
    digits = base64.b64encode(data).decode()
    assert dictd._decode(digits) == 123_456 and dictd._decode(to_digits(123_456)) == 123_456


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "no file .*eng-deu.dict.dz or .*eng-deu.dict with the articles"),
        ({"eng-deu.dict.dz": gzip.compress(dictionary()[1])[:40]}, "dict.dz is cut or damaged"),
        ({"eng-deu.dict": b"x"}, "no article of the dictionary has a translation"),
    ],
)
def test_damaged_dictionaries_are_refused(make, files, message):
    with pytest.raises(UserError, match=message):
        make("freedict", {"eng-deu.index": dictionary()[0], **files})


# --- translation pairs ----------------------------------------------------------------------------


def reference_model_1(pairs, iterations):
    """Returns {(source, target): probability} of IBM model 1, in plain loops."""
    probability = {(s, t): 1.0 for source, target in pairs for s in [*source, ""] for t in target}
    for _ in range(iterations):
        counts, totals = dict.fromkeys(probability, 0.0), {}
        for source, target in pairs:
            for t in target:
                total = sum(probability[s, t] for s in [*source, ""])
                for s in [*source, ""]:
                    counts[s, t] += probability[s, t] / total
        for (s, _), count in counts.items():
            totals[s] = totals.get(s, 0.0) + count
        probability = {key: count / totals[key[0]] for key, count in counts.items()}
    return probability


def test_model_1_equals_plain_loops():
    rng = np.random.default_rng(0)
    pairs = [
        ([f"s{i}" for i in row], [f"t{i}" for i in rng.permutation(row)[: len(row) - 1]])
        for row in (rng.integers(0, 9, rng.integers(2, 7)).tolist() for _ in range(40))
    ]
    options = LexiconOptions(min_count=1, iterations=5)
    expected = reference_model_1(pairs, 5)
    actual = alignment._model_1(pairs, options)
    assert len(actual) > 50
    for key, value in actual.items():
        assert value == pytest.approx(expected[key], rel=1e-9)
    assert all(p <= 1e-3 for (s, t), p in expected.items() if s and (s, t) not in actual)


@pytest.fixture(scope="module")
def bitext(tmp_path_factory):
    """A record set of 2,640 translation pairs of scenes, and a record without a translation."""
    folder = tmp_path_factory.mktemp("bitext") / "set"
    (unit,) = scenes.plan(None, "bitext", count=66 * 120, units=1)
    pairs = [r for r in scenes.read(unit) if any(code == "en" for code, _ in r.texts)]
    records.write(folder, [*pairs, Record("only", (), (("en", "lonely"),))], shards=2)
    return str(folder)


def test_words_of_scenes_are_learned_from_translation_pairs(bitext):
    lexicon = make_lexicon("bitext", [bitext], LexiconOptions(), lambda line: None)
    assert set(lexicon.tables) == {("en", code) for code in GRAMMARS if code != "en"}
    for (_, code), table in lexicon.tables.items():
        precision, recall, _ = lexicons.quality(table, scenes_lexicon.word_forms(code))
        # A Chinese noun that always has the same measure word is learned with this word.
        minimum = (0.7, 0.7) if code == "zh" else (0.9, 0.9)
        assert precision >= minimum[0] and recall >= minimum[1], (code, precision, recall)


def test_lexicons_of_shuffled_pairs_are_wrong(bitext):
    options = LexiconOptions(languages=("en", "de"))
    sets = [records.RecordSet.open(bitext)]
    pairs = alignment.read_sentences(sets, "en", ["de"], options, lambda line: None)["de"]
    order = np.random.default_rng(0).permutation(len(pairs))
    shuffled = [(pairs[i][0], pairs[j][1]) for i, j in enumerate(order)]
    table = alignment.model_1_translations(shuffled, options)
    precision, recall, _ = lexicons.quality(table, scenes_lexicon.word_forms("de"))
    assert precision < 0.3 and recall < 0.3


def test_numbers_of_pairs_and_words_are_bounded(bitext, monkeypatch):
    options = LexiconOptions(languages=("en", "fr"), max_sentences=20, max_words=5, min_count=1)
    sets = [records.RecordSet.open(bitext)]
    pairs = alignment.read_sentences(sets, "en", ["fr"], options, lambda line: None)["fr"]
    assert len(pairs) == 20
    entries = alignment._Entries(pairs, options)
    assert len(entries.sources) == 6 and len(entries.targets) == 5
    monkeypatch.setattr(alignment, "MAX_ENTRIES", 50)
    assert len(alignment._Entries(pairs, options).entry) < 50 + 6 * 12


@pytest.mark.parametrize(
    "languages, message",
    [
        (("en", "xx"), "unknown language 'xx'; known: cs, de"),
        (("zh", "en"), "the words of zh are not separated by spaces"),
    ],
)
def test_wrong_languages_of_pairs_are_named(bitext, languages, message):
    with pytest.raises(UserError, match=message):
        make_lexicon("bitext", [bitext], LexiconOptions(languages=languages), lambda line: None)


# --- scenes and the command -----------------------------------------------------------------------


def test_the_grammar_gives_each_word_of_scenes_in_each_language():
    lexicon = scenes_lexicon.scenes_lexicon()
    assert len(lexicon.tables) == len(GRAMMARS) - 1
    for (source, code), table in lexicon.tables.items():
        assert source == "en" and {"dog", "circle", "big", "red", "plain", "background"} <= set(
            table
        )
        assert all(text and "{" not in text for values in table.values() for text in values)
        forms = scenes_lexicon.word_forms(code)
        assert lexicons.quality(table, forms) == (1.0, 1.0, 50)
    german = lexicon.tables["en", "de"]
    assert german["star"] == ("Stern",) and german["left of"] == ("links von",)
    assert scenes_lexicon.word_forms("de")["red"] == {"rot", "roter", "rote", "rotes", "roten"}
    assert lexicon.tables["en", "fr"]["left of"] == ("à gauche",)


def test_the_command_writes_files_and_measures_them(bitext, tmp_path, capsys):
    (tmp_path / "stop.txt").write_text("The\nof\n")
    command.main(
        [
            "bitext",
            f"--records={bitext}",
            "--languages=en,de",
            f"--out_dir={tmp_path / 'out'}",
            "--reference=scenes",
            f"--stop_words={tmp_path / 'stop.txt'}",
        ]
    )
    table = Lexicon.open(tmp_path / "out").tables["en", "de"]
    assert "dog" in table and not {"of", "the"} & set(table)
    *_, line = capsys.readouterr().out.splitlines()
    assert (
        f"en-de.txt: {len(table)} words" in line
        and "precision" in line
        and "words compared" in line
    )
    command.main(["scenes", "--languages=de", f"--out_dir={tmp_path / 'scenes'}"])
    expected = scenes_lexicon.scenes_lexicon(["de"]).tables
    assert Lexicon.open(tmp_path / "scenes").tables == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name the source of the lexicon: one of pairs, vectors"),
        (["pairs"], "--out_dir is required"),
        (["pairs", "--out_dir=x"], "the source pairs needs --files"),
        (
            ["bitext", "--out_dir=x", "--files=a"],
            "the source bitext has no --files; give --records",
        ),
        (["pairs", "--out_dir=x", "--files=no.txt", "--languages=en,de"], "no file 'no.txt'"),
        (["scenes", "--out_dir=x", "--languages=xx"], "unknown language of scenes 'xx'"),
        (["pair", "--out_dir=x"], "unknown source of a lexicon 'pair'; known: pairs, vectors"),
    ],
)
def test_wrong_flags_are_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        command.main(arguments)
    assert message in str(error.value) and not list(tmp_path.iterdir())
