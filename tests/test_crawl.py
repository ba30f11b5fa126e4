"""`crawl`: images with the captions next to them, in every format of img2dataset."""

import io
import json
import struct
import sys
import tarfile

import numpy as np
import pytest
from helpers import crawl_files
from helpers.crawl_files import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    failed_row,
    members,
    row,
    url,
    write_shard,
    write_tar,
)
from helpers.datasets import convert, read_items
from helpers.images import plain_image
from PIL import Image

from tf_mural.data.image_normalization import normalize
from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets import crawl
from tf_mural.datasets.crawl import sample_readers, shards
from tf_mural.errors import UserError

NOT_DOWNLOADED = "image was not downloaded (failed_to_download)"
NEEDS_PARQUET = "img2dataset writes the status of links to Parquet files"


def read(raw, split="train", **options):
    return read_items(crawl, raw, split, **options)


def record(name, image, text, language="en"):
    return Record(name, (image,), ((language, text),))


ROWS = [
    row("000000000", RED, "a red thing"),
    failed_row("000000001"),
    row("000000002", GREEN, " grün, 緑\n"),
    row("000000003", BLUE, None),
    failed_row("000000004", status="failed_to_resize", error="Image decoding error"),
]
KEPT = [
    record("00000:000000000", RED, "a red thing"),
    record("00000:000000002", GREEN, "grün, 緑"),
]
SKIPPED = [
    Skipped("no caption", f"00000:000000003, {url('000000003')}"),
    Skipped(NOT_DOWNLOADED, f"00000:000000001, {url('000000001')}: HTTP Error 404: Not Found"),
    Skipped(
        "image was not downloaded (failed_to_resize)",
        f"00000:000000004, {url('000000004')}: Image decoding error",
    ),
]


