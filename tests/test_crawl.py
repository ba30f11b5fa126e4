"""Images with the captions that lie beside them, in every format of img2dataset."""

import io
import json
import pickle
import struct
import sys
import tarfile

import crawl_files
import numpy as np
import pytest
from crawl_files import BLUE, GREEN, RED, failed, members, picture, row, write, write_tar
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import crawl
from tf_mural.datasets.crawl import shards, tars
from tf_mural.errors import UserError

FORMATS = ["webdataset", "files", "parquet", "tfrecord"]
NOT_THERE = "image was not downloaded (failed_to_download)"


def items(raw, split="train", **options):
    units = crawl.plan(str(raw), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in crawl.read(unit)]


def record(name, image, text, language="en"):
    return Record(name, (image,), ((language, text),))


ROWS = [
    row("000000000", RED, "a red thing"),
    failed("000000001"),
    row("000000002", GREEN, " grün, 緑\n"),
    row("000000003", BLUE, None),
    failed("000000004", status="failed_to_resize", error="Image decoding error"),
]
KEPT = [
    record("00000:000000000", RED, "a red thing"),
    record("00000:000000002", GREEN, "grün, 緑"),
]
LOST = [
    Dropped("no caption", f"00000:000000003, {crawl_files.url('000000003')}"),
    Dropped(
        NOT_THERE, f"00000:000000001, {crawl_files.url('000000001')}: HTTP Error 404: Not Found"
    ),
    Dropped(
        "image was not downloaded (failed_to_resize)",
        f"00000:000000004, {crawl_files.url('000000004')}: Image decoding error",
    ),
]


def parted(found):
    kept = [item for item in found if isinstance(item, Record)]
    dropped = [item for item in found if isinstance(item, Dropped)]
    return kept, sorted(dropped, key=lambda item: LOST.index(item) if item in LOST else -1)


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_gives_the_same(tmp_path, form):
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    assert parted(items(write(tmp_path, form, ROWS))) == (KEPT, LOST)


@pytest.mark.parametrize("form", ["webdataset", "files", "tfrecord"])
def test_without_parquet_beside_there_are_no_dead_links(tmp_path, form, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert parted(items(write(tmp_path, form, ROWS, told=False))) == (KEPT, LOST[:1])


@pytest.mark.parametrize("form", FORMATS)
def test_png_and_webp(tmp_path, form):
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    for kind in ("png", "webp"):
        data = picture((255, 0, 0), kind.upper())
        found = items(write(tmp_path / kind, form, [row("000000000", data, "red")], kind=kind))
        image = found[0].images[0]
        assert found == [record("00000:000000000", image, "red")]
        assert Image.open(io.BytesIO(image)).format == "PNG"  # WebP is none that TensorFlow reads.
        assert image == data or kind == "webp"
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)
        assert pixels.shape == (4, 6, 3) and np.abs(pixels - (255, 0, 0)).max() <= 2


def test_options(tmp_path):
    write(tmp_path / "here", "webdataset", ROWS[:1], told=False)
    write(tmp_path / "there", "webdataset", [row("000000000", BLUE, "blau")], told=False)
    assert [item.id for item in items(tmp_path)] == [
        "here/00000:000000000",
        "there/00000:000000000",
    ]
    found = items(tmp_path, images=("there",), language="de")
    assert found == [record("00000:000000000", BLUE, "blau", "de")]
    with pytest.raises(UserError, match="expected a language code such as en, got '3'"):
        items(tmp_path, language="3")
    with pytest.raises(UserError, match="expected images to be a folder; '.*/gone' is none"):
        items(tmp_path, images=("gone",))
    with pytest.raises(UserError, match="unknown split of crawl 'dev'; known: train, val, test"):
        items(tmp_path, "dev")


