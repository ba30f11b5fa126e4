"""`cc3m` and `cc12m`: images of img2dataset joined with the official lists of captions."""

import collections

import numpy as np
import pytest
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

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets.crawl import caption_index, cc3m, cc12m, shards
from tf_mural.errors import UserError

TRAIN, VAL = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"
NOT_DOWNLOADED = "image was not downloaded (failed_to_download)"
NOT_LISTED = "image of no row of the list"
NEEDS_PARQUET = "img2dataset writes the status of links to Parquet files"


def read(raw, split="train", dataset=cc3m, **options):
    return read_items(dataset, raw, split, **options)


def record(name, image, text):
    return Record(name, (image,), (("en", text),))


def write_list(raw, name, lines):
    raw.mkdir(parents=True, exist_ok=True)
    data = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    (raw / name).write_bytes(data)


# img2dataset changes quotes in captions; the original captions of the list must be used.
LIST = [
    ('"a red thing" , by someone', "red"),
    ("dead", "dead"),
    ("never tried", "never"),
    ("grün, 緑", "green"),
    ("  ", "blank"),
    ("also never tried", "never2"),
]
IMAGES = [
    row("000000000", RED, "a red thing, by someone", "red"),
    failed_row("000000001", "dead"),
    row("000000002", GREEN, "", "green"),
    row("000000003", BLUE, "a stranger", "stranger"),
    row("000000004", BLUE, "", "blank"),
]


def cc3m_lines(rows):
    return [f"{caption}\t{url(name)}" for caption, name in rows]


def missing(name, offset):
    """Returns the `Skipped` for a row without an image."""
    return Skipped("image was not downloaded", f"{url(name)}, at byte {offset} of the list")


def line_offsets(lines):
    sizes = [len(line.encode()) + 1 for line in lines]
    return np.cumsum([0, *sizes])[:-1].tolist()


OFFSETS = line_offsets(cc3m_lines(LIST))
KEPT = [
    record("images/00000:000000000", RED, '"a red thing" , by someone'),
    record("images/00000:000000002", GREEN, "grün, 緑"),
]
SKIPPED = [
    missing("never", OFFSETS[2]),
    missing("never2", OFFSETS[5]),
    Skipped(NOT_LISTED, f"images/00000:000000003, {url('stranger')}"),
    Skipped("no caption", f"images/00000:000000004, {url('blank')}"),
]
DEAD = Skipped(NOT_DOWNLOADED, f"images/00000:000000001, {url('dead')}: HTTP Error 404: Not Found")


@pytest.fixture
def raw(tmp_path):
    """A raw folder of cc3m."""
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    write_list(tmp_path, TRAIN, cc3m_lines(LIST))
    write_shard(tmp_path / "images", "webdataset", IMAGES)
    return tmp_path


def separate(items):
    """Returns (list of records, list of `Skipped`), both in order."""
    kept = [item for item in items if isinstance(item, Record)]
    return kept, [item for item in items if isinstance(item, Skipped)]


# --- joining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_captions_come_from_the_list(tmp_path, format):
    """Each of the 6 rows and the image without a row is counted once."""
    pytest.importorskip("pyarrow", reason=NEEDS_PARQUET)
    write_list(tmp_path, TRAIN, cc3m_lines(LIST))
    write_shard(tmp_path / "images", format, IMAGES)
    kept, skipped = separate(read(tmp_path))
    assert kept == KEPT
    assert collections.Counter(skipped) == collections.Counter([*SKIPPED, DEAD])
    assert len(kept) + len(skipped) == len(LIST) + 1


def test_cc12m_has_the_opposite_order_of_columns(raw):
    write_list(raw, "cc12m.tsv", [f"{url(name)}\t{caption}" for caption, name in LIST])
    kept, skipped = separate(read(raw, dataset=cc12m))
    assert kept == KEPT and len(skipped) == 5
    wrong = r"expected lines of url<tab>caption, got '.*'; it looks like that of cc3m"
    with pytest.raises(UserError, match=f"{TRAIN}: {wrong}"):
        read(raw, dataset=cc12m, captions=TRAIN)
    with pytest.raises(UserError, match="expected lines of caption<tab>url.* like that of cc12m"):
        read(raw, captions="cc12m.tsv")


def test_without_parquet_files_a_dead_link_counts_as_never_tried(tmp_path):
    """Without Parquet files, it is unknown which links img2dataset tried to download."""
    write_list(tmp_path, TRAIN, cc3m_lines(LIST))
    write_tar(tmp_path / "images" / "00000.tar", members(IMAGES))
    kept, skipped = separate(read(tmp_path))
    assert kept == KEPT
    assert skipped == [missing("dead", OFFSETS[1]), *SKIPPED]