def separate(items):
    """Returns (records, skipped); items of `SKIPPED` come last in `skipped`, in the same order."""
    kept = [item for item in items if isinstance(item, Record)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    order = {item: number for number, item in enumerate(SKIPPED)}
    return kept, sorted(skipped, key=lambda item: order.get(item, -1))


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_give_the_same_records(tmp_path, format):
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    assert separate(read(write_shard(tmp_path, format, ROWS))) == (KEPT, SKIPPED)


@pytest.mark.parametrize("format", ["webdataset", "files", "tfrecord"])
def test_dead_links_are_unknown_without_parquet_files(tmp_path, format, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write_shard(tmp_path, format, ROWS, sidecar=False)
    assert separate(read(tmp_path)) == (KEPT, SKIPPED[:1])


@pytest.mark.parametrize("format", FORMATS)
def test_png_is_kept_and_webp_becomes_a_png_in_the_conversion(tmp_path, format):
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    for kind in ("png", "webp"):
        data = plain_image((255, 0, 0), kind.upper())
        folder = tmp_path / kind
        items = read(write_shard(folder, format, [row("000000000", data, "red")], kind=kind))
        assert items == [record("00000:000000000", data, "red")]
        image = normalize(items[0].images[0]).data
        assert Image.open(io.BytesIO(image)).format == "PNG"  # TensorFlow cannot decode every WebP.
        assert image == data or kind == "webp"
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)
        assert pixels.shape == (4, 6, 3) and np.abs(pixels - (255, 0, 0)).max() <= 2


def test_options_choose_folders_and_language(tmp_path):
    write_shard(tmp_path / "here", "webdataset", ROWS[:1], sidecar=False)
    write_shard(tmp_path / "there", "webdataset", [row("000000000", BLUE, "blau")], sidecar=False)
    assert [item.id for item in read(tmp_path)] == ["here/00000:000000000", "there/00000:000000000"]
    items = read(tmp_path, images=("there",), language="de")
    assert items == [record("00000:000000000", BLUE, "blau", "de")]
    with pytest.raises(UserError, match="expected a language code such as en, got '3'"):
        read(tmp_path, language="3")
    with pytest.raises(UserError, match="expected images to be a folder, got '.*/gone'"):
        read(tmp_path, images=("gone",))
    with pytest.raises(UserError, match="unknown split of crawl 'dev'; known: train, val, test"):
        read(tmp_path, "dev")


def test_splits_are_those_in_the_names_of_files(tmp_path):
    names = ["cc3m-train-0000.tar", "cc3m-validation-0000.tar", "more/00000.tar", "val/train/a.tar"]
    for name in names:
        write_tar(tmp_path / name, members([row("0", RED, name)]))
    (tmp_path / "_SUCCESS").write_text("")
    assert crawl.splits(str(tmp_path)) == ("train", "val")
    assert [item.texts[0][1] for item in read(tmp_path)] == [names[0], names[2], names[3]]
    assert [item.texts[0][1] for item in read(tmp_path, "val")] == [names[1]]
    with pytest.raises(UserError, match="no file of images in .* has the split test in its name"):
        read(tmp_path, "test")


def test_folders_are_searched_at_any_depth_except_hidden_ones_and_record_sets(tmp_path):
    for name in ("b.jpg", "a/c.PNG", "a/deep/d.jpeg", ".tmp/e.jpg", "set/f.jpg", "none/g.txt"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(RED)
        (tmp_path / "raw" / name).with_suffix(".txt").write_text(name)
    (tmp_path / "raw" / "set" / "manifest.json").write_text("{}")
    assert read(tmp_path / "raw") == [
        record("a:c", RED, "a/c.PNG"),
        record("a/deep:d", RED, "a/deep/d.jpeg"),
        record("raw:b", RED, "b.jpg"),
    ]


# --- tars of other hosts --------------------------------------------------------------------------


def test_members_of_tars_may_have_any_order_and_path(tmp_path):
    """The members include folders, other files, upper case and paths outside of the folder."""
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
    assert read(tmp_path) == [
        record("x:./a/1", RED, "one"),
        record("x:../../2", GREEN, "zwei"),
        record("x:/3", BLUE, "three"),
        Skipped("no caption", "x:4"),
        Skipped("no image", "x:5"),
        Skipped("image does not decode", "x:6"),
        Skipped("image does not decode", "x:7"),
        Skipped("caption is not UTF-8", "x:8"),
        Skipped("json does not parse", "x:9"),
        record("x:a?", RED, "odd"),
        record("x:b", RED, "caption"),
    ]


def test_links_and_folders_in_tars_are_ignored(tmp_path):
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
    assert read(tmp_path) == [record("x:2", RED, "two")]


def test_a_member_with_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_readers, "_MAX_BYTES", len(RED))
    write_tar(tmp_path / "x.tar", [("1.jpg", RED + b" "), ("1.txt", b"1"), ("2.jpg", RED)])
    assert read(tmp_path) == [Skipped("no image", "x:1"), Skipped("no caption", "x:2")]


# --- truncated and damaged files ------------------------------------------------------------------

THREE = [row(f"00000000{n}", RED, f"text {n}") for n in range(3)]


def test_a_tar_truncated_anywhere_keeps_its_complete_samples(tmp_path):
    data = write_tar(tmp_path / "00000.tar", members(THREE)).read_bytes()
    ends, end = [], 0  # `ends`: end of each sample in bytes, without padding
    for name, content in members(THREE):
        if name.endswith(".txt"):
            ends.append(end + 512 + len(content))
        end += 512 + -(-len(content) // 512) * 512
    for size in range(0, end + 1, 256):
        (tmp_path / "00000.tar").write_bytes(data[:size])
        *kept, last = read(tmp_path)
        count = sum(size >= end for end in ends)
        expected = [record(f"00000:00000000{n}", RED, f"text {n}") for n in range(count)]
        # Without a previous sample, the reader cannot know whether a sample is complete.
        assert kept == expected or (count == 1 and kept == []), size
        assert last.reason == "tar is cut short or broken"
        assert last.example.startswith(f"{tmp_path}/00000.tar, after "), size
    (tmp_path / "00000.tar").write_bytes(data[:-512])  # keeps one of two final zero blocks
    assert len(read(tmp_path)) == 3


def test_images_that_only_the_parquet_file_has_are_counted(tmp_path):
    """According to the Parquet file, the images were downloaded, but the tar is truncated."""
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    write_shard(tmp_path, "webdataset", [*THREE, failed_row("000000003")])
    path = tmp_path / "00000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"000000002.json") + 600])
    items = read(tmp_path)
    assert [getattr(item, "id", None) or item.reason for item in items] == [
        "00000:000000000",
        "00000:000000001",
        "tar is cut short or broken",
        "no image",
        NOT_DOWNLOADED,
    ]
    assert items[3].example == f"00000:000000002, {url('000000002')}"


def test_folders_in_a_tar_do_not_hide_its_samples_from_the_parquet_file(tmp_path):
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    crawl_files.write_parquet(tmp_path / "00000.parquet", THREE)
    write_tar(tmp_path / "00000.tar", ((f"./00000/{n}", data) for n, data in members(THREE)))
    assert [item.id for item in read(tmp_path)] == [f"00000:./00000/00000000{n}" for n in range(3)]


def test_a_truncated_parquet_file_next_to_a_shard_is_ignored(tmp_path):
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    write_shard(tmp_path, "webdataset", ROWS)
    path = tmp_path / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-8])
    assert separate(read(tmp_path)) == (KEPT, SKIPPED[:1])


@pytest.mark.parametrize("size", [0, 3, 100, -8])
def test_a_truncated_parquet_file_with_images_is_counted(tmp_path, size):
    pytest.importorskip("pyarrow", reason="reads Parquet")
    write_shard(tmp_path, "parquet", ROWS)
    write_shard(tmp_path, "parquet", THREE, stem="00001")
    path = tmp_path / "00001.parquet"
    path.write_bytes(path.read_bytes()[:size])
    kept, skipped = separate(read(tmp_path))
    assert kept == KEPT and skipped[1:] == SKIPPED
    assert skipped[0].reason == "parquet is cut short or broken"
    assert skipped[0].example.startswith(f"{path}: ")