def test_splits_by_the_names_of_files(tmp_path):
    names = ["cc3m-train-0000.tar", "cc3m-validation-0000.tar", "more/00000.tar", "val/train/a.tar"]
    for name in names:
        write_tar(tmp_path / name, members([row("0", RED, name)]))
    (tmp_path / "_SUCCESS").write_text("")
    assert crawl.splits(str(tmp_path)) == ("train", "val")
    assert [item.texts[0][1] for item in items(tmp_path)] == [names[0], names[2], names[3]]
    assert [item.texts[0][1] for item in items(tmp_path, "val")] == [names[1]]
    with pytest.raises(UserError, match="no file of images in .* is of the split test by its name"):
        items(tmp_path, "test")


def test_folders_of_other_makers(tmp_path):
    """No Parquet, no statistics, at any depth; record sets and hidden folders are passed over."""
    for name in ("b.jpg", "a/c.PNG", "a/deep/d.jpeg", ".tmp/e.jpg", "set/f.jpg", "none/g.txt"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(RED)
        (tmp_path / "raw" / name).with_suffix(".txt").write_text(name)
    (tmp_path / "raw" / "set" / "manifest.json").write_text("{}")
    assert items(tmp_path / "raw") == [
        record("a:c", RED, "a/c.PNG"),
        record("a/deep:d", RED, "a/deep/d.jpeg"),
        record("raw:b", RED, "b.jpg"),
    ]


# --- tars that others host ------------------------------------------------------------------------


def test_members_of_tars(tmp_path):
    """Order, folders, other files, upper case, and names that would leave a folder."""
    files = [
        ("./a/1.txt", b"\xef\xbb\xbfone"),
        ("./a/1.JPG", RED),
        ("./a/1.npy", b"x"),
        ("../../2.jpg", GREEN),
        ("../../2.txt", b"zwei"),
        ("/3.jpeg", BLUE),
        ("/3.json", json.dumps({"caption": "three"}).encode()),
        ("README", b"read me"),
        ("4.jpg", RED),
        ("5.txt", b"five"),
        ("6.jpg", b""),
        ("6.txt", b"six"),
        ("7.jpg", RED[:-20]),
        ("7.txt", b"seven"),
        ("8.jpg", RED),
        ("8.txt", b"ni\xf1o"),
        ("9.jpg", RED),
        ("9.txt", b"nine"),
        ("9.json", b'{"url": '),
        ("a\udcff.jpg", RED),
        ("a\udcff.json", b'{"url": "http://\\ud800", "caption": "odd"}'),
        ("b.jpg", RED),
        ("b.json", b'["caption"]'),
    ]
    write_tar(tmp_path / "x.tar", files)
    assert items(tmp_path) == [
        record("x:./a/1", RED, "one"),
        record("x:../../2", GREEN, "zwei"),
        record("x:/3", BLUE, "three"),
        Dropped("no caption", "x:4"),
        Dropped("no image", "x:5"),
        Dropped("image does not decode", "x:6"),
        Dropped("image does not decode", "x:7"),
        Dropped("caption is not UTF-8", "x:8"),
        Dropped("json does not parse", "x:9"),
        record("x:a?", RED, "odd"),
        Dropped("no caption", "x:b"),
    ]


def test_links_and_folders_in_tars_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        folder = tarfile.TarInfo("0.jpg")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for info in (folder, link):
            tar.addfile(info)
        for name, data in members([row("2", RED, "two")]):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [item for item in items(tmp_path)] == [record("x:2", RED, "two")]


def test_a_large_member_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_MOST_BYTES", len(RED))
    write_tar(tmp_path / "x.tar", [("1.jpg", RED + b" "), ("1.txt", b"1"), ("2.jpg", RED)])
    assert items(tmp_path) == [Dropped("no image", "x:1"), Dropped("no caption", "x:2")]


# --- what a stopped run leaves --------------------------------------------------------------------

THREE = [row(f"00000000{n}", RED, f"text {n}") for n in range(3)]


def test_a_tar_cut_anywhere_keeps_what_is_whole(tmp_path):
    whole = write_tar(tmp_path / "00000.tar", members(THREE)).read_bytes()
    ends, end = [], 0  # where the last byte of each sample is; zeros up to the next 512 follow
    for name, data in members(THREE):
        if name.endswith(".txt"):
            ends.append(end + 512 + len(data))
        end += 512 + -(-len(data) // 512) * 512
    for size in range(0, end + 1, 256):
        (tmp_path / "00000.tar").write_bytes(whole[:size])
        *kept, last = items(tmp_path)
        count = sum(size >= end for end in ends)
        expected = [record(f"00000:00000000{n}", RED, f"text {n}") for n in range(count)]
        # Of the very first sample nobody knows what belongs to it.
        assert kept == expected or (count == 1 and kept == []), size
        assert last.reason == "tar is cut short or broken"
        assert last.what.startswith(f"{tmp_path}/00000.tar, after "), size
    (tmp_path / "00000.tar").write_bytes(whole[:-512])  # a single block of zeros: the end
    assert len(items(tmp_path)) == 3


def test_what_is_told_and_not_there_is_counted(tmp_path):
    """Parquet says success, and the tar was cut afterwards."""
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    write(tmp_path, "webdataset", [*THREE, failed("000000003")])
    path = tmp_path / "00000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"000000002.json") + 600])
    found = items(tmp_path)
    assert [getattr(item, "id", None) or item.reason for item in found] == [
        "00000:000000000",
        "00000:000000001",
        "tar is cut short or broken",
        "no image",
        NOT_THERE,
    ]
    assert found[3].what == f"00000:000000002, {crawl_files.url('000000002')}"


def test_folders_in_a_tar_are_no_part_of_what_is_told(tmp_path):
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    crawl_files.write_parquet(tmp_path / "00000.parquet", THREE)
    write_tar(tmp_path / "00000.tar", ((f"./00000/{n}", data) for n, data in members(THREE)))
    assert [item.id for item in items(tmp_path)] == [f"00000:./00000/00000000{n}" for n in range(3)]


def test_parquet_beside_that_was_not_finished(tmp_path):
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    write(tmp_path, "webdataset", ROWS)
    path = tmp_path / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-8])
    assert parted(items(tmp_path)) == (KEPT, LOST[:1])


