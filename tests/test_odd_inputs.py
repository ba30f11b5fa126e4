"""Inputs that are invalid in rare ways are refused or counted; see `test_fuzzing`."""

import io
import json
import os
import tarfile

import pytest
from helpers.crawl_files import RED, write_tar
from helpers.datasets import convert, read_items, read_parts
from helpers.files import write_files

from tf_mural.conversion.ledger import format_summary
from tf_mural.data.records import Record, RecordSet, Skipped, deserialize, serialize
from tf_mural.datasets import archives, bounded_read, crawl, table
from tf_mural.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A folder with the image a.jpg."""
    return write_files(tmp_path / "raw", {"a.jpg": RED})


def read(folder, content, name="t.jsonl", **options):
    write_files(folder, {name: content})
    return read_items(table, folder, "train", file=name, **options)


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- tables ---------------------------------------------------------------------------------------


def test_json_that_is_nested_too_deeply_is_an_invalid_row(folder):
    row = {"image": "a.jpg", "en": "red"}
    content = jsonl(row) + '{"en": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
    assert read(folder, content) == [
        Record("a.jpg", (RED,), (("en", "red"),)),
        Skipped("JSON is nested too deeply", "line 2"),
    ]
    # Python parses this row, unless many functions call each other.
    deep = jsonl(row, {"image": "a.jpg", "de": "rot"}).replace('"rot"', "[" * 900 + "]" * 900)
    assert read(folder, deep)[1:] == [Skipped("JSON is nested too deeply", "line 2")]


def test_brackets_in_strings_are_not_nested(folder):
    text = '["]' * 150
    (record,) = read(folder, jsonl({"image": "a.jpg", "en": text, "de": ["rot", "grün"]}))
    assert record.texts == (("en", text), ("de", "rot"), ("de", "grün"))


def test_captions_of_coco_without_keys_are_refused(folder):
    with pytest.raises(UserError, match="c.json: expected columns named by language codes"):
        read(folder, json.dumps({"images": [], "annotations": []}), "c.json")


@pytest.mark.parametrize("content", ["\nimage,en\na.jpg,red\n", ",\na.jpg,red\n", "  \n"])
def test_a_table_without_names_of_columns_is_refused(folder, content):
    with pytest.raises(UserError, match="t.csv, line 1: expected a header"):
        read(folder, content, "t.csv")


def test_json_lines_that_are_not_utf_8_are_refused(folder):
    with pytest.raises(UserError, match=r"t.jsonl, line 1: expected UTF-8, got b'\\xe9'"):
        read(folder, b'{"image": "a.jpg", "fr": "caf\xe9"}\n')


def test_columns_of_the_same_name_are_all_counted(folder):
    write_files(folder, {"t.csv": "image,en,image,en\na.jpg,red,b.jpg,crimson\n"})
    assert read_parts(table, folder, "train", file="t.csv")["columns"] == {
        None: (3, ["image", "en", "en"]),
        "an earlier column has their name": (1, ["image"]),
    }
    (record,) = read_items(table, folder, "train", file="t.csv")
    assert record.texts == (("en", "red"), ("en", "crimson"))


def test_texts_next_to_an_object_of_texts_are_counted(folder):
    rows = [{"image": "a.jpg", "captions": {"en": "red"}, "de": "rot", "alt": "ruddy"}]
    text, record = read(folder, jsonl(*rows))
    assert text == Skipped("text next to an object of texts", "line 1: de: rot", text_only=True)
    assert record.texts == (("en", "red"),)
    *_, record = read(folder, jsonl(*rows), columns=("alt:en",))
    assert record.texts == (("en", "red"), ("en", "ruddy"))


# --- names that are not valid Unicode -------------------------------------------------------------


def test_lone_surrogates_in_json_stay_in_no_id_and_no_manifest(folder, tmp_path):
    rows = [
        {"id": "x\ud800", "image": "a.jpg", "captions": {"en": "red", "\ud800": "?"}, "u\ud800": 1},
        {"id": "y", "image": "b\ud800.jpg", "captions": {"en": "blue"}},
    ]
    write_files(folder, {"t.jsonl": jsonl(*rows)})
    manifest = convert("table", folder, tmp_path / "out", "train")
    (record,) = RecordSet.open(tmp_path / "out/train")
    assert (record.id, record.texts) == ("x\\ud800", (("en", "red"),))
    assert "line 2: b?.jpg" in manifest["ledger"]["examples"]["image missing"]
    assert manifest["ledger"]["parts"]["columns"]["examples"] == {"they are not languages": ["u?"]}
    assert format_summary([manifest]).encode()


def test_ids_with_lone_surrogates_stay_different():
    ids = [deserialize(serialize(Record(name))).id for name in ("\ud800", "\ud801", "é")]
    assert ids == ["\\ud800", "\\ud801", "é"]


def test_names_of_files_that_are_not_utf_8_are_read(tmp_path):
    raw = tmp_path / "raw"
    write_tar(raw / "t.tar", [("a.jpg", RED), ("a.txt", b"red")])
    os.rename(raw / "t.tar", os.fsencode(raw) + b"/t\xff.tar")
    convert("crawl", raw, tmp_path / "out", "train")
    (record,) = RecordSet.open(tmp_path / "out/train")
    assert record.id == "t\\udcff:a" and record.texts == (("en", "red"),)


# --- tars -----------------------------------------------------------------------------------------


def tar_with_header(path, change):
    """Writes a tar of two valid samples and of a member whose header `change` has damaged."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        pair = (("a.jpg", RED), ("a.txt", b"red"))
        for name, data in (*pair, ("b.jpg", RED), ("b.txt", b"blue"), ("c.jpg", RED)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name == "c.jpg":
                change(info)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "headers",
    [{"size": "-512"}, {"size": str(1 << 70)}, {"GNU.sparse.map": "x"}],
)
def test_a_tar_with_invalid_numbers_is_cut_short(tmp_path, headers):
    os.mkdir(tmp_path / "raw")
    path = tmp_path / "raw/t.tar"
    tar_with_header(path, lambda info: info.pax_headers.update(headers))
    first, second, damage = read_items(crawl, tmp_path / "raw", "train")
    assert first == Record("t:a", (RED,), (("en", "red"),))
    assert second == Record("t:b", (RED,), (("en", "blue"),))
    assert damage.reason == "tar is cut short or broken"
    with pytest.raises(UserError, match="does not unpack"):
        archives.list_tar(str(path))


