"""cc3m and cc12m: images of img2dataset joined with the official lists of captions."""

import collections
import pickle

import numpy as np
import pytest
from crawl_files import BLUE, GREEN, RED, failed, members, row, url, write, write_tar

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets.crawl import cc3m, cc12m, index, shards
from tf_mural.errors import UserError

TRAIN, VAL = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"
NOT_THERE = "image was not downloaded (failed_to_download)"


def items(raw, split="train", dataset=cc3m, **options):
    units = dataset.plan(str(raw), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in dataset.read(unit)]


def record(name, image, text):
    return Record(name, (image,), (("en", text),))


def put(raw, name, lines):
    raw.mkdir(parents=True, exist_ok=True)
    data = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    (raw / name).write_bytes(data)


# What img2dataset's readers do to captions (quotes) is undone: the list has the last word.
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
    failed("000000001", "dead"),
    row("000000002", GREEN, "", "green"),
    row("000000003", BLUE, "a stranger", "stranger"),
    row("000000004", BLUE, "", "blank"),
]


def cc3m_lines(rows):
    return [f"{caption}\t{url(name)}" for caption, name in rows]


def never(name, offset):
    return Dropped("image was not downloaded", f"{url(name)}, at byte {offset} of the list")


def offsets(lines):
    sizes = [len(line.encode()) + 1 for line in lines]
    return np.cumsum([0, *sizes])[:-1].tolist()


PLACES = offsets(cc3m_lines(LIST))
KEPT = [
    record("images/00000:000000000", RED, '"a red thing" , by someone'),
    record("images/00000:000000002", GREEN, "grün, 緑"),
]
LOST = [
    never("never", PLACES[2]),
    never("never2", PLACES[5]),
    Dropped("image of no row of the list", f"images/00000:000000003, {url('stranger')}"),
    Dropped("no caption", f"images/00000:000000004, {url('blank')}"),
]
DEAD = Dropped(NOT_THERE, f"images/00000:000000001, {url('dead')}: HTTP Error 404: Not Found")


@pytest.fixture
def raw(tmp_path):
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    put(tmp_path, TRAIN, cc3m_lines(LIST))
    write(tmp_path / "images", "webdataset", IMAGES)
    return tmp_path


def in_order(found):
    """Records, then the rest as `LOST` has it."""
    kept = [item for item in found if isinstance(item, Record)]
    return kept, [item for item in found if isinstance(item, Dropped)]


@pytest.mark.parametrize("form", ["webdataset", "files", "parquet", "tfrecord"])
def test_the_captions_of_the_list_count(tmp_path, form):
    """Every row and every image comes up once: 6 rows, and an image of no row."""
    pytest.importorskip("pyarrow", reason="img2dataset tells of dead links in Parquet")
    put(tmp_path, TRAIN, cc3m_lines(LIST))
    write(tmp_path / "images", form, IMAGES)
    kept, dropped = in_order(items(tmp_path))
    assert kept == KEPT
    assert collections.Counter(dropped) == collections.Counter([*LOST, DEAD])
    assert len(kept) + len(dropped) == len(LIST) + 1


def test_cc12m_has_the_columns_the_other_way_round(raw):
    put(raw, "cc12m.tsv", [f"{url(name)}\t{caption}" for caption, name in LIST])
    kept, dropped = in_order(items(raw, dataset=cc12m))
    assert kept == KEPT and len(dropped) == 5
    wrong = r"expected lines of url<tab>caption, got '.*'; it looks like that of cc3m"
    with pytest.raises(UserError, match=f"{TRAIN}: {wrong}"):
        items(raw, dataset=cc12m, captions=TRAIN)
    with pytest.raises(UserError, match="expected lines of caption<tab>url.* like that of cc12m"):
        items(raw, captions="cc12m.tsv")


def test_without_parquet_a_dead_link_was_never_tried(tmp_path):
    """As of tars that others host."""
    put(tmp_path, TRAIN, cc3m_lines(LIST))
    write_tar(tmp_path / "images" / "00000.tar", members(IMAGES))
    kept, dropped = in_order(items(tmp_path))
    assert kept == KEPT
    assert dropped == [never("dead", PLACES[1]), *LOST]


