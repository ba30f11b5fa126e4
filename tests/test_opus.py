import os
import pickle
import zipfile

import pytest

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS, opus
from tf_mural.datasets.opus import forward_lines
from tf_mural.errors import UserError


def write_zip(path, members, **kwargs):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **kwargs) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def moses(folder, a="de", b="en", first=b"eins\nzwei\n", second=b"one\ntwo\n", corpus="CCMatrix"):
    """A zip as OPUS publishes it."""
    members = {
        "README": "This is the corpus\n",
        "LICENSE": "see the home page\n",
        f"{corpus}.{a}-{b}.{a}": first,
        f"{corpus}.{a}-{b}.{b}": second,
        f"{corpus}.{a}-{b}.scores": "1.2\n1.1\n",
        f"{corpus}.{a}-{b}.ids": "x\ty\n",
        f"{corpus}.{a}-{b}.xml": "<cesAlign/>\n",
    }
    return write_zip(folder / f"{a}-{b}.txt.zip", members)


def items(raw, **options):
    units = opus.plan(str(raw), "train", **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in opus.read(unit)]


def pair(name, a, one, b, two):
    return Record(name, texts=((a, one), (b, two)))


# --- what a line becomes --------------------------------------------------------------------------


def test_lines_become_pairs(tmp_path):
    expected = [
        pair("CCMatrix.de-en:1", "de", "eins", "en", "one"),
        pair("CCMatrix.de-en:2", "de", "zwei", "en", "two"),
    ]
    path = moses(tmp_path)
    assert items(path) == expected
    assert items(tmp_path) == expected


ODD = (
    b"\xef\xbb\xbfeins\r\n  zw\xc3\xb6lf\t\n\nOK\nkaputt\nu\xe2\x80\xa8v\nf\xc3\xbcnf",
    b"\xef\xbb\xbfone\r\ntwelve\nthree\nOK\n\xff\xfe\nu v\nfive",
)
ODD_KEPT = [
    pair("CCMatrix.de-en:1", "de", "eins", "en", "one"),
    pair("CCMatrix.de-en:2", "de", "zwölf", "en", "twelve"),
    pair("CCMatrix.de-en:4", "de", "OK", "en", "OK"),
    pair("CCMatrix.de-en:6", "de", "u\u2028v", "en", "u v"),
    pair("CCMatrix.de-en:7", "de", "fünf", "en", "five"),
]


def test_odd_lines(tmp_path):
    """A byte order mark, CRLF, blanks, an empty line, bytes that are no UTF-8, no last line end."""
    found = items(moses(tmp_path, first=ODD[0], second=ODD[1]))
    assert [item for item in found if isinstance(item, Record)] == ODD_KEPT
    assert [item for item in found if isinstance(item, Dropped)] == [
        Dropped("empty side", "CCMatrix.de-en:3"),
        Dropped("not UTF-8", "CCMatrix.de-en:5"),
    ]
    found = items(tmp_path, drop_identical=True)
    assert found[3] == Dropped("both sides the same", "CCMatrix.de-en:4: OK")


def test_language_codes_and_corpora(tmp_path):
    moses(tmp_path, "en", "zh_cn", corpus="bible-uedin.v1")
    (tmp_path / "below").mkdir()
    moses(tmp_path / "below", "pt", "pt_br", corpus="Open.Subtitles")
    moses(tmp_path / "below", "zh", "zh-Hant")
    found = [items(tmp_path)[i] for i in (0, 2, 4)]
    assert [(record.id, [code for code, _ in record.texts]) for record in found] == [
        ("CCMatrix.zh-zh-Hant:1", ["zh", "zh-Hant"]),
        ("Open.Subtitles.pt-pt_br:1", ["pt", "pt-br"]),
        ("bible-uedin.v1.en-zh_cn:1", ["en", "zh-cn"]),
    ]


def test_already_unpacked(tmp_path):
    for name, text in (("de", "eins\n"), ("en", "one\n"), ("scores", "1\n")):
        (tmp_path / f"CCMatrix.de-en.{name}").write_text(text)
    (tmp_path / "README").write_text("read me\n")
    assert items(tmp_path) == [pair("CCMatrix.de-en:1", "de", "eins", "en", "one")]


# --- which pairs ----------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    for a, b in (("de", "en"), ("en", "fr"), ("en", "zh_cn")):
        moses(tmp_path, a, b, f"{a}\n".encode(), f"{b}\n".encode())
    return tmp_path


