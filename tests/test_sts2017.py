import collections
import os
import pickle
import zipfile

import pytest
from conftest import ROOT

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS, sts2017
from tf_mural.errors import UserError

OFFICIAL = os.path.join(ROOT, "..", "shared", "data", "sts2017")
FILES = {
    "STS.en-ar.txt": "two men\tرجلان\t1.4\r\na dog\tكلب\t5",
    "STS.en-en.txt": "a \tb\t0.0\nc\td\n\te\t2\nf\tg\t\nh\u2028i\tj\t2.5\n",
    "STS.es-en.txt": "uno\tone\t4.8\n",
}
EXPECTED = [
    Record("STS.en-ar:1", texts=(("en", "two men"), ("ar", "رجلان")), score=1.4),
    Record("STS.en-ar:2", texts=(("en", "a dog"), ("ar", "كلب")), score=5.0),
    Record("STS.en-en:1", texts=(("en", "a"), ("en", "b")), score=0.0),
    Dropped("no score", "STS.en-en:2"),
    Dropped("empty side", "STS.en-en:3"),
    Dropped("no score", "STS.en-en:4"),
    Record("STS.en-en:5", texts=(("en", "h\u2028i"), ("en", "j")), score=2.5),
    Record("STS.es-en:1", texts=(("es", "uno"), ("en", "one")), score=4.8),
]


def test_it_has_one_split(tmp_path):
    with pytest.raises(UserError, match="unknown split of sts2017 'train'; known: test"):
        sts2017.plan(str(tmp_path), "train")


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def archive(tmp_path):
    files = {f"STS2017-extended/{name}": text for name, text in FILES.items()}
    files["__MACOSX/STS2017-extended/._STS.en-en.txt"] = b"\x00\x05"
    files["STS2017-extended/Readme.txt"] = "read me"
    return write_zip(tmp_path / "STS2017-extended.zip", files)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw" / "STS2017-extended"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_bytes(text.encode())
    return folder


def items(raw, **options):
    units = sts2017.plan(str(raw), "test", **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in sts2017.read(unit)]


def test_a_zip_and_a_folder_say_the_same(archive, folder):
    for raw in (archive, archive.parent, folder, folder.parent):
        assert items(raw) == EXPECTED
    assert sts2017.fingerprint(archive, "test") == sts2017.fingerprint(folder, "test")


def test_tracks_are_a_choice_in_either_order(folder):
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
        ("a\tb\thigh", "line 2: expected a score of 0 to 5, got 'high'"),
        ("a\tb\t5.1", "line 2: expected a score of 0 to 5, got '5.1'"),
        ("a\tb\t-1", "line 2: expected a score of 0 to 5, got '-1'"),
        ("a\tb\tnan", "line 2: expected a score of 0 to 5, got 'nan'"),
    ],
)
def test_lines_that_are_no_rows(folder, line, message):
    (folder / "STS.en-en.txt").write_text(f"a\tb\t1\n{line}\n")
    with pytest.raises(UserError, match=message):
        items(folder)


def test_files_that_are_broken(folder, archive):
    (folder / "STS.en-en.txt").write_bytes(b"a\tb\t1\nc\t\xe4\t2\n")
    with pytest.raises(UserError, match=r"STS.en-en.txt, line 2: expected UTF-8, got b'\\xe4'"):
        items(folder)
    (folder / "STS.en-en.txt").write_bytes(b"")
    with pytest.raises(UserError, match="STS.en-en.txt is empty"):
        items(folder)
    whole = archive.read_bytes()
    for broken in (whole[:-30], whole[:50], b"", whole[:60] + bytes(9) + whole[69:]):
        archive.write_bytes(broken)
        with pytest.raises(UserError, match="STS2017-extended.zip does not unpack .*; download"):
            items(archive)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"readme.txt": ""}, "no files such as STS.en-en.txt in .*zip; download STS2017-extended"),
        ({"../STS.en-en.txt": "a\tb\t1\n"}, r"has '\.\./STS.en-en.txt', a place outside of it"),
        ({"/STS.en-en.txt": "a\tb\t1\n"}, "has '/STS.en-en.txt', a place outside of it"),
        ({"a/STS.en-en.txt": "", "b/STS.en-en.txt": ""}, "has a/STS.en-en.txt and b/STS.en-en.tx"),
    ],
)
def test_zips_that_hold_something_else(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        items(write_zip(tmp_path / "x.zip", files))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no files such as STS.en-en.txt in"):
        items(tmp_path)
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, or STS2017-ext"):
            sts2017.plan(gone, "test")


def convert(raw, out):
    return conversion.convert(
        DATASETS["sts2017"], "sts2017", str(raw), str(out), "test", processes=1, progress=str
    )


def test_the_ledger_is_whole(folder, tmp_path):
    manifest = convert(folder, tmp_path / "out")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (8, 5)
    assert ledger["dropped"] == {"empty side": 1, "no score": 2}
    found = list(RecordSet.open(tmp_path / "out/test"))
    kept = [item for item in EXPECTED if isinstance(item, Record)]
    assert [(r.id, r.texts) for r in found] == [(r.id, r.texts) for r in kept]
    assert [r.score for r in found] == pytest.approx([1.4, 5, 0, 2.5, 4.8])
    (folder / "STS.es-en.txt").write_text("uno\tone\t4.7\n")
    with pytest.raises(UserError, match="another recipe"):
        convert(folder, tmp_path / "out")


def test_the_official_files():
    if not os.path.isdir(OFFICIAL):
        pytest.skip(f"{OFFICIAL} is not there")
    found = items(OFFICIAL)
    tracks = collections.Counter(tuple(code for code, _ in item.texts) for item in found)
    pairs = "ar-ar en-ar en-de en-en en-tr es-en es-es fr-en it-en nl-en"
    assert tracks == {tuple(pair.split("-")): 250 for pair in pairs.split()}
    by_id = {item.id: item for item in found}
    assert by_id["STS.es-en:2"] == Record(
        "STS.es-en:2",
        texts=(("es", "Dos niños están bailando"), ("en", "Kids are dancing.")),
        score=4.4,
    )
    assert by_id["STS.en-ar:1"].texts == (("en", "two men are crying"), ("ar", "رجلان يضحكان."))
