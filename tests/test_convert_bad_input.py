"""Broken files as the converters meet them, each in the small raw folder of its data set.

A file that the data set cannot do without is one message that names it, and nothing is written. A
broken picture, or a row of a crawl, is counted. What only one converter can meet is tested there.
"""

import gzip
import io
import itertools
import os
import re
import struct
import zipfile
import zlib

import pytest
import raw_folders
from raw_folders import FOLDERS, tarred, zipped

from tf_mural import conversion
from tf_mural.data.records import RecordSet
from tf_mural.datasets import DATASETS, bounded_read, image_files
from tf_mural.datasets.classification import archives, imagenet
from tf_mural.errors import UserError


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    monkeypatch.setattr(imagenet, "_CLASSES", 3)


def convert(key, raw, out):
    """The manifest, as the tool would make it: it asks for the splits first."""
    name, split, _ = FOLDERS[key]
    dataset = DATASETS[name]
    if hasattr(dataset, "splits"):
        dataset.splits(str(raw))
    return conversion.convert(
        dataset, name, str(raw), str(out), split, processes=1, progress=lambda line: None
    )


def outcome(key, raw, out):
    """What a conversion drops, by reason, or its message. The set is whole, or there is none."""
    _, split, _ = FOLDERS[key]
    try:
        manifest = convert(key, raw, out)
    except UserError as error:
        assert not (out / split).exists() and not list(out.rglob("*.tfrecord"))
        assert "\n" not in str(error)
        return str(error)
    ledger = manifest["ledger"]
    kept = list(RecordSet.open(out / split))
    assert len(kept) == ledger["kept"] == ledger["read"] - sum(ledger["dropped"].values())
    return ledger["dropped"]


@pytest.fixture
def harmed(tmp_path):
    """Function that makes a raw folder, does harm to one of its files, and gives the `outcome`."""
    numbers = itertools.count()

    def try_out(key, file, harm):
        folder = tmp_path / str(next(numbers))
        raw = folder / "raw"
        FOLDERS[key][2](raw)
        harm(raw / file)
        return outcome(key, raw, folder / "out")

    return try_out


def test_every_data_set_is_here():
    assert {name for name, _, _ in FOLDERS.values()} == set(DATASETS) - {"scenes"}


# (read, what is dropped) of each raw folder as it is.
BOOKS = {key: (2, {}) for key in FOLDERS}
BOOKS |= dict.fromkeys(("opus", "ccmatrix"), (999, {}))
BOOKS |= dict.fromkeys(("sts2017", "sts2017, unpacked"), (8, {"empty side": 1, "no score": 2}))
BOOKS |= dict.fromkeys(("crawl", "crawl of files", "cc3m", "cc12m", "uc2"), (3, {}))
BOOKS |= dict.fromkeys(("cifar100", "cifar100, python"), (4, {}))
BOOKS |= dict.fromkeys(("imagenet", "imagenet, unpacked"), (5, {"image does not decode": 1}))
BOOKS |= {"imagenet, val": (4, {"image missing": 1})}


@pytest.mark.parametrize("key", FOLDERS)
def test_kept_and_dropped_are_what_was_read(key, tmp_path):
    FOLDERS[key][2](tmp_path / "raw")
    assert outcome(key, tmp_path / "raw", tmp_path / "out") == BOOKS[key][1]
    assert convert(key, tmp_path / "raw", tmp_path / "out")["ledger"]["read"] == BOOKS[key][0]


# --- files that are no such files -----------------------------------------------------------------


def empty(path):
    path.write_bytes(b"")


