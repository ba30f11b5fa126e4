"""`opus`: bitexts in OPUS's Moses format."""

import os
import zipfile

import pytest
from helpers.archives import zip_bytes
from helpers.datasets import convert, read_items
from helpers.opus_files import write_moses_zip

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import DATASETS, opus
from tf_mural.datasets.opus import forward_lines
from tf_mural.errors import UserError


def read(raw, **options):
    return read_items(opus, raw, "train", **options)


def pair(name, a, one, b, two):
    return Record(name, texts=((a, one), (b, two)))


# --- lines ----------------------------------------------------------------------------------------


def test_each_pair_of_lines_becomes_a_record(tmp_path):
    expected = [
        pair("CCMatrix.de-en:1", "de", "eins", "en", "one"),
        pair("CCMatrix.de-en:2", "de", "zwei", "en", "two"),
    ]
    path = write_moses_zip(tmp_path)
    assert read(path) == expected
    assert read(tmp_path) == expected


IRREGULAR = (
    b"\xef\xbb\xbfeins\r\n  zw\xc3\xb6lf\t\n\nOK\nkaputt\nu\xe2\x80\xa8v\nf\xc3\xbcnf",
    b"\xef\xbb\xbfone\r\ntwelve\nthree\nOK\n\xff\xfe\nu v\nfive",
)
IRREGULAR_KEPT = [
    pair("CCMatrix.de-en:1", "de", "eins", "en", "one"),
    pair("CCMatrix.de-en:2", "de", "zwölf", "en", "twelve"),
    pair("CCMatrix.de-en:4", "de", "OK", "en", "OK"),
    pair("CCMatrix.de-en:6", "de", "u\u2028v", "en", "u v"),
    pair("CCMatrix.de-en:7", "de", "fünf", "en", "five"),
]


def test_irregular_lines_are_stripped_or_skipped(tmp_path):
    """Some lines have a byte order mark, CRLF, spaces, no text, invalid UTF-8, or no line end."""
    items = read(write_moses_zip(tmp_path, first=IRREGULAR[0], second=IRREGULAR[1]))
    assert [item for item in items if isinstance(item, Record)] == IRREGULAR_KEPT
    assert [item for item in items if isinstance(item, Skipped)] == [
        Skipped("empty side", "CCMatrix.de-en:3"),
        Skipped("not UTF-8", "CCMatrix.de-en:5"),
    ]
    items = read(tmp_path, drop_identical=True)
    assert items[3] == Skipped("both sides the same", "CCMatrix.de-en:4: OK")


def test_names_have_the_corpus_and_texts_the_codes_of_records(tmp_path):
    write_moses_zip(tmp_path, "en", "zh_cn", corpus="bible-uedin.v1")
    (tmp_path / "below").mkdir()
    write_moses_zip(tmp_path / "below", "pt", "pt_br", corpus="Open.Subtitles")
    write_moses_zip(tmp_path / "below", "zh", "zh-Hant")
    records = [read(tmp_path)[i] for i in (0, 2, 4)]
    assert [(record.id, [code for code, _ in record.texts]) for record in records] == [
        ("CCMatrix.zh-zh-Hant:1", ["zh", "zh-Hant"]),
        ("Open.Subtitles.pt-pt_br:1", ["pt", "pt-br"]),
        ("bible-uedin.v1.en-zh_cn:1", ["en", "zh"]),
    ]


def test_bitexts_may_be_unpacked(tmp_path):
    for name, text in (("de", "eins\n"), ("en", "one\n"), ("scores", "1\n")):
        (tmp_path / f"CCMatrix.de-en.{name}").write_text(text)
    (tmp_path / "README").write_text("read me\n")
    assert read(tmp_path) == [pair("CCMatrix.de-en:1", "de", "eins", "en", "one")]


# --- languages and pairs --------------------------------------------------------------------------


@pytest.fixture
def three_bitexts(tmp_path):
    for a, b in (("de", "en"), ("en", "fr"), ("en", "zh_cn")):
        write_moses_zip(tmp_path, a, b, f"{a}\n".encode(), f"{b}\n".encode())
    return tmp_path


@pytest.mark.parametrize(
    "options, names",
    [
        ({}, ["de-en", "en-fr", "en-zh_cn"]),
        ({"languages": ("fr", "en", "de")}, ["de-en", "en-fr"]),
        ({"languages": ("en", "zh_cn")}, ["en-zh_cn"]),
        ({"languages": ("English", "zho_Hans")}, ["en-zh_cn"]),
        ({"pairs": ("zh-en",)}, ["en-zh_cn"]),
        ({"pairs": ("en-de", "en-zh-cn")}, ["de-en", "en-zh_cn"]),
        ({"pairs": ("fr-en", "de-en"), "languages": ("en", "fr")}, ["en-fr"]),
    ],
)
def test_options_choose_languages_and_pairs(three_bitexts, options, names):
    assert [record.id for record in read(three_bitexts, **options)] == [
        f"CCMatrix.{n}:1" for n in names
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"languages": ("en", "pl")}, "unknown language .* 'pl'; known: de, en, fr, zh"),
        ({"pairs": ("de-fr",)}, "unknown pair .* 'de-fr'; known: de-en, en-fr, en-zh"),
        ({"languages": ("de", "fr")}, "no bitext in .* has two of the languages"),
    ],
)
def test_unknown_languages_and_pairs_are_refused(three_bitexts, options, message):
    with pytest.raises(UserError, match=message):
        read(three_bitexts, **options)


