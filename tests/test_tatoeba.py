import os
import pickle

import pytest
from conftest import ROOT

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS, tatoeba
from tf_mural.errors import UserError

OFFICIAL = os.path.join(ROOT, "..", "shared", "data", "tatoeba")


def write(folder, code, text, english):
    (folder / f"tatoeba.{code}-eng.{code}").write_bytes(text.encode())
    (folder / f"tatoeba.{code}-eng.eng").write_bytes(english.encode())


@pytest.fixture
def raw(tmp_path):
    write(tmp_path, "deu", "eins\nzw\u2028ei \n", "one\ntwo\n")
    write(tmp_path, "cmn", "一\r\n\r\n三", "one\r\ntwo\r\nthree")
    (tmp_path / "README.md").write_text("read me\n")
    (tmp_path / "LICENSE").write_text("as it says\n")
    return tmp_path


def items(raw, **options):
    units = tatoeba.plan(str(raw), "test", **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in tatoeba.read(unit)]


CMN = [
    Record("tatoeba.cmn-eng:1", texts=(("cmn", "一"), ("eng", "one"))),
    Dropped("empty side", "tatoeba.cmn-eng:2"),
    Record("tatoeba.cmn-eng:3", texts=(("cmn", "三"), ("eng", "three"))),
]
DEU = [
    Record("tatoeba.deu-eng:1", texts=(("deu", "eins"), ("eng", "one"))),
    Record("tatoeba.deu-eng:2", texts=(("deu", "zw\u2028ei"), ("eng", "two"))),
]


def test_pairs_by_language(raw):
    assert items(raw) == CMN + DEU
    assert items(raw, languages=("deu",)) == DEU
    with pytest.raises(UserError, match="unknown language .* 'de'; known: cmn, deu"):
        items(raw, languages=("de",))
    with pytest.raises(UserError, match="unknown split of tatoeba 'train'; known: test"):
        tatoeba.plan(str(raw), "train")


def test_a_clone_of_laser(raw, tmp_path):
    folder = tmp_path / "LASER" / "data" / "tatoeba" / "v1"
    folder.mkdir(parents=True)
    write(folder, "fra", "un\n", "one\n")
    (one,) = items(tmp_path / "LASER")
    assert one.texts == (("fra", "un"), ("eng", "one"))


def test_units_part_the_languages(raw, monkeypatch):
    monkeypatch.setattr(tatoeba, "_LANGUAGES_PER_UNIT", 1)
    units = tatoeba.plan(str(raw), "test")
    assert [list(tatoeba.read(unit)) for unit in units] == [CMN, DEU]


@pytest.mark.parametrize(
    "text, english, message",
    [
        ("eins\n", "one\ntwo\n", "deu-eng.deu has 1 lines and .*deu-eng.eng 2; expected as many"),
        ("eins\nzwei\n", "one\n", "deu-eng.deu has 2 lines and .*deu-eng.eng 1"),
        ("", "", "deu-eng.deu has 0 lines and .*deu-eng.eng 0; .* and some"),
    ],
)
def test_files_of_another_length(raw, text, english, message):
    write(raw, "deu", text, english)
    with pytest.raises(UserError, match=message):
        items(raw)


def test_files_that_are_broken_or_missing(raw):
    (raw / "tatoeba.deu-eng.eng").write_bytes(b"one\ntw\xe4\n")
    with pytest.raises(UserError, match=r"deu-eng.eng, line 2: expected UTF-8, got b'\\xe4'"):
        items(raw)
    (raw / "tatoeba.deu-eng.eng").unlink()
    with pytest.raises(UserError, match="deu-eng.eng is missing, but .*deu-eng.deu is there"):
        items(raw)
    write(raw, "deu", "eins\n", "one\n")
    (raw / "tatoeba.deu-eng.deu").unlink()
    with pytest.raises(UserError, match="deu-eng.deu is missing, but .*deu-eng.eng is there"):
        items(raw)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no files such as tatoeba.deu-eng.deu in"):
        items(tmp_path)
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            tatoeba.plan(gone, "test")


def convert(raw, out):
    return conversion.convert(
        DATASETS["tatoeba"], "tatoeba", str(raw), str(out), "test", processes=1, progress=str
    )


def test_the_ledger_is_whole(raw, tmp_path):
    manifest = convert(raw, tmp_path / "out")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (5, 4, {"empty side": 1})
    assert manifest["languages"] == {"cmn": 2, "deu": 2, "eng": 4}
    assert list(RecordSet.open(tmp_path / "out/test")) == [CMN[0], CMN[2], *DEU]
    write(raw, "deu", "eins\nDREI\n", "one\ntwo\n")
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out")


def test_the_official_files():
    if not os.path.isdir(OFFICIAL):
        pytest.skip(f"{OFFICIAL} is not there")
    found = items(OFFICIAL)
    assert len(found) == 88_877 and all(isinstance(item, Record) for item in found)
    counts = {}
    for record in found:
        (code, _), (english, _) = record.texts
        assert english == "eng"
        counts[code] = counts.get(code, 0) + 1
    assert len(counts) == 112
    assert sum(count == 1000 for count in counts.values()) == 72
    assert min(counts.items(), key=lambda item: item[1]) == ("tzl", 104)
    assert found[0].texts == (
        ("afr", "Haar Engels is uitstekend."),
        ("eng", "Her English is excellent."),
    )