def test_captions_under_other_keys_are_counted(tmp_path):
    captions = {"caption": "red", "text": "crimson", "de": "rot", "id": "x", "width": 6}
    files = [("a.jpg", RED), ("a.json", json.dumps(captions).encode())]
    write_tar(tmp_path / "t.tar", files)
    *texts, record = read_items(crawl, tmp_path, "train")
    assert record == Record("t:a", (RED,), (("en", "red"),))
    reason = "text next to a caption"
    assert texts == [
        Skipped(reason, f"t:a: {example}", text_only=True)
        for example in ("text: 'crimson'", "de: 'rot'")
    ]


# --- Parquet --------------------------------------------------------------------------------------


def write_parquet(path, **columns):
    pa = pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    import pyarrow.parquet

    os.makedirs(path.parent, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path)


def test_images_that_are_not_bytes_are_counted(tmp_path):
    write_parquet(tmp_path / "00000.parquet", jpg=["a.jpg", None], txt=["red", "blue"])
    assert read_items(crawl, tmp_path, "train") == [
        Skipped("image is not stored as bytes", "00000:000000000"),
        Skipped("no image", "00000:000000001"),
    ]


def test_parquet_with_times_that_python_lacks_is_refused(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="Parquet is written with pyarrow")
    late = pa.array([10**15], pa.timestamp("s"))
    write_parquet(tmp_path / "crawl/00000.parquet", jpg=[RED], txt=["red"], url=late)
    (item,) = read_items(crawl, tmp_path / "crawl", "train")
    assert item.reason == "parquet is cut short or broken"
    write_parquet(tmp_path / "table/t.parquet", image=[RED], en=["red"], time=late)
    with pytest.raises(UserError, match="t.parquet is cut short or no Parquet file"):
        read_items(table, tmp_path / "table", "train")


def test_an_error_of_the_user_in_the_body_is_not_taken_for_a_broken_file(tmp_path):
    write_parquet(tmp_path / "t.parquet", en=["red"])
    with pytest.raises(UserError, match="^another error$"):
        with bounded_read.open_parquet(tmp_path / "t.parquet"):
            raise UserError("another error")