@pytest.mark.parametrize("size", [0, 3, 100, -8])
def test_parquet_with_images_that_was_not_finished(tmp_path, size):
    pytest.importorskip("pyarrow", reason="reads Parquet")
    write(tmp_path, "parquet", ROWS)
    write(tmp_path, "parquet", THREE, stem="00001")
    path = tmp_path / "00001.parquet"
    path.write_bytes(path.read_bytes()[:size])
    kept, dropped = parted(items(tmp_path))
    assert kept == KEPT and dropped[1:] == LOST
    assert dropped[0].reason == "parquet is cut short or broken"
    assert dropped[0].what.startswith(f"{path}: ")


def test_a_tfrecord_cut_anywhere_keeps_what_is_whole(tmp_path):
    path = crawl_files.write_tfrecord(tmp_path / "00000.tfrecord", THREE)
    data = path.read_bytes()
    length = len(data) // 3
    for size in (length - 1, length + 1, length + 12, 2 * length - 4, 2 * length + 11):
        path.write_bytes(data[:size])
        *kept, last = items(tmp_path)
        assert kept == [
            record(f"00000:00000000{n}", RED, f"text {n}") for n in range(size // length)
        ]
        what = f"{path}, record {size // length}"
        assert last == Dropped("tfrecord is cut short or broken", what)


def test_a_damaged_tfrecord(tmp_path):
    path = crawl_files.write_tfrecord(tmp_path / "00000.tfrecord", THREE)
    data = bytearray(path.read_bytes())
    length = len(data) // 3
    data[data.index(RED, length) + 200] ^= 1  # It still parses.
    path.write_bytes(data)
    found = items(tmp_path)
    assert [getattr(item, "id", item) for item in found] == [
        "00000:000000000",
        Dropped("record is damaged", f"{path}, record 1"),
        "00000:000000002",
    ]
    for wrong in (length - 17, 1 << 62):  # lengths that do not fit their checksum
        data[2 * length : 2 * length + 8] = struct.pack("<Q", wrong)
        path.write_bytes(data)
        assert items(tmp_path)[2] == Dropped("tfrecord is cut short or broken", f"{path}, record 2")


# --- what is no crawl -----------------------------------------------------------------------------


def test_what_is_refused(tmp_path):
    for raw in (None, "", str(tmp_path / "gone")):
        with pytest.raises(UserError, match="expected raw_dir to be a folder; .* is none"):
            crawl.plan(raw, "train")
    with pytest.raises(UserError, match="no images in .*; expected tars, TFRecords, Parquet or"):
        crawl.plan(str(tmp_path), "train")
    (tmp_path / "a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 20)
    reason = r"tar is cut short or broken: 1, such as .*a.tar, after nothing: "
    with pytest.raises(UserError, match=f"nothing to write, of 1 records read .{reason}"):
        conversion.convert(crawl, "crawl", str(tmp_path), tmp_path / "out", "train", progress=str)
    assert not (tmp_path / "out" / "train").exists()


def test_parquet_that_is_a_list_of_links_is_no_shard(tmp_path):
    pytest.importorskip("pyarrow", reason="reads Parquet")
    crawl_files.write_parquet(tmp_path / "laion.parquet", ROWS)
    with pytest.raises(UserError, match="no images in"):
        items(tmp_path)


def test_parquet_of_other_makers(tmp_path):
    """No more than an image and a text, and a number for a key."""
    pa = pytest.importorskip("pyarrow", reason="reads Parquet")
    import pyarrow.parquet

    table = pa.table({"txt": ["a", "b"], "jpg": [RED, b"no picture"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert items(tmp_path) == [
        record("x:000000000", RED, "a"),
        Dropped("image does not decode", "x:000000001"),
    ]


def test_parquet_wants_pyarrow(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="writes Parquet")
    write(tmp_path, "webdataset", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="00000.parquet needs pyarrow: pip install pyarrow"):
        items(tmp_path)


# --- to a record set ------------------------------------------------------------------------------


def test_a_record_set(tmp_path):
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    raw = tmp_path / "raw"
    write(raw, "webdataset", ROWS)
    write(raw, "files", THREE, stem="00001")
    out = raw / "out"  # What is written below raw_dir is no crawl when it is there next time.
    for _ in range(2):
        made = conversion.convert(crawl, "crawl", str(raw), out, "train", progress=str)
    ledger = made["ledger"]
    assert (ledger["read"], ledger["kept"], sum(ledger["dropped"].values())) == (8, 5, 3)
    assert ledger["dropped"] == {
        NOT_THERE: 1,
        "image was not downloaded (failed_to_resize)": 1,
        "no caption": 1,
    }
    assert made["augmentations"] == ["crop"]
    found = list(RecordSet.open(out / "train"))
    assert found[:2] == KEPT
    assert found[2:] == [record(f"00001:00000000{n}", RED, f"text {n}") for n in range(3)]
    before = crawl.fingerprint(str(raw), "train")
    write(raw, "files", THREE, stem="00002")
    assert crawl.fingerprint(str(raw), "train") != before


def test_units_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_UNITS", 3)
    for n in range(7):
        write_tar(tmp_path / f"{n:05d}.tar", members([row(f"{n}", RED, f"text {n}")]))
    units = crawl.plan(str(tmp_path), "train")
    assert [len(unit.shards) for unit in units] == [2, 2, 3]
    assert [item.texts[0][1] for item in items(tmp_path)] == [f"text {n}" for n in range(7)]