# --- units ----------------------------------------------------------------------------------------

WORDS = [("a" * (i * 7 % 13), "b" * (i * 5 % 11)) for i in range(39)]


@pytest.mark.parametrize("last", [b"", b"\n"])
@pytest.mark.parametrize("chunk", [1, 3, 50, 1 << 20])
@pytest.mark.parametrize("size", [1, 2, 13, 14, 30, 100, 1000])
def test_parts_contain_each_line_once(tmp_path, monkeypatch, size, chunk, last):
    """Parts begin inside a line or at its end; in some parts no line starts."""
    monkeypatch.setattr(forward_lines, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (size, size))
    monkeypatch.setattr(opus, "_MAX_PARTS", 1000)
    sides = [b"\n".join(words[i].encode() for words in WORDS) + last for i in (0, 1)]
    write_moses_zip(tmp_path, first=sides[0], second=sides[1])
    units = opus.plan(str(tmp_path), "train")
    assert len(units) == min(512, -(-len(sides[0]) // size))
    items = [item for unit in units for item in opus.read(unit)]
    assert len(items) == len(WORDS)
    for number, (item, (a, b)) in enumerate(zip(items, WORDS, strict=True), 1):
        name = f"CCMatrix.de-en:{number}"
        expected = pair(name, "de", a, "en", b) if a and b else Skipped("empty side", name)
        assert item == expected


def test_small_bitexts_share_units_and_large_ones_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (40, 40))
    monkeypatch.setattr(opus, "_MAX_PARTS", 3)
    for a, lines in (("de", 50), ("fr", 1), ("it", 2), ("nl", 2), ("pl", 1)):
        write_moses_zip(tmp_path, a, "xx", b"123456789\n" * lines, b"x\n" * lines)
    units = opus.plan(str(tmp_path), "train")
    cuts = [[(p.bitext.languages[0], p.start, p.end) for p in unit.parts] for unit in units]
    assert cuts == [
        [("de", 0, 166)],
        [("de", 166, 333)],
        [("de", 333, 500)],
        [("fr", 0, 10), ("it", 0, 20), ("nl", 0, 20)],
        [("pl", 0, 10)],
    ]
    counts = [sum(1 for _ in opus.read(unit)) for unit in units]
    assert counts == [17, 17, 16, 5, 1]


# --- files that are broken ------------------------------------------------------------------------


@pytest.mark.parametrize("lines, parts", [(3, 1), (8, 2), (16, 4), (400, 4), (4000, 10)])
def test_a_single_bitext_is_divided_for_several_processes(tmp_path, monkeypatch, lines, parts):
    """A bitext is divided into 4 parts unless a part has less than 40 or more than 4,000 bytes."""
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (40, 4000))
    write_moses_zip(tmp_path, "de", "xx", b"123456789\n" * lines, b"x\n" * lines)
    assert len(opus.plan(str(tmp_path), "train")) == parts


@pytest.mark.parametrize(
    "first, second, counts",
    [
        (b"a\nb\nc\n", b"a\nb\n", "CCMatrix.de-en.de 3 and CCMatrix.de-en.en 2"),
        (b"a\nb\n", b"a\nb\nc", "CCMatrix.de-en.de 2 and CCMatrix.de-en.en 3"),
        (b"a\n" * 100, b"a\n" * 7, "CCMatrix.de-en.de 100 and CCMatrix.de-en.en 7"),
        (b"a\nb\n", b"a\nb\n\n", "CCMatrix.de-en.de 2 and CCMatrix.de-en.en 3"),
    ],
)
@pytest.mark.parametrize("size", [3, 1 << 20])
def test_sides_with_different_numbers_of_lines_are_refused(
    tmp_path, monkeypatch, first, second, counts, size
):
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (size, size))
    path = write_moses_zip(tmp_path, first=first, second=second)
    with pytest.raises(UserError, match=f"{path}: expected as many lines .* found {counts}; downl"):
        read(tmp_path)
    # The last part detects the error even if no other part is read.
    for unit in opus.plan(str(tmp_path), "train")[-1:]:
        with pytest.raises(UserError, match=counts):
            list(opus.read(unit))