def half(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def latin(path):
    path.write_bytes(b"\xe9t\xe9\n" + path.read_bytes())


def words(path):
    path.write_text("no\tsuch,thing\there {}\n" * 3)


def folder(path):
    path.unlink()
    path.mkdir()


def gone(path):
    path.unlink()


def pipe(path):
    path.unlink()
    os.mkfifo(path)  # whoever opens it waits for a writer


UNPACK = "{} does not unpack .*; download it again"
PACKED = {empty: UNPACK, half: UNPACK, cut: UNPACK, words: UNPACK}
MISSING = dict.fromkeys((folder, gone, pipe))
PICTURE = dict.fromkeys((empty, half, cut, latin, words), {"image does not decode": 1})
PICTURE |= dict.fromkeys((folder, gone, pipe), {"image missing": 1})
UTF8 = "{}, line 1: expected UTF-8, got b'.xe9'"
NO_JSON = "{}: expected JSON, got "
A_FOLDER = "{} is a folder; expected a file; move it away"
LIST = "{} is empty; download it again"


def absent(message):
    return dict.fromkeys(MISSING, message)


# (raw folder, file): what comes of each harm; {} stands for the file's path.
HARMED = {
    ("table", "t.tsv"): {
        empty: "{} is empty; expected a header",
        latin: "{}, line 1: expected UTF-8, got b'.xe9'; save the table as UTF-8",
        half: r"nothing to write, of 1 records read .no text: 1, such as line 2: a.jpg.",
        **absent("raw: say which table with the option file; found: none"),
    },
    ("table", "a.jpg"): PICTURE,
    ("multi30k", "flickr30k-images/1.jpg"): PICTURE,
    ("multi30k", "data/task1/image_splits/train.txt"): {empty: LIST, latin: UTF8},
    ("multi30k", "data/task1/raw/train.de.gz"): {
        **PACKED,
        empty: "other numbers of lines: {} 0; download these files again",
        folder: A_FOLDER,
    },
    ("multi30k, packed", "flickr30k-images.tar.gz"): {
        **PACKED,
        **absent("no photographs of Flickr30K in .*, nor flickr30k-images.tar.gz; say with the op"),
    },
    ("opus", "de-en.txt.zip"): {**PACKED, folder: "no bitext in .*raw; expected zips of OPUS"},
    ("ccmatrix", "de-en.txt.zip"): {**PACKED, gone: "no bitext in .*raw; expected zips of OPUS"},
    ("tatoeba", "tatoeba.deu-eng.eng"): {
        empty: "deu-eng.deu has 2 lines and {} 0; .*; download them again",
        latin: UTF8,
        **absent("{} is missing, but .*deu-eng.deu is there; download it again"),
    },
    ("sts2017", "STS2017-extended.zip"): {**PACKED, **absent("no files such as STS.en-en.txt in ")},
    ("sts2017, unpacked", "STS2017-extended/STS.en-en.txt"): {
        empty: LIST,
        latin: UTF8,
        half: {"empty side": 1, "no score": 1},
        words: "{}, line 1: expected a score of 0 to 5, got 'here ..'",
        folder: A_FOLDER,
    },
    ("xtd10", "XTD10/test_image_names.txt"): {empty: LIST, latin: UTF8, folder: A_FOLDER},
    ("xtd10", "XTD10/test_1kcaptions_en.txt"): {latin: UTF8, folder: A_FOLDER},
    ("xtd10", "train2014/COCO_train2014_000000000001.jpg"): PICTURE,
    ("coco", "dataset_coco.json"): {
        **dict.fromkeys((empty, half, cut, words), NO_JSON),
        latin: UTF8,
        **absent("expected dataset_coco.json, or caption_datasets.zip which has it, in "),
    },
    ("coco", "annotations/captions_train2014.json"): {half: NO_JSON, latin: UTF8},
    ("coco", "train2014/COCO_train2014_000000000001.jpg"): PICTURE,
    ("coco, packed", "caption_datasets.zip"): {**PACKED, folder: "expected dataset_coco.json, or"},
    ("coco, packed", "stair_captions_v1.2.tar.gz"): PACKED,
    ("coco, packed", "train2014.zip"): PACKED,
    ("crawl", "00000.tar"): {
        empty: "nothing to write, .*tar is cut short or broken: 1, such as {}, after nothing",
        words: "nothing to write, .*tar is cut short or broken: 1, such as {}, after nothing",
        half: {"tar is cut short or broken": 1},
        folder: "no images in .*raw; expected tars, TFRecords, Parquet or folders",
    },
    ("crawl of files", "00000/000000001.jpg"): {
        **dict.fromkeys((empty, half, cut, latin, words), {"image does not decode": 1}),
        folder: {"file may not be read": 1},
        gone: {"no image": 1},
    },
    ("crawl of files", "00000/000000001.txt"): {
        empty: {"no caption": 1},
        latin: {"caption is not UTF-8": 1},
        folder: {"file may not be read": 1},
    },
    ("crawl of files", "00000/000000001.json"): dict.fromkeys(
        (empty, half, latin, words), {"json does not parse": 1}
    ),
    ("cc3m", "Train_GCC-training.tsv"): {
        empty: LIST,
        words: "{}: expected lines of caption<tab>url, got ",
        latin: {"row is not of the list's form": 1},
        **absent("expected Train_GCC-training.tsv in .*raw, for the captions; download it, or"),
    },
    ("cc12m", "cc12m.tsv"): {
        empty: LIST,
        words: "{}: expected lines of url<tab>caption, got ",
        latin: {"row is not of the list's form": 1},
        **absent("expected cc12m.tsv in .*raw, for the captions; download it, or take"),
    },
    ("uc2", "train.jsonl"): {
        empty: LIST,
        words: '{}: expected lines of .*"caption": .*, got ',
        latin: {"row is not of the list's form": 1},
        gone: "no texts of train in .*raw; expected a JSONL, or folders such as",
        folder: "{}, .*is no file",
    },
    ("cifar100", "cifar-100-binary.tar.gz"): {**PACKED, **absent("expected {file} or cifar-100-p")},
    ("cifar100, python", "cifar-100-python.tar.gz"): {**PACKED, **absent("expected .* or {file} ")},
    ("food101", "food-101.tar.gz"): {**PACKED, **absent("expected {file}, or meta and images, in")},
    ("food101, unpacked", "food-101/images/pie/1.jpg"): PICTURE,
    ("food101, unpacked", "food-101/meta/classes.txt"): {latin: UTF8},
    ("food101, unpacked", "food-101/meta/train.json"): {
        **dict.fromkeys((empty, half, cut, latin, words), "{} is no list of photographs; download"),
        folder: "/train.txt is missing; download it again",
    },
    ("sun397", "SUN397.tar.gz"): {**PACKED, **absent("expected {file}, or the folder SUN397, in")},
    ("sun397", "Partitions.zip"): {
        **PACKED,
        **absent("expected {file}, or ClassName.txt in the f"),
    },
    ("sun397, unpacked", "SUN397/a/abbey/1.jpg"): PICTURE,
    ("sun397, unpacked", "Partitions/Training_01.txt"): {empty: LIST, latin: UTF8},
    ("imagenet", "ILSVRC2012_img_train.tar"): {
        **dict.fromkeys((empty, half, words), UNPACK),
        **absent("expected {file}, or the folder train, in .*; download it from https"),
    },
    ("imagenet", "ILSVRC2012_devkit_t12.tar.gz"): PACKED,
    ("imagenet, unpacked", "train/n01440764/n01440764_1.JPEG"): {
        half: {"image does not decode": 2},
        cut: {"image does not decode": 2},
        words: {"image does not decode": 2},
    },
    ("imagenet, unpacked", "train/n01440764/n01440764_2.JPEG"): {  # a PNG
        cut: {"image does not decode": 2},
    },
    ("imagenet, val", "ILSVRC2012_img_val.tar"): {
        empty: UNPACK,
        words: UNPACK,
        **absent("expected {file}, or the folder val, in .*; download it from https"),
    },
}


@pytest.mark.parametrize("key, file", HARMED)
def test_files_that_are_no_such_files(harmed, key, file):
    for harm, expected in HARMED[key, file].items():
        found = harmed(key, file, harm)
        if isinstance(expected, str):
            path = re.escape(file)
            pattern = expected.replace("{file}", path).replace("{}", f"[^ ]*/raw/{path}")
            assert isinstance(found, str) and re.search(pattern, found), (harm.__name__, found)
        else:
            usual = {} if "imagenet" in key else BOOKS[key][1]
            assert found == {**usual, **expected}, harm.__name__


@pytest.mark.parametrize("key", FOLDERS)
def test_no_folder_at_all(key, tmp_path):
    for raw in (tmp_path / "gone", ""):
        with pytest.raises(UserError, match="^expected raw_dir to be a|^say which|expected"):
            DATASETS[FOLDERS[key][0]].plan(str(raw), FOLDERS[key][1])


def forbid(path):
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read what nobody may")


@pytest.mark.parametrize("key, file", HARMED)
def test_files_that_may_not_be_read(harmed, key, file):
    found = harmed(key, file, forbid)
    if isinstance(found, str):
        assert re.search(f"{re.escape(file)}.* may not be read|Permission denied: .*{file}", found)
    else:
        assert {"image may not be read": 1}.items() <= found.items() or found == {
            "file may not be read": 1
        }


# --- bombs ----------------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
HUGE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", HEADER) + chunk(b"IDAT", zlib.compress(bytes(999)))
HUGE += chunk(b"IEND", b"")  # 3,600 million pixels by its header, in 100 bytes
WITH_PHOTOGRAPHS = [key for key in FOLDERS if not re.match("opus|ccm|tatoeba|sts|cifar|imag", key)]


@pytest.mark.parametrize("key", WITH_PHOTOGRAPHS)
def test_a_picture_that_claims_to_be_huge(key, tmp_path, monkeypatch):
    usual = raw_folders.jpeg
    some = itertools.chain([HUGE], itertools.repeat(usual("red")))
    monkeypatch.setattr(raw_folders, "jpeg", lambda color: next(some))
    FOLDERS[key][2](tmp_path / "raw")
    assert outcome(key, tmp_path / "raw", tmp_path / "out") == {"image too large": 1}


@pytest.mark.parametrize("key", WITH_PHOTOGRAPHS)
def test_a_picture_of_too_many_bytes_is_not_read(key, tmp_path, monkeypatch):
    """A gigabyte of zeros takes a megabyte of an archive."""
    usual = raw_folders.jpeg("red")
    some = itertools.chain([usual + bytes(100_000)], itertools.repeat(usual))
    monkeypatch.setattr(raw_folders, "jpeg", lambda color: next(some))
    FOLDERS[key][2](tmp_path / "raw")
    assert outcome(key, tmp_path / "raw", tmp_path / "out") == {}
    monkeypatch.setattr(image_files, "MOST_BYTES", 50_000)
    found = outcome(key, tmp_path / "raw", tmp_path / "again")
    assert found == {"image too large": 1}


def test_a_file_in_a_tar_of_too_many_bytes_is_not_read():
    nowhere = None
    file = archives.File("a.tar", 512, image_files.MOST_BYTES + 1)
    assert archives.content(nowhere, file) == (None, "image too large")


def test_inner_tars_with_a_picture_of_too_many_bytes(tmp_path, monkeypatch):
    FOLDERS["imagenet"][2](tmp_path / "raw")
    monkeypatch.setattr(image_files, "MOST_BYTES", 100)  # a PNG has less, four JPEGs have more
    found = outcome("imagenet", tmp_path / "raw", tmp_path / "out")
    assert found == {"image too large": 4}


ZEROS = bytes(2_000_000)
BOMBS = {
    ("multi30k", "data/task1/raw/train.de.gz"): gzip.compress(ZEROS),
    ("sts2017", "STS2017-extended.zip"): zipped({"STS.en-en.txt": ZEROS}),
    ("sun397", "Partitions.zip"): zipped({"ClassName.txt": ZEROS}),
    ("coco", "dataset_coco.json"): ZEROS,
    ("coco, packed", "caption_datasets.zip"): zipped({"dataset_coco.json": ZEROS}),
    ("coco, packed", "stair_captions_v1.2.tar.gz"): tarred(
        {"stair_captions_v1.2_train.json": ZEROS}
    ),
    ("cifar100", "cifar-100-binary.tar.gz"): tarred(
        {"cifar-100-binary/fine_label_names.txt": ZEROS, "cifar-100-binary/train.bin": b""}
    ),
    ("cifar100, python", "cifar-100-python.tar.gz"): tarred({"cifar-100-python/meta": ZEROS}),
    ("food101", "food-101.tar.gz"): tarred({"food-101/meta/classes.txt": ZEROS}),
    ("imagenet, val", "ILSVRC2012_devkit_t12.tar.gz"): tarred(
        {"ILSVRC2012_devkit_t12/data/meta.mat": ZEROS}
    ),
}


@pytest.mark.parametrize("key, file", BOMBS)
def test_lists_that_unpack_to_gigabytes(harmed, key, file, monkeypatch):
    """In small: what is read of one ends soon behind the most that there can be."""
    monkeypatch.setattr(bounded_read, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(bounded_read, "_CHUNK", 1_000)
    found = harmed(key, file, lambda path: path.write_bytes(BOMBS[key, file]))
    assert re.search(
        r" has [12],00[01],?000 bytes or more, unpacked; expected at most 1,000,000", found
    )
    assert os.path.basename(file) in found


@pytest.mark.parametrize("key", ["food101", "sun397", "cifar100", "multi30k, packed"])
def test_a_gzip_that_goes_on_behind_its_tar(harmed, key, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_PADDING", 1_000_000)
    file = next(file for known, file in HARMED if known == key and file.endswith(".tar.gz"))
    found = harmed(
        key, file, lambda path: path.write_bytes(path.read_bytes() + gzip.compress(ZEROS))
    )
    assert found.endswith(f"{file} goes on after the end of its tar; download it again")


# --- archives that are odd ------------------------------------------------------------------------


def encrypt(path):
    """Sets the flag that a zip's members are encrypted."""
    data = path.read_bytes()
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        parts = data.split(mark)
        data = mark.join(
            [parts[0]]
            + [p[: place - 4] + bytes([p[place - 4] | 1]) + p[place - 3 :] for p in parts[1:]]
        )
    path.write_bytes(data)


def packed_by_lzma(path):
    """Packs a zip anew, and writes over the middle of each file."""
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    data = bytearray(buffer.getvalue())
    with zipfile.ZipFile(buffer) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            data[start + 9 : start + info.compress_size] = b"\xff" * (info.compress_size - 9)
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [encrypt, packed_by_lzma])
@pytest.mark.parametrize(
    "key, file",
    [
        ("sts2017", "STS2017-extended.zip"),
        ("sun397", "Partitions.zip"),
        ("coco, packed", "caption_datasets.zip"),
        ("opus", "de-en.txt.zip"),
    ],
)
def test_zips_that_cannot_be_unpacked(harmed, key, file, harm):
    found = harmed(key, file, harm)
    assert re.search(f"{file}.* (does not unpack|is encrypted)", found), found


@pytest.mark.parametrize("harm", [encrypt, packed_by_lzma])
def test_photographs_in_zips_that_cannot_be_unpacked(harmed, harm):
    found = harmed("coco, packed", "train2014.zip", harm)
    assert "nothing to write, of 2 records read (image does not unpack: 2, such as COCO_" in found


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg"])
@pytest.mark.parametrize(
    "key, file",
    [
        ("multi30k, packed", "flickr30k-images.tar.gz"),
        ("coco, packed", "stair_captions_v1.2.tar.gz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
        ("food101", "food-101.tar.gz"),
        ("sun397", "SUN397.tar.gz"),
        ("imagenet, val", "ILSVRC2012_devkit_t12.tar.gz"),
        ("imagenet, val", "ILSVRC2012_img_val.tar"),
    ],
)
def test_tars_that_lead_out_of_themselves(harmed, key, file, name):
    found = harmed(key, file, lambda path: path.write_bytes(tarred({name: b"x"})))
    assert f"{file} has {name!r}, a place outside of it; download it again" in found


def test_names_that_lead_out_of_the_raw_folder(harmed):
    """Where a list names files; other lists are tested with their converters."""
    found = harmed(
        "food101, unpacked",
        "food-101/meta/train.json",
        lambda path: path.write_bytes(b'{"pie": ["../../../etc/passwd"]}'),
    )
    assert "expected a class of meta/classes.txt and a number" in found
    found = harmed(
        "multi30k",
        "data/task1/image_splits/train.txt",
        lambda path: path.write_text("../../etc/passwd\n2.jpg\n"),
    )
    assert "line 1: '../../etc/passwd' where the file name of an image was due" in found


def test_pictures_that_are_pipes_are_not_waited_for(harmed):
    for key, file in HARMED:
        if HARMED[key, file] is PICTURE:
            assert harmed(key, file, pipe) == {"image missing": 1}