def test_images_without_url_are_found_by_the_number_of_their_row(tmp_path):
    write_list(tmp_path, TRAIN, ["caption\turl", *cc3m_lines(LIST)])
    files = [("000000003.jpg", GREEN), ("000000000.jpg", RED), ("7.jpg", BLUE), ("x.jpg", BLUE)]
    write_tar(tmp_path / "images" / "00000.tar", files)
    names = ["000000003", "000000000", "7", "x"]
    assert separate(read(tmp_path))[1][6:] == [
        Skipped(NOT_LISTED, f"images/00000:{name}") for name in names
    ]
    kept, skipped = separate(read(tmp_path, by_number=True))
    assert kept == [
        record("images/00000:000000003", GREEN, "grün, 緑"),
        record("images/00000:000000000", RED, '"a red thing" , by someone'),
    ]
    header = len("caption\turl\n")
    assert skipped == [
        *(missing(LIST[n][1], OFFSETS[n] + header) for n in (1, 2, 4, 5)),
        Skipped(NOT_LISTED, "images/00000:7"),
        Skipped(NOT_LISTED, "images/00000:x"),
    ]


@pytest.mark.parametrize("sidecar", [False, True])
def test_rows_that_share_a_url_keep_their_own_captions(tmp_path, sidecar):
    """Rows with the same URL were downloaded separately; two of them failed."""
    lines = cc3m_lines([("one", "a"), ("two", "a"), ("three", "a"), ("four", "a"), ("five", "b")])
    write_list(tmp_path, TRAIN, lines)
    rows = [row("2", RED, "three", "a"), row("0", GREEN, "one", "a"), row("4", BLUE, "five", "b")]
    write_shard(tmp_path, "webdataset", rows, sidecar=sidecar)
    kept, skipped = separate(read(tmp_path))
    assert [item.texts[0][1] for item in kept] == ["three", "one", "five"]
    offsets = line_offsets(lines)
    assert skipped == [missing("a", offsets[2]), missing("a", offsets[3])]


def test_invalid_lines_are_counted(tmp_path):
    """The list has a byte order mark, CRLF, an empty line, wrong columns and invalid UTF-8."""
    links = [url(name).encode() for name in "abcdef"]
    lines = [
        b"\xef\xbb\xbfone\t" + links[0] + b"\r\n",
        b"\n",
        b"tw\xc3\xb6\t " + links[1] + b" \n",
        b"three\n",
        b"four\tfour\t" + links[3] + b"\n",
        b"f\xefve\t" + links[4] + b"\n",
        b"six\tno link\n",
        b"u\xe2\x80\xa8v\t" + links[5],
    ]
    write_list(tmp_path, TRAIN, b"".join(lines))
    rows = [row(str(n), RED, "", name) for n, name in enumerate("abdef")]
    write_tar(tmp_path / "00000.tar", members(rows))
    kept, skipped = separate(read(tmp_path))
    assert [item.texts[0][1] for item in kept] == ["one", "twö", "u\u2028v"]
    offsets = np.cumsum([0, *map(len, lines)])
    invalid = "row is not of the list's form"
    assert skipped == [
        Skipped(invalid, f"byte {offsets[3]}: 'three'"),
        Skipped(invalid, f"byte {offsets[4]}: 'four\\tfour\\t{url('d')}'"),
        Skipped(invalid, f"byte {offsets[6]}: 'six\\tno link'"),
        Skipped(NOT_LISTED, f"00000:2, {url('d')}"),
        Skipped("caption is not UTF-8", f"00000:3, {url('e')}"),
    ]


def test_a_line_with_a_third_column_is_invalid(tmp_path):
    write_list(tmp_path, "cc12m.tsv", [f"{url('a')}\tone", f"{url('b')}\ttwo\tmore"])
    write_tar(tmp_path / "00000.tar", members([row("0", RED, "", "a"), row("1", RED, "", "b")]))
    assert read(tmp_path, dataset=cc12m)[1:] == [
        record("00000:0", RED, "one"),
        Skipped(NOT_LISTED, f"00000:1, {url('b')}"),
    ]


def test_equal_hashes_cause_no_errors(raw, monkeypatch):
    """An image finds the row of its own URL even if all URLs have the same hash."""
    caption_index._build_index.cache_clear()
    monkeypatch.setattr(caption_index, "hash", lambda name: 7, raising=False)
    kept, _ = separate(read(raw))
    caption_index._build_index.cache_clear()
    assert kept == KEPT