@pytest.mark.parametrize(
    "options, names",
    [
        ({}, ["de-en", "en-fr", "en-zh_cn"]),
        ({"languages": ("fr", "en", "de")}, ["de-en", "en-fr"]),
        ({"languages": ("en", "zh_cn")}, ["en-zh_cn"]),
        ({"pairs": ("en-de", "en-zh-cn")}, ["de-en", "en-zh_cn"]),
        ({"pairs": ("fr-en", "de-en"), "languages": ("en", "fr")}, ["en-fr"]),
    ],
)
def test_languages_and_pairs_are_a_choice(three, options, names):
    assert [record.id for record in items(three, **options)] == [f"CCMatrix.{n}:1" for n in names]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"languages": ("en", "pl")}, "unknown language .* 'pl'; known: de, en, fr, zh-cn"),
        ({"pairs": ("de-fr",)}, "unknown pair .* 'de-fr'; known: de-en, en-fr, en-zh-cn"),
        ({"languages": ("de", "fr")}, "no bitext of .* has two of the languages"),
    ],
)
def test_choices_that_are_refused(three, options, message):
    with pytest.raises(UserError, match=message):
        items(three, **options)


# --- parts ----------------------------------------------------------------------------------------

WORDS = [("a" * (i * 7 % 13), "b" * (i * 5 % 11)) for i in range(39)]


@pytest.mark.parametrize("last", [b"", b"\n"])
@pytest.mark.parametrize("chunk", [1, 3, 50, 1 << 20])
@pytest.mark.parametrize("size", [1, 2, 13, 14, 30, 100, 1000])
def test_parts_hold_each_line_once(tmp_path, monkeypatch, size, chunk, last):
    """Wherever a bitext is cut: amid a line, at its end, or with no line start inside a part."""
    monkeypatch.setattr(forward_lines, "_CHUNK", chunk)
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (size, size))
    monkeypatch.setattr(opus, "_MOST_PARTS", 1000)
    sides = [b"\n".join(words[i].encode() for words in WORDS) + last for i in (0, 1)]
    moses(tmp_path, first=sides[0], second=sides[1])
    units = opus.plan(str(tmp_path), "train")
    assert len(units) == min(512, -(-len(sides[0]) // size))
    found = [item for unit in units for item in opus.read(unit)]
    assert len(found) == len(WORDS)
    for number, (item, (a, b)) in enumerate(zip(found, WORDS, strict=True), 1):
        name = f"CCMatrix.de-en:{number}"
        expected = pair(name, "de", a, "en", b) if a and b else Dropped("empty side", name)
        assert item == expected


def test_small_bitexts_share_units_and_large_ones_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (40, 40))
    monkeypatch.setattr(opus, "_MOST_PARTS", 3)
    for a, lines in (("de", 50), ("fr", 1), ("it", 2), ("nl", 2), ("pl", 1)):
        moses(tmp_path, a, "xx", b"123456789\n" * lines, b"x\n" * lines)
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
def test_a_single_bitext_is_cut_for_several_processes(tmp_path, monkeypatch, lines, parts):
    """To quarters, but to no part under 40 bytes, nor over 4,000."""
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (40, 4000))
    moses(tmp_path, "de", "xx", b"123456789\n" * lines, b"x\n" * lines)
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
def test_sides_of_another_length(tmp_path, monkeypatch, first, second, counts, size):
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (size, size))
    path = moses(tmp_path, first=first, second=second)
    with pytest.raises(UserError, match=f"{path}: expected as many lines .* found {counts}; downl"):
        items(tmp_path)
    for unit in opus.plan(str(tmp_path), "train")[-1:]:  # seen by the last part alone too
        with pytest.raises(UserError, match=counts):
            list(opus.read(unit))