def test_images_without_url_by_the_number_of_their_row(tmp_path):
    put(tmp_path, TRAIN, ["caption\turl", *cc3m_lines(LIST)])
    files = [("000000003.jpg", GREEN), ("000000000.jpg", RED), ("7.jpg", BLUE), ("x.jpg", BLUE)]
    write_tar(tmp_path / "images" / "00000.tar", files)
    stray = "image of no row of the list"
    names = ["000000003", "000000000", "7", "x"]
    assert in_order(items(tmp_path))[1][6:] == [
        Dropped(stray, f"images/00000:{name}") for name in names
    ]
    kept, dropped = in_order(items(tmp_path, by_number=True))
    assert kept == [
        record("images/00000:000000003", GREEN, "grün, 緑"),
        record("images/00000:000000000", RED, '"a red thing" , by someone'),
    ]
    shift = len("caption\turl\n")
    assert dropped == [
        *(never(LIST[n][1], PLACES[n] + shift) for n in (1, 2, 4, 5)),
        Dropped(stray, "images/00000:7"),
        Dropped(stray, "images/00000:x"),
    ]


@pytest.mark.parametrize("told", [False, True])
def test_rows_that_share_a_url(tmp_path, told):
    """Each was downloaded for itself, with its own caption beside; two were not."""
    lines = cc3m_lines([("one", "a"), ("two", "a"), ("three", "a"), ("four", "a"), ("five", "b")])
    put(tmp_path, TRAIN, lines)
    rows = [row("2", RED, "three", "a"), row("0", GREEN, "one", "a"), row("4", BLUE, "five", "b")]
    write(tmp_path, "webdataset", rows, told=told)
    kept, dropped = in_order(items(tmp_path))
    assert [item.texts[0][1] for item in kept] == ["three", "one", "five"]
    places = offsets(lines)
    assert dropped == [never("a", places[2]), never("a", places[3])]


def test_odd_lines(tmp_path):
    """A byte order mark, CRLF, an empty line, other columns, no UTF-8, no last line end."""
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
    put(tmp_path, TRAIN, b"".join(lines))
    rows = [row(str(n), RED, "", name) for n, name in enumerate("abdef")]
    write_tar(tmp_path / "00000.tar", members(rows))
    kept, dropped = in_order(items(tmp_path))
    assert [item.texts[0][1] for item in kept] == ["one", "twö", "u\u2028v"]
    places = np.cumsum([0, *map(len, lines)])
    form = "row is not of the list's form"
    assert dropped == [
        Dropped(form, f"byte {places[3]}: 'three'"),
        Dropped(form, f"byte {places[4]}: 'four\\tfour\\t{url('d')}'"),
        Dropped(form, f"byte {places[6]}: 'six\\tno link'"),
        Dropped("image of no row of the list", f"00000:2, {url('d')}"),
        Dropped("caption is not UTF-8", f"00000:3, {url('e')}"),
    ]


def test_a_third_column(tmp_path):
    put(tmp_path, "cc12m.tsv", [f"{url('a')}\tone", f"{url('b')}\ttwo\tmore"])
    write_tar(tmp_path / "00000.tar", members([row("0", RED, "", "a"), row("1", RED, "", "b")]))
    assert items(tmp_path, dataset=cc12m)[1:] == [
        record("00000:0", RED, "one"),
        Dropped("image of no row of the list", f"00000:1, {url('b')}"),
    ]


def test_equal_hashes_do_no_harm(raw, monkeypatch):
    """An image finds the row of its own url even where all urls have one hash."""
    index._arrays.cache_clear()
    monkeypatch.setattr(index, "hash", lambda name: 7, raising=False)
    kept, _ = in_order(items(raw))
    index._arrays.cache_clear()
    assert kept == KEPT


