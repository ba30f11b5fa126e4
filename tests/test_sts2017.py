import collections
import os

import pytest
from conftest import ROOT
from helpers.archives import zip_bytes
from helpers.datasets import convert, read_items
from helpers.sts2017_files import TRACKS

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import sts2017
from tf_mural.errors import UserError

OFFICIAL = os.path.join(ROOT, "..", "shared", "data", "sts2017")
EXPECTED = [
    Record("STS.en-ar:1", texts=(("en", "two men"), ("ar", "رجلان")), score=1.4),
    Record("STS.en-ar:2", texts=(("en", "a dog"), ("ar", "كلب")), score=5.0),
    Record("STS.en-en:1", texts=(("en", "a"), ("en", "b")), score=0.0),
    Skipped("no score", "STS.en-en:2"),
    Skipped("empty side", "STS.en-en:3"),
    Skipped("no score", "STS.en-en:4"),
    Record("STS.en-en:5", texts=(("en", "h\u2028i"), ("en", "j")), score=2.5),
    Record("STS.es-en:1", texts=(("es", "uno"), ("en", "one")), score=4.8),
]


def test_the_only_split_is_test(tmp_path):
    with pytest.raises(UserError, match="unknown split of sts2017 'train'; known: test"):
        sts2017.plan(str(tmp_path), "train")


def write_zip(path, files):
    path.write_bytes(zip_bytes(files))
    return path


@pytest.fixture
def archive(tmp_path):
    files = {f"STS2017-extended/{name}": text for name, text in TRACKS.items()}
    files["__MACOSX/STS2017-extended/._STS.en-en.txt"] = b"\x00\x05"
    files["STS2017-extended/Readme.txt"] = "read me"
    return write_zip(tmp_path / "STS2017-extended.zip", files)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw" / "STS2017-extended"
    folder.mkdir(parents=True)
    for name, text in TRACKS.items():
        (folder / name).write_bytes(text.encode())
    return folder


def items(raw, **options):
    return read_items(sts2017, raw, "test", **options)


def test_a_zip_and_a_folder_give_the_same_records(archive, folder):
    for raw in (archive, archive.parent, folder, folder.parent):
        assert items(raw) == EXPECTED
    assert sts2017.fingerprint(archive, "test") == sts2017.fingerprint(folder, "test")


def test_the_option_tracks_takes_languages_in_either_order(folder):
    assert items(folder, tracks=("en-es",)) == EXPECTED[-1:]
    assert items(folder, tracks=("es-en", "ar-en", "en-es")) == [*EXPECTED[:2], EXPECTED[-1]]
    with pytest.raises(UserError, match="unknown track 'en-fr'"):
        items(folder, tracks=("en-fr",))


@pytest.mark.parametrize(
    "line, message",
    [
        ("a\tb\tc\t1", r"en-en.txt, line 2: expected sentence<tab>.*, got 4 columns: 'a\\tb\\tc"),
        ("a", "line 2: expected sentence<tab>.*, got 1 columns"),
        ("", "line 2: expected sentence<tab>.*, got 1 columns"),
        ("a\tb\thigh", "line 2: expected a score from 0 to 5, got 'high'"),
        ("a\tb\t5.1", "line 2: expected a score from 0 to 5, got '5.1'"),
        ("a\tb\t-1", "line 2: expected a score from 0 to 5, got '-1'"),
        ("a\tb\tnan", "line 2: expected a score from 0 to 5, got 'nan'"),
    ],
)
def test_lines_of_another_format_are_refused(folder, line, message):
    (folder / "STS.en-en.txt").write_text(f"a\tb\t1\n{line}\n")
    with pytest.raises(UserError, match=message):
        items(folder)


def test_corrupt_files_are_refused(folder, archive):
    (folder / "STS.en-en.txt").write_bytes(b"a\tb\t1\nc\t\xe4\t2\n")
    with pytest.raises(UserError, match=r"STS.en-en.txt, line 2: expected UTF-8, got b'\\xe4'"):
        items(folder)
    (folder / "STS.en-en.txt").write_bytes(b"")
    with pytest.raises(UserError, match="STS.en-en.txt is empty"):
        items(folder)
    data = archive.read_bytes()
    for corrupt in (data[:-30], data[:50], b"", data[:60] + bytes(9) + data[69:]):
        archive.write_bytes(corrupt)
        with pytest.raises(UserError, match="STS2017-extended.zip does not unpack .*; download"):
            items(archive)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"readme.txt": ""}, "no files such as STS.en-en.txt in .*zip; download STS2017-extended"),
        ({"../STS.en-en.txt": "a\tb\t1\n"}, r"contains '\.\./STS.en-en.txt', a path outside"),
        ({"/STS.en-en.txt": "a\tb\t1\n"}, "contains '/STS.en-en.txt', a path outside of"),
        ({"a/STS.en-en.txt": "", "b/STS.en-en.txt": ""}, "contains a/STS.en-en.txt and b/STS.en-e"),
    ],
)
def test_zips_with_other_contents_are_refused(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        items(write_zip(tmp_path / "x.zip", files))


def test_a_folder_without_tracks_is_refused(tmp_path):
    with pytest.raises(UserError, match="no files such as STS.en-en.txt in"):
        items(tmp_path)
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, or STS2017-ext"):
            sts2017.plan(raw_dir, "test")


def test_a_conversion_counts_every_line_and_notices_changes(folder, tmp_path):
    manifest = convert("sts2017", folder, tmp_path / "out", "test")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (8, 5)
    assert ledger["dropped"] == {"empty side": 1, "no score": 2}
    records = list(RecordSet.open(tmp_path / "out/test"))
    expected = [item for item in EXPECTED if isinstance(item, Record)]
    assert [(r.id, r.texts) for r in records] == [(r.id, r.texts) for r in expected]
    assert [record.score for record in records] == pytest.approx([1.4, 5, 0, 2.5, 4.8])
    (folder / "STS.es-en.txt").write_text("uno\tone\t4.7\n")
    with pytest.raises(UserError, match="another recipe"):
        convert("sts2017", folder, tmp_path / "out", "test")


def test_the_official_files_give_250_pairs_in_each_of_ten_tracks():
    if not os.path.isdir(OFFICIAL):
        pytest.skip(f"{OFFICIAL} does not exist")
    records = items(OFFICIAL)
    tracks = collections.Counter(tuple(code for code, _ in record.texts) for record in records)
    pairs = "ar-ar en-ar en-de en-en en-tr es-en es-es fr-en it-en nl-en"
    assert tracks == {tuple(pair.split("-")): 250 for pair in pairs.split()}
    by_id = {record.id: record for record in records}
    assert by_id["STS.es-en:2"] == Record(
        "STS.es-en:2",
        texts=(("es", "Dos niños están bailando"), ("en", "Kids are dancing.")),
        score=4.4,
    )
    assert by_id["STS.en-ar:1"].texts == (("en", "two men are crying"), ("ar", "رجلان يضحكان."))