def test_zips_that_are_cut_short_or_damaged(tmp_path):
    text = "".join(f"{i * i}\n" for i in range(5000)).encode()
    path = moses(tmp_path, first=text, second=text)
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[: len(whole) // 2], whole[:10], b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="de-en.txt.zip does not unpack .*; download it again"):
            items(tmp_path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(20) + whole[middle + 20 :])
    with pytest.raises(UserError, match=r"CCMatrix.de-en.\w\w of .*zip does not unpack"):
        items(tmp_path)
    with pytest.raises(UserError, match="converting|does not unpack"):
        convert(tmp_path, tmp_path / "out")
    assert not os.path.exists(tmp_path / "out" / "train")


def test_a_line_without_end_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(forward_lines, "_LONGEST", 2 << 20)
    moses(tmp_path, first=bytes(5 << 20), second=b"one\n")
    with pytest.raises(
        UserError, match="CCMatrix.de-en.de of .* is no text: a line of more than 2"
    ):
        items(tmp_path)


@pytest.mark.parametrize(
    "members, message",
    [
        ({}, "x.zip holds no bitext .* but nothing"),
        ({"README": "", "de.tsv": ""}, "x.zip holds no bitext .* but README, de.tsv; move it away"),
        ({"C.de-en.de": "a\n", "C.de-en.ids": ""}, "has C.de-en.de, but not its other language"),
        ({"C.de-en.en": "a\n", "README": ""}, "has C.de-en.en, but not its other language"),
        ({"C.de-en.de": "a\n", "C.de-en.en": ""}, "C.de-en.en of .*x.zip is empty; download"),
        ({"../C.de-en.de": "a\n", "../C.de-en.en": "a\n"}, r"'\.\./C.de-en.de', a place outside"),
        ({"/C.de-en.de": "a\n", "/C.de-en.en": "a\n"}, "'/C.de-en.de', a place outside"),
        ({"C.german-en.german": "a\n", "C.german-en.en": "a\n"}, "such as de, got 'german' in C.g"),
    ],
)
def test_zips_that_are_none_of_opus(tmp_path, members, message):
    write_zip(tmp_path / "x.zip", members)
    with pytest.raises(UserError, match=message):
        items(tmp_path)


def test_an_encrypted_zip(tmp_path):
    path = moses(tmp_path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    data[entry + 8] |= 1  # the flags of the third file
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="CCMatrix.de-en.de is encrypted"):
        items(tmp_path)


def test_a_bitext_that_is_there_twice(tmp_path):
    moses(tmp_path)
    (tmp_path / "b").mkdir()
    moses(tmp_path / "b")
    with pytest.raises(UserError, match="CCMatrix.de-en is in .*zip and .*/b/de-en.txt.zip; keep"):
        items(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no bitext in .*; expected zips of OPUS's Moses format"):
        items(tmp_path)
    for gone in (tmp_path / "gone", ""):
        with pytest.raises(UserError, match="expected raw_dir to be a zip of OPUS or a folder"):
            opus.plan(str(gone), "train")


# --- as a conversion ------------------------------------------------------------------------------


def convert(raw, out, **kwargs):
    return conversion.convert(
        opus, "ccmatrix", str(raw), str(out), "train", processes=1, progress=str, **kwargs
    )


def test_the_ledger_is_whole(tmp_path, monkeypatch):
    assert DATASETS["ccmatrix"] is DATASETS["opus"] is opus
    monkeypatch.setattr(opus, "_BYTES_PER_UNIT", (12, 12))
    moses(tmp_path, first=ODD[0], second=ODD[1])
    manifest = convert(tmp_path, tmp_path / "out", options={"drop_identical": True})
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (7, 4)
    assert ledger["dropped"] == {"both sides the same": 1, "empty side": 1, "not UTF-8": 1}
    assert ledger["examples"]["empty side"] == ["CCMatrix.de-en:3"]
    assert ledger["kept"] + sum(ledger["dropped"].values()) == ledger["read"]
    assert (manifest["languages"], len(manifest["shards"])) == ({"de": 4, "en": 4}, 4)
    found = list(RecordSet.open(tmp_path / "out/train"))
    assert found == [record for record in ODD_KEPT if record.id != "CCMatrix.de-en:4"]


@pytest.mark.parametrize("unpacked", [False, True])
def test_another_text_of_the_same_size_is_noticed(tmp_path, unpacked):
    def write(first):
        path = moses(tmp_path, first=first)
        if unpacked:
            zipfile.ZipFile(path).extractall(tmp_path)
            path.unlink()

    write(b"eins\nzwei\n")
    convert(tmp_path, tmp_path / "out")
    write(b"eins\nzwei\n")
    convert(tmp_path, tmp_path / "out")
    write(b"eins\ndrei\n")
    with pytest.raises(UserError, match="another recipe"):
        convert(tmp_path, tmp_path / "out")