def test_splits(tmp_path):
    put(tmp_path, TRAIN, cc3m_lines([("train", "a")]))
    put(tmp_path, VAL, cc3m_lines([("val", "b")]))
    write_tar(tmp_path / "cc3m-train-0000.tar", members([row("0", RED, "", "a")]))
    assert cc3m.splits(str(tmp_path)) == ("train",)
    write_tar(tmp_path / "cc3m-validation-0000.tar", members([row("0", BLUE, "", "b")]))
    assert cc3m.splits(str(tmp_path)) == ("train", "val")
    assert cc3m.splits(str(tmp_path), captions=VAL) == ("val",)
    assert items(tmp_path) == [record("cc3m-train-0000:0", RED, "train")]
    assert items(tmp_path, "val") == [record("cc3m-validation-0000:0", BLUE, "val")]
    (tmp_path / VAL).rename(tmp_path / "GCC-1.1.0-Validation.tsv")
    assert items(tmp_path, "val") == [record("cc3m-validation-0000:0", BLUE, "val")]
    assert items(tmp_path, "val", captions="GCC-1.1.0-Validation.tsv")[0].texts[0][1] == "val"


@pytest.mark.parametrize(
    "lines, message",
    [
        (
            None,
            f"expected {TRAIN} in .*, for the captions; download it, or take the data set crawl",
        ),
        (b"", f"{TRAIN} is empty; download it again"),
        (b"caption\turl\n", f"{TRAIN} is empty; download it again"),
        (b"a,http://b\n", f"{TRAIN}: expected lines of caption<tab>url, got 'a,http://b'"),
        (b"a\tb\tc\n", "expected lines of caption<tab>url, got 'a.tb.tc'"),
        (b"\xff\xfea\x00\n", "expected lines of caption<tab>url, got "),
    ],
)
def test_lists_that_are_none(tmp_path, lines, message):
    write_tar(tmp_path / "00000.tar", members(IMAGES))
    if lines is not None:
        put(tmp_path, TRAIN, lines)
    with pytest.raises(UserError, match=message):
        items(tmp_path)


def test_what_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected raw_dir to be a folder; '.*gone' is none"):
        cc3m.plan(str(tmp_path / "gone"), "train")
    with pytest.raises(UserError, match="expected raw_dir to be a folder; None is none"):
        cc12m.plan(None, "train")
    with pytest.raises(UserError, match="unknown split 'test'; known: train, val"):
        cc3m.plan(str(tmp_path), "test")
    put(tmp_path, TRAIN, cc3m_lines(LIST))
    with pytest.raises(UserError, match="no images in .*; expected tars, TFRecords, Parquet or"):
        items(tmp_path)
    with pytest.raises(UserError, match="expected mine.tsv in"):
        items(tmp_path, captions="mine.tsv")
    write_tar(tmp_path / "val" / "00000.tar", members(IMAGES))
    with pytest.raises(UserError, match="no file of images in .* is of the split train"):
        items(tmp_path)


def test_the_order_and_the_books_do_not_depend_on_units(raw, monkeypatch):
    for n in range(1, 5):
        name = LIST[2][1] if n == 3 else f"other{n}"
        rows = [row(f"00001000{n}", RED, "beside", name)]
        write(raw / "images", "webdataset", rows, stem=f"0000{n}")
    together = items(raw)
    monkeypatch.setattr(shards, "_MOST_UNITS", 1)
    assert len(cc3m.plan(str(raw), "train")) == 2
    assert items(raw) == together
    assert record("images/00003:000010003", RED, "never tried") in together


def test_a_record_set(raw, tmp_path):
    made = conversion.convert(
        cc3m, "cc3m", str(raw), tmp_path / "out", "train", processes=1, progress=str
    )
    ledger = made["ledger"]
    assert (ledger["read"], ledger["kept"]) == (7, 2)
    assert ledger["dropped"] == {
        "image of no row of the list": 1,
        "image was not downloaded": 2,
        NOT_THERE: 1,
        "no caption": 1,
    }
    assert list(RecordSet.open(tmp_path / "out" / "train")) == KEPT
    before = cc3m.fingerprint(str(raw), "train")
    put(raw, TRAIN, cc3m_lines(LIST[:-1]))
    assert cc3m.fingerprint(str(raw), "train") != before