def test_a_tfrecord_truncated_anywhere_keeps_its_complete_samples(tmp_path):
    path = crawl_files.write_tfrecord(tmp_path / "00000.tfrecord", THREE)
    data = path.read_bytes()
    length = len(data) // 3
    for size in (length - 1, length + 1, length + 12, 2 * length - 4, 2 * length + 11):
        path.write_bytes(data[:size])
        *kept, last = read(tmp_path)
        count = size // length
        assert kept == [record(f"00000:00000000{n}", RED, f"text {n}") for n in range(count)]
        assert last == Skipped("tfrecord is cut short or broken", f"{path}, record {count}")


def test_a_damaged_record_of_a_tfrecord_is_skipped(tmp_path):
    path = crawl_files.write_tfrecord(tmp_path / "00000.tfrecord", THREE)
    data = bytearray(path.read_bytes())
    length = len(data) // 3
    data[data.index(RED, length) + 200] ^= 1  # This byte is inside the image.
    path.write_bytes(data)
    items = read(tmp_path)
    assert [getattr(item, "id", item) for item in items] == [
        "00000:000000000",
        Skipped("record is damaged", f"{path}, record 1"),
        "00000:000000002",
    ]
    for wrong_length in (length - 17, 1 << 62):  # The checksum does not match.
        data[2 * length : 2 * length + 8] = struct.pack("<Q", wrong_length)
        path.write_bytes(data)
        assert read(tmp_path)[2] == Skipped("tfrecord is cut short or broken", f"{path}, record 2")


# --- raw folders that are not a crawl -------------------------------------------------------------


def test_folders_without_a_crawl_are_refused(tmp_path):
    for raw in (None, "", str(tmp_path / "gone")):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, got "):
            crawl.plan(raw, "train")
    with pytest.raises(UserError, match="no images in .*; expected tars, TFRecords, Parquet or"):
        crawl.plan(str(tmp_path), "train")
    (tmp_path / "a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 20)
    reason = r"tar is cut short or broken: 1, such as .*a.tar, after nothing: "
    with pytest.raises(UserError, match=f"nothing to write, of 1 records read .{reason}"):
        convert("crawl", tmp_path, tmp_path / "out", "train")
    assert not (tmp_path / "out" / "train").exists()


def test_a_parquet_file_of_links_is_not_a_shard(tmp_path):
    pytest.importorskip("pyarrow", reason="reads Parquet")
    crawl_files.write_parquet(tmp_path / "laion.parquet", ROWS)
    with pytest.raises(UserError, match="no images in"):
        read(tmp_path)


def test_a_parquet_file_needs_only_images_and_texts(tmp_path):
    """The file has no keys, so the samples are named by their numbers."""
    pa = pytest.importorskip("pyarrow", reason="reads Parquet")
    import pyarrow.parquet

    table = pa.table({"txt": ["a", "b"], "jpg": [RED, b"no image"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path) == [
        record("x:000000000", RED, "a"),
        Skipped("image does not decode", "x:000000001"),
    ]


def test_missing_pyarrow_is_a_user_error(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="writes Parquet")
    write_shard(tmp_path, "webdataset", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="00000.parquet needs pyarrow: pip install pyarrow"):
        read(tmp_path)


# --- conversion -----------------------------------------------------------------------------------


def test_record_set_has_all_records_and_counts_the_others(tmp_path):
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    raw = tmp_path / "raw"
    write_shard(raw, "webdataset", ROWS)
    write_shard(raw, "files", THREE, stem="00001")
    out = raw / "out"  # The second conversion must not read the record set of the first.
    for _ in range(2):
        manifest = convert("crawl", raw, out, "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"], sum(ledger["dropped"].values())) == (8, 5, 3)
    assert ledger["dropped"] == {
        NOT_DOWNLOADED: 1,
        "image was not downloaded (failed_to_resize)": 1,
        "no caption": 1,
    }
    assert manifest["augmentations"] == ["crop"]
    records = list(RecordSet.open(out / "train"))
    assert records[:2] == KEPT
    assert records[2:] == [record(f"00001:00000000{n}", RED, f"text {n}") for n in range(3)]
    before = crawl.fingerprint(str(raw), "train")
    write_shard(raw, "files", THREE, stem="00002")
    assert crawl.fingerprint(str(raw), "train") != before


def test_the_number_of_units_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MAX_UNITS", 3)
    for n in range(7):
        write_tar(tmp_path / f"{n:05d}.tar", members([row(f"{n}", RED, f"text {n}")]))
    units = crawl.plan(str(tmp_path), "train")
    assert [len(unit.shards) for unit in units] == [2, 2, 3]
    assert [item.texts[0][1] for item in read(tmp_path)] == [f"text {n}" for n in range(7)]