def test_truncated_and_damaged_zips_are_refused(tmp_path):
    text = "".join(f"{i * i}\n" for i in range(5000)).encode()
    path = write_moses_zip(tmp_path, first=text, second=text)
    data = path.read_bytes()
    for truncated in (data[:-100], data[: len(data) // 2], data[:10], b""):
        path.write_bytes(truncated)
        with pytest.raises(UserError, match="de-en.txt.zip does not unpack .*; download it again"):
            read(tmp_path)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(20) + data[middle + 20 :])
    with pytest.raises(UserError, match=r"CCMatrix.de-en.\w\w of .*zip does not unpack"):
        read(tmp_path)
    with pytest.raises(UserError, match="converting|does not unpack"):
        convert("ccmatrix", tmp_path, tmp_path / "out", "train")
    assert not os.path.exists(tmp_path / "out" / "train")


def test_a_line_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(forward_lines, "_MAX_LINE_BYTES", 2 << 20)
    write_moses_zip(tmp_path, first=bytes(5 << 20), second=b"one\n")
    with pytest.raises(
        UserError, match="CCMatrix.de-en.de of .* is no text: a line of more than 2"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    "members, message",
    [
        ({}, "x.zip holds no bitext .* but nothing"),
        ({"README": "", "de.tsv": ""}, "x.zip holds no bitext .* but README, de.tsv; move it away"),
        ({"C.de-en.de": "a\n", "C.de-en.ids": ""}, "has C.de-en.de, but not the other language"),
        ({"C.de-en.en": "a\n", "README": ""}, "has C.de-en.en, but not the other language"),
        ({"C.de-en.de": "a\n", "C.de-en.en": ""}, "C.de-en.en of .*x.zip is empty; download"),
        ({"../C.de-en.de": "a\n", "../C.de-en.en": "a\n"}, r"'\.\./C.de-en.de', a path outside"),
        ({"/C.de-en.de": "a\n", "/C.de-en.en": "a\n"}, "'/C.de-en.de', a path outside"),
        ({"C.latein-en.latein": "a\n", "C.latein-en.en": "a\n"}, "such as de, got 'latein' in C.l"),
    ],
)
def test_zips_without_a_bitext_are_refused(tmp_path, members, message):
    (tmp_path / "x.zip").write_bytes(zip_bytes(members))
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path):
    path = write_moses_zip(tmp_path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    data[entry + 8] |= 1  # encryption flag of the third file
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="CCMatrix.de-en.de is encrypted"):
        read(tmp_path)


def test_a_repeated_bitext_is_refused(tmp_path):
    write_moses_zip(tmp_path)
    (tmp_path / "b").mkdir()
    write_moses_zip(tmp_path / "b")
    with pytest.raises(UserError, match="CCMatrix.de-en is in .*zip and .*/b/de-en.txt.zip; keep"):
        read(tmp_path)


def test_a_folder_without_bitexts_is_refused(tmp_path):
    with pytest.raises(UserError, match="no bitext in .*; expected zips of OPUS's Moses format"):
        read(tmp_path)
    for gone in (tmp_path / "gone", ""):
        with pytest.raises(UserError, match="expected raw_dir to be a zip of OPUS or a folder"):
            opus.plan(str(gone), "train")


# --- conversion -----------------------------------------------------------------------------------


def test_ledger_counts_every_line(tmp_path, monkeypatch):
    assert DATASETS["ccmatrix"] is DATASETS["opus"] is opus
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (12, 12))
    write_moses_zip(tmp_path, first=IRREGULAR[0], second=IRREGULAR[1])
    manifest = convert("ccmatrix", tmp_path, tmp_path / "out", "train", drop_identical=True)
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (7, 4)
    assert ledger["dropped"] == {"both sides the same": 1, "empty side": 1, "not UTF-8": 1}
    assert ledger["examples"]["empty side"] == ["CCMatrix.de-en:3"]
    assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
    assert (manifest["languages"], len(manifest["shards"])) == ({"de": 4, "en": 4}, 4)
    records = list(RecordSet.open(tmp_path / "out/train"))
    assert records == [record for record in IRREGULAR_KEPT if record.id != "CCMatrix.de-en:4"]


@pytest.mark.parametrize("unpacked", [False, True])
def test_another_text_of_the_same_size_is_another_recipe(tmp_path, unpacked):
    def write(first):
        path = write_moses_zip(tmp_path, first=first)
        if unpacked:
            zipfile.ZipFile(path).extractall(tmp_path)
            path.unlink()

    write(b"eins\nzwei\n")
    convert("ccmatrix", tmp_path, tmp_path / "out", "train")
    write(b"eins\nzwei\n")
    convert("ccmatrix", tmp_path, tmp_path / "out", "train")
    write(b"eins\ndrei\n")
    with pytest.raises(UserError, match="another recipe"):
        convert("ccmatrix", tmp_path, tmp_path / "out", "train")