# --- splits and refusals --------------------------------------------------------------------------


def test_splits_need_a_list_and_images(tmp_path):
    write_list(tmp_path, TRAIN, cc3m_lines([("train", "a")]))
    write_list(tmp_path, VAL, cc3m_lines([("val", "b")]))
    write_tar(tmp_path / "cc3m-train-0000.tar", members([row("0", RED, "", "a")]))
    assert cc3m.splits(str(tmp_path)) == ("train",)
    write_tar(tmp_path / "cc3m-validation-0000.tar", members([row("0", BLUE, "", "b")]))
    assert cc3m.splits(str(tmp_path)) == ("train", "val")
    assert cc3m.splits(str(tmp_path), captions=VAL) == ("val",)
    assert read(tmp_path) == [record("cc3m-train-0000:0", RED, "train")]
    assert read(tmp_path, "val") == [record("cc3m-validation-0000:0", BLUE, "val")]
    (tmp_path / VAL).rename(tmp_path / "GCC-1.1.0-Validation.tsv")
    assert read(tmp_path, "val") == [record("cc3m-validation-0000:0", BLUE, "val")]
    assert read(tmp_path, "val", captions="GCC-1.1.0-Validation.tsv")[0].texts[0][1] == "val"


@pytest.mark.parametrize(
    "lines, message",
    [
        (None, f"expected {TRAIN} in .*, for the captions; download it, or use the data set crawl"),
        (b"", f"{TRAIN} is empty; download it again"),
        (b"caption\turl\n", f"{TRAIN} is empty; download it again"),
        (b"a,http://b\n", f"{TRAIN}: expected lines of caption<tab>url, got 'a,http://b'"),
        (b"a\tb\tc\n", "expected lines of caption<tab>url, got 'a.tb.tc'"),
        (b"\xff\xfea\x00\n", "expected lines of caption<tab>url, got "),
    ],
)
def test_missing_and_invalid_lists_are_refused(tmp_path, lines, message):
    write_tar(tmp_path / "00000.tar", members(IMAGES))
    if lines is not None:
        write_list(tmp_path, TRAIN, lines)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_incomplete_raw_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected raw_dir to be a folder, got '.*gone'"):
        cc3m.plan(str(tmp_path / "gone"), "train")
    with pytest.raises(UserError, match="expected raw_dir to be a folder, got None"):
        cc12m.plan(None, "train")
    with pytest.raises(UserError, match="unknown split 'test'; known: train, val"):
        cc3m.plan(str(tmp_path), "test")
    write_list(tmp_path, TRAIN, cc3m_lines(LIST))
    with pytest.raises(UserError, match="no images in .*; expected tars, TFRecords, Parquet or"):
        read(tmp_path)
    with pytest.raises(UserError, match="expected mine.tsv in"):
        read(tmp_path, captions="mine.tsv")
    write_tar(tmp_path / "val" / "00000.tar", members(IMAGES))
    with pytest.raises(UserError, match="no file of images in .* has the split train"):
        read(tmp_path)


# --- conversion -----------------------------------------------------------------------------------


def test_the_number_of_units_does_not_change_the_items(raw, monkeypatch):
    for n in range(1, 5):
        name = LIST[2][1] if n == 3 else f"other{n}"
        rows = [row(f"00001000{n}", RED, "adjacent", name)]
        write_shard(raw / "images", "webdataset", rows, stem=f"0000{n}")
    items = read(raw)
    monkeypatch.setattr(shards, "_MAX_UNITS", 1)
    assert len(cc3m.plan(str(raw), "train")) == 2
    assert read(raw) == items
    assert record("images/00003:000010003", RED, "never tried") in items


def test_record_set_has_all_records_and_counts_the_others(raw, tmp_path):
    (raw / "images" / "notes.docx").write_text("x")
    manifest = convert("cc3m", raw, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    files = ledger["parts"]["files"]
    assert (files["read"], files["used"]) == (3, 2)  # the list, the tar and the notes
    assert files["examples"] == {"they are neither images nor captions": ["images/notes.docx"]}
    assert (ledger["read"], ledger["kept"]) == (7, 2)
    assert ledger["dropped"] == {
        NOT_LISTED: 1,
        "image was not downloaded": 2,
        NOT_DOWNLOADED: 1,
        "no caption": 1,
    }
    assert list(RecordSet.open(tmp_path / "out" / "train")) == KEPT
    before = cc3m.fingerprint(str(raw), "train")
    write_list(raw, TRAIN, cc3m_lines(LIST[:-1]))
    assert cc3m.fingerprint(str(raw), "train") != before
