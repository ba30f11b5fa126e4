import os

import pytest
from conftest import ROOT
from helpers.datasets import convert, read_items

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import tatoeba
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
    return read_items(tatoeba, raw, "test", **options)


CMN = [
    Record("tatoeba.cmn-eng:1", texts=(("cmn", "一"), ("eng", "one"))),
    Skipped("empty side", "tatoeba.cmn-eng:2"),
    Record("tatoeba.cmn-eng:3", texts=(("cmn", "三"), ("eng", "three"))),
]
DEU = [
    Record("tatoeba.deu-eng:1", texts=(("deu", "eins"), ("eng", "one"))),
    Record("tatoeba.deu-eng:2", texts=(("deu", "zw\u2028ei"), ("eng", "two"))),
]


def test_records_are_pairs_of_the_selected_languages(raw):
    assert items(raw) == CMN + DEU
    assert items(raw, languages=("deu",)) == DEU
    with pytest.raises(UserError, match="unknown language .* 'de'; known: cmn, deu"):
        items(raw, languages=("de",))
    with pytest.raises(UserError, match="unknown split of tatoeba 'train'; known: test"):
        tatoeba.plan(str(raw), "train")


def test_a_clone_of_laser_is_a_raw_folder(raw, tmp_path):
    folder = tmp_path / "LASER" / "data" / "tatoeba" / "v1"
    folder.mkdir(parents=True)
    write(folder, "fra", "un\n", "one\n")
    (record,) = items(tmp_path / "LASER")
    assert record.texts == (("fra", "un"), ("eng", "one"))


def test_units_divide_the_languages(raw, monkeypatch):
    monkeypatch.setattr(tatoeba, "_LANGUAGES_PER_UNIT", 1)
    units = tatoeba.plan(str(raw), "test")
    assert [list(tatoeba.read(unit)) for unit in units] == [CMN, DEU]


@pytest.mark.parametrize(
    "text, english, message",
    [
        ("eins\n", "one\ntwo\n", "deu-eng.deu has 1 lines and .*deu-eng.eng 2; expected the same"),
        ("eins\nzwei\n", "one\n", "deu-eng.deu has 2 lines and .*deu-eng.eng 1"),
        ("", "", "deu-eng.deu has 0 lines and .*deu-eng.eng 0; .* at least one"),
    ],
)
def test_files_of_different_lengths_are_refused(raw, text, english, message):
    write(raw, "deu", text, english)
    with pytest.raises(UserError, match=message):
        items(raw)


def test_corrupt_or_missing_files_are_named(raw):
    (raw / "tatoeba.deu-eng.eng").write_bytes(b"one\ntw\xe4\n")
    with pytest.raises(UserError, match=r"deu-eng.eng, line 2: expected UTF-8, got b'\\xe4'"):
        items(raw)
    (raw / "tatoeba.deu-eng.eng").unlink()
    with pytest.raises(UserError, match="deu-eng.eng is missing, but .*deu-eng.deu exists"):
        items(raw)
    write(raw, "deu", "eins\n", "one\n")
    (raw / "tatoeba.deu-eng.deu").unlink()
    with pytest.raises(UserError, match="deu-eng.deu is missing, but .*deu-eng.eng exists"):
        items(raw)


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="no files such as tatoeba.deu-eng.deu in"):
        items(tmp_path)
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            tatoeba.plan(raw_dir, "test")


def test_a_conversion_counts_every_line_and_notices_changes(raw, tmp_path):
    manifest = convert("tatoeba", raw, tmp_path / "out", "test")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (5, 4, {"empty side": 1})
    assert manifest["languages"] == {"cmn": 2, "deu": 2, "eng": 4}
    assert list(RecordSet.open(tmp_path / "out/test")) == [CMN[0], CMN[2], *DEU]
    write(raw, "deu", "eins\nDREI\n", "one\ntwo\n")
    with pytest.raises(UserError, match="another recipe"):
        convert("tatoeba", raw, tmp_path / "out", "test")


def test_the_official_files_give_88877_pairs_in_112_languages():
    if not os.path.isdir(OFFICIAL):
        pytest.skip(f"{OFFICIAL} does not exist")
    records = items(OFFICIAL)
    assert len(records) == 88_877
    assert all(isinstance(record, Record) for record in records)
    counts = {}
    for record in records:
        (code, _), (english, _) = record.texts
        assert english == "eng"
        counts[code] = counts.get(code, 0) + 1
    assert len(counts) == 112
    assert sum(count == 1000 for count in counts.values()) == 72
    assert min(counts.items(), key=lambda item: item[1]) == ("tzl", 104)
    assert records[0].texts == (
        ("afr", "Haar Engels is uitstekend."),
        ("eng", "Her English is excellent."),
    )
