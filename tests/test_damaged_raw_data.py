"""Damaged raw files of every data set.

Each test damages one file in a small raw folder of a data set. If the data set needs the damaged
file, the conversion must raise one error that names the file, and must write nothing. Damaged
images and damaged rows of a crawl must be skipped and counted. Damage that only one data set can
have is tested in the test file of the data set.
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
from helpers import raw_folders
from helpers.archives import tar_bytes, zip_bytes
from helpers.raw_folders import FOLDERS

from tf_mural import conversion
from tf_mural.data.records import RecordSet
from tf_mural.datasets import DATASETS, archives, bounded_read, image_files
from tf_mural.datasets.classification import imagenet
from tf_mural.errors import UserError


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    monkeypatch.setattr(imagenet, "_NUM_CLASSES", 3)


def convert(key, raw, out):
    """Converts a raw folder as the command does, which first lists the splits."""
    name, split, _ = FOLDERS[key]
    dataset = DATASETS[name]
    if hasattr(dataset, "splits"):
        dataset.splits(str(raw))
    return conversion.convert(
        dataset, name, str(raw), str(out), split, processes=1, progress=lambda line: None
    )


def convert_to_outcome(key, raw, out):
    """Returns {reason: number of dropped records}, or the message of a UserError.

    Checks that the record set is complete or, after an error, that nothing is written.
    """
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
def damage_and_convert(tmp_path):
    """A function that writes a raw folder, damages one file, and returns the outcome."""
    numbers = itertools.count()

    def run(key, file, damage):
        folder = tmp_path / str(next(numbers))
        raw = folder / "raw"
        FOLDERS[key][2](raw)
        damage(raw / file)
        return convert_to_outcome(key, raw, folder / "out")

    return run


def test_every_data_set_has_a_raw_folder():
    assert {name for name, _, _ in FOLDERS.values()} == set(DATASETS) - {"scenes"}


# (records read, records dropped) of each undamaged raw folder.
LEDGERS = {key: (2, {}) for key in FOLDERS}
LEDGERS |= dict.fromkeys(("opus", "ccmatrix"), (999, {}))
LEDGERS |= dict.fromkeys(("sts2017", "sts2017, unpacked"), (8, {"empty side": 1, "no score": 2}))
LEDGERS |= dict.fromkeys(("crawl", "crawl of files", "cc3m", "cc12m", "uc2"), (3, {}))
LEDGERS |= dict.fromkeys(("cifar100", "cifar100, python"), (4, {}))
LEDGERS |= dict.fromkeys(("glami", "glami, unpacked"), (15, {}))
LEDGERS |= dict.fromkeys(("imagenet", "imagenet, unpacked"), (5, {"image does not decode": 1}))
LEDGERS |= {"imagenet, val": (4, {"image missing": 1})}


@pytest.mark.parametrize("key", FOLDERS)
def test_the_ledger_counts_every_record_read(key, tmp_path):
    FOLDERS[key][2](tmp_path / "raw")
    assert convert_to_outcome(key, tmp_path / "raw", tmp_path / "out") == LEDGERS[key][1]
    assert convert(key, tmp_path / "raw", tmp_path / "out")["ledger"]["read"] == LEDGERS[key][0]


# --- damaged and missing files --------------------------------------------------------------------


def empty(path):
    path.write_bytes(b"")


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_end(path):
    path.write_bytes(path.read_bytes()[:-5])


def prepend_latin1(path):
    path.write_bytes(b"\xe9t\xe9\n" + path.read_bytes())


def replace_by_words(path):
    path.write_text("no\tsuch,thing\there {}\n" * 3)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def remove(path):
    path.unlink()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)  # Opening a pipe without a writer blocks.


UNPACK = "{} does not unpack .*; download it again"
PACKED = {empty: UNPACK, halve: UNPACK, cut_end: UNPACK, replace_by_words: UNPACK}
MISSING = (replace_by_folder, remove, replace_by_pipe)
NOT_AN_IMAGE = (empty, halve, cut_end, prepend_latin1, replace_by_words)
IMAGE = dict.fromkeys(NOT_AN_IMAGE, {"image does not decode": 1})
IMAGE |= dict.fromkeys(MISSING, {"image missing": 1})
UTF8 = "{}, line 1: expected UTF-8, got b'.xe9'"
NO_JSON = "{}: expected JSON, got "
A_FOLDER = "{} is a folder; expected a file; move it away"
LIST = "{} is empty; download it again"
PARQUET = dict.fromkeys(
    (empty, halve, cut_end, replace_by_words), "{} is cut short or no Parquet file that can be read"
)


def if_missing(message):
    return dict.fromkeys(MISSING, message)


# {(raw folder, file): {damage: outcome}}. The outcome is an error message or the numbers of dropped
# records. In messages, {} stands for the path of the file and {file} for its name.
DAMAGES = {
    ("table", "t.tsv"): {
        empty: "{} is empty; expected a header",
        prepend_latin1: "{}, line 1: expected UTF-8, got b'.xe9'; save the table as UTF-8",
        halve: r"nothing to write, of 1 records read .no text: 1, such as line 2: a.jpg.",
        **if_missing("raw: name the table with the option file; found: none"),
    },
    ("table", "a.jpg"): IMAGE,
    ("multi30k", "flickr30k-images/1.jpg"): IMAGE,
    ("multi30k", "data/task1/image_splits/train.txt"): {empty: LIST, prepend_latin1: UTF8},
    ("multi30k", "data/task1/raw/train.de.gz"): {
        **PACKED,
        empty: "other numbers of lines: {} 0; download these files again",
        replace_by_folder: A_FOLDER,
    },
    ("multi30k, packed", "flickr30k-images.tar.gz"): {
        **PACKED,
        **if_missing(
            "no photographs of Flickr30K in .*, nor flickr30k-images.tar.gz; set the opti"
        ),
    },
    ("opus", "de-en.txt.zip"): {
        **PACKED,
        replace_by_folder: "no bitext in .*raw; expected zips of OPUS",
    },
    ("ccmatrix", "de-en.txt.zip"): {**PACKED, remove: "no bitext in .*raw; expected zips of OPUS"},
    ("tatoeba", "tatoeba.deu-eng.eng"): {
        empty: "deu-eng.deu has 2 lines and {} 0; .*; download them again",
        prepend_latin1: UTF8,
        **if_missing("{} is missing, but .*deu-eng.deu exists; download it again"),
    },
    ("sts2017", "STS2017-extended.zip"): {
        **PACKED,
        **if_missing("no files such as STS.en-en.txt in "),
    },
    ("sts2017, unpacked", "STS2017-extended/STS.en-en.txt"): {
        empty: LIST,
        prepend_latin1: UTF8,
        halve: {"empty side": 1, "no score": 1},
        replace_by_words: "{}, line 1: expected a score from 0 to 5, got 'here ..'",
        replace_by_folder: A_FOLDER,
    },
    ("xtd10", "XTD10/test_image_names.txt"): {
        empty: LIST,
        prepend_latin1: UTF8,
        replace_by_folder: A_FOLDER,
    },
    ("xtd10", "XTD10/test_1kcaptions_en.txt"): {prepend_latin1: UTF8, replace_by_folder: A_FOLDER},
    ("xtd10", "train2014/COCO_train2014_000000000001.jpg"): IMAGE,
    ("xtd200", "deu_Latn.txt"): {prepend_latin1: UTF8, empty: "deu_Latn.txt has 0 lines, but "},
    ("xtd200", "images/COCO_val2014_000000000001.jpg"): IMAGE,
    ("flickr30k_200", "filenames.txt"): {empty: LIST, prepend_latin1: UTF8},
    ("xm3600", "captions.jsonl"): {
        empty: LIST,
        prepend_latin1: UTF8,
        **dict.fromkeys((cut_end, replace_by_words), "{}, line .*: expected a JSON object"),
        **if_missing("expected captions.jsonl, captions.zip, or Parquet files"),
    },
    ("xm3600, packed", "captions.zip"): PACKED,
    ("xm3600, packed", "images.tgz"): {halve: UNPACK, cut_end: UNPACK},
    ("xm3600, Parquet", "data/ar-00000-of-00001.parquet"): PARQUET,
    ("xflickrco", "annotations/de/test.jsonl"): {
        empty: LIST,
        prepend_latin1: UTF8,
        **dict.fromkeys((halve, cut_end, replace_by_words), "{}, line .*: expected a JSON object"),
        **if_missing("raw lacks 1 of 8 languages: de; download them"),
    },
    ("xflickrco, Parquet", "data/de-00000-of-00001.parquet"): PARQUET,
    ("wit", "data/ar-00000-of-00001.parquet"): PARQUET,
    ("glami", "GLAMI-1M-dataset--test-only.zip"): {
        **PACKED,
        **if_missing("expected GLAMI-1M-dataset--test-only.zip or GLAMI-1M-test.csv in "),
    },
    ("glami, unpacked", "GLAMI-1M-dataset/GLAMI-1M-test.csv"): {
        empty: "{} has no column item_id",
        prepend_latin1: UTF8,
        replace_by_words: "{} has no column item_id",
    },
    ("cvqa", "data/test-00000-of-00001.parquet"): PARQUET,
    ("mvl_sib", "deu_Latn-queries/test-00000-of-00001.parquet"): PARQUET,
    ("coco", "dataset_coco.json"): {
        **dict.fromkeys((empty, halve, cut_end, replace_by_words), NO_JSON),
        prepend_latin1: UTF8,
        **if_missing("expected dataset_coco.json, or caption_datasets.zip which contains it"),
    },
    ("coco", "annotations/captions_train2014.json"): {halve: NO_JSON, prepend_latin1: UTF8},
    ("coco", "train2014/COCO_train2014_000000000001.jpg"): IMAGE,
    ("coco, packed", "caption_datasets.zip"): {
        **PACKED,
        replace_by_folder: "expected dataset_coco.json, or",
    },
    ("coco, packed", "stair_captions_v1.2.tar.gz"): PACKED,
    ("coco, packed", "train2014.zip"): PACKED,
    ("crawl", "00000.tar"): {
        **dict.fromkeys(
            (empty, replace_by_words),
            "nothing to write, .*tar is cut short or broken: 1, such as {}, after nothing",
        ),
        halve: {"tar is cut short or broken": 1},
        replace_by_folder: "no images in .*raw; expected tars, TFRecords, Parquet or folders",
    },
    ("crawl of files", "00000/000000001.jpg"): {
        **dict.fromkeys(NOT_AN_IMAGE, {"image does not decode": 1}),
        replace_by_folder: {"file may not be read": 1},
        remove: {"no image": 1},
    },
    ("crawl of files", "00000/000000001.txt"): {
        empty: {"no caption": 1},
        prepend_latin1: {"caption is not UTF-8": 1},
        replace_by_folder: {"file may not be read": 1},
    },
    ("crawl of files", "00000/000000001.json"): dict.fromkeys(
        (empty, halve, prepend_latin1, replace_by_words), {"json does not parse": 1}
    ),
    ("cc3m", "Train_GCC-training.tsv"): {
        empty: LIST,
        replace_by_words: "{}: expected lines of caption<tab>url, got ",
        prepend_latin1: {"row is not of the list's form": 1},
        **if_missing("expected Train_GCC-training.tsv in .*raw, for the captions; download it, or"),
    },
    ("cc12m", "cc12m.tsv"): {
        empty: LIST,
        replace_by_words: "{}: expected lines of url<tab>caption, got ",
        prepend_latin1: {"row is not of the list's form": 1},
        **if_missing("expected cc12m.tsv in .*raw, for the captions; download it, or use"),
    },
    ("uc2", "train.jsonl"): {
        empty: LIST,
        replace_by_words: '{}: expected lines of .*"caption": .*, got ',
        prepend_latin1: {"row is not of the list's form": 1},
        remove: "no texts of train in .*raw; expected a JSONL, or folders such as",
        replace_by_folder: "{}, .*is no file",
    },
    ("cifar100", "cifar-100-binary.tar.gz"): {
        **PACKED,
        **if_missing("expected {file} or cifar-100-p"),
    },
    ("cifar100, python", "cifar-100-python.tar.gz"): {
        **PACKED,
        **if_missing("expected .* or {file} "),
    },
    ("food101", "food-101.tar.gz"): {
        **PACKED,
        **if_missing("expected {file}, or the folders meta"),
    },
    ("food101, unpacked", "food-101/images/pie/1.jpg"): IMAGE,
    ("food101, unpacked", "food-101/meta/classes.txt"): {prepend_latin1: UTF8},
    ("food101, unpacked", "food-101/meta/train.json"): {
        **dict.fromkeys(NOT_AN_IMAGE, "{} is not a list of photographs; down"),
        replace_by_folder: "/train.txt is missing; download it again",
    },
    ("sun397", "SUN397.tar.gz"): {
        **PACKED,
        **if_missing("expected {file}, or the folder SUN397, in"),
    },
    ("sun397", "Partitions.zip"): {
        **PACKED,
        **if_missing("expected {file}, or ClassName.txt in the f"),
    },
    ("sun397, unpacked", "SUN397/a/abbey/1.jpg"): IMAGE,
    ("sun397, unpacked", "Partitions/Training_01.txt"): {empty: LIST, prepend_latin1: UTF8},
    ("imagenet", "ILSVRC2012_img_train.tar"): {
        **dict.fromkeys((empty, halve, replace_by_words), UNPACK),
        **if_missing("expected {file}, or the folder train, in .*; download it from https"),
    },
    ("imagenet", "ILSVRC2012_devkit_t12.tar.gz"): PACKED,
    ("imagenet, unpacked", "train/n01440764/n01440764_1.JPEG"): {
        halve: {"image does not decode": 2},
        cut_end: {"image does not decode": 2},
        replace_by_words: {"image does not decode": 2},
    },
    ("imagenet, unpacked", "train/n01440764/n01440764_2.JPEG"): {  # a PNG
        cut_end: {"image does not decode": 2},
    },
    ("imagenet, val", "ILSVRC2012_img_val.tar"): {
        empty: UNPACK,
        replace_by_words: UNPACK,
        **if_missing("expected {file}, or the folder val, in .*; download it from https"),
    },
}


@pytest.mark.parametrize("key, file", DAMAGES)
def test_a_damaged_file_is_named_or_counted(damage_and_convert, key, file):
    for damage, expected in DAMAGES[key, file].items():
        outcome = damage_and_convert(key, file, damage)
        if isinstance(expected, str):
            path = re.escape(file)
            pattern = expected.replace("{file}", path).replace("{}", f"[^ ]*/raw/{path}")
            is_message = isinstance(outcome, str)
            assert is_message and re.search(pattern, outcome), (damage.__name__, outcome)
        else:
            undamaged = {} if "imagenet" in key else LEDGERS[key][1]
            assert outcome == {**undamaged, **expected}, damage.__name__


@pytest.mark.parametrize("key", FOLDERS)
def test_a_missing_raw_folder_is_a_user_error(key, tmp_path):
    for raw in (tmp_path / "gone", ""):
        with pytest.raises(UserError, match="^expected raw_dir to be a|^say which|expected"):
            DATASETS[FOLDERS[key][0]].plan(str(raw), FOLDERS[key][1])


def remove_permission(path):
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read files without permission")


@pytest.mark.parametrize("key, file", DAMAGES)
def test_a_file_without_read_permission_is_named_or_counted(damage_and_convert, key, file):
    outcome = damage_and_convert(key, file, remove_permission)
    if isinstance(outcome, str):
        message = f"{re.escape(file)}.* may not be read|Permission denied: .*{file}"
        assert re.search(message, outcome)
    else:
        assert {"image may not be read": 1}.items() <= outcome.items() or outcome == {
            "file may not be read": 1
        }


# --- decompression bombs --------------------------------------------------------------------------


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
# A PNG of 100 bytes whose header claims 3,600 million pixels.
HUGE = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", HEADER)
HUGE += png_chunk(b"IDAT", zlib.compress(bytes(999))) + png_chunk(b"IEND", b"")
WITH_PHOTOGRAPHS = [key for key in FOLDERS if not re.match("opus|ccm|tatoeba|sts|cifar|imag", key)]


def replace_first_photograph(monkeypatch, image):
    """Makes `raw_folders` write `image` as the first photograph; all others are red images."""
    images = itertools.chain([image], itertools.repeat(raw_folders.photograph("red")))
    monkeypatch.setattr(raw_folders, "photograph", lambda color: next(images))


@pytest.mark.parametrize("key", WITH_PHOTOGRAPHS)
def test_an_image_with_too_many_pixels_is_skipped(key, tmp_path, monkeypatch):
    replace_first_photograph(monkeypatch, HUGE)
    FOLDERS[key][2](tmp_path / "raw")
    outcome = convert_to_outcome(key, tmp_path / "raw", tmp_path / "out")
    assert outcome == {"image too large": 1}


@pytest.mark.parametrize("key", WITH_PHOTOGRAPHS)
def test_an_image_with_too_many_bytes_is_skipped(key, tmp_path, monkeypatch):
    """A gigabyte of zeros takes only a megabyte in a compressed archive."""
    replace_first_photograph(monkeypatch, raw_folders.photograph("red") + bytes(100_000))
    FOLDERS[key][2](tmp_path / "raw")
    assert convert_to_outcome(key, tmp_path / "raw", tmp_path / "out") == {}
    monkeypatch.setattr(image_files, "MAX_BYTES", 50_000)
    outcome = convert_to_outcome(key, tmp_path / "raw", tmp_path / "again")
    assert outcome == {"image too large": 1}


def test_an_image_in_a_tar_with_too_many_bytes_is_not_read():
    stream = None
    file = archives.FileRange("a.tar", 512, image_files.MAX_BYTES + 1)
    assert archives.read_image(stream, file) == (None, "image too large")


def test_images_in_inner_tars_with_too_many_bytes_are_skipped(tmp_path, monkeypatch):
    FOLDERS["imagenet"][2](tmp_path / "raw")
    # The PNG has fewer bytes than the limit; each of the four JPEGs has more bytes.
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    outcome = convert_to_outcome("imagenet", tmp_path / "raw", tmp_path / "out")
    assert outcome == {"image too large": 4}


ZEROS = bytes(2_000_000)
BOMBS = {
    ("multi30k", "data/task1/raw/train.de.gz"): gzip.compress(ZEROS),
    ("sts2017", "STS2017-extended.zip"): zip_bytes({"STS.en-en.txt": ZEROS}),
    ("sun397", "Partitions.zip"): zip_bytes({"ClassName.txt": ZEROS}),
    ("coco", "dataset_coco.json"): ZEROS,
    ("coco, packed", "caption_datasets.zip"): zip_bytes({"dataset_coco.json": ZEROS}),
    ("coco, packed", "stair_captions_v1.2.tar.gz"): tar_bytes(
        {"stair_captions_v1.2_train.json": ZEROS}
    ),
    ("cifar100", "cifar-100-binary.tar.gz"): tar_bytes(
        {"cifar-100-binary/fine_label_names.txt": ZEROS, "cifar-100-binary/train.bin": b""}
    ),
    ("cifar100, python", "cifar-100-python.tar.gz"): tar_bytes({"cifar-100-python/meta": ZEROS}),
    ("food101", "food-101.tar.gz"): tar_bytes({"food-101/meta/classes.txt": ZEROS}),
    ("imagenet, val", "ILSVRC2012_devkit_t12.tar.gz"): tar_bytes(
        {"ILSVRC2012_devkit_t12/data/meta.mat": ZEROS}
    ),
}


@pytest.mark.parametrize("key, file", BOMBS)
def test_a_list_that_unpacks_to_too_many_bytes_is_refused(
    damage_and_convert, key, file, monkeypatch
):
    """Reading stops soon after the limit, so the message names a size near the limit."""
    monkeypatch.setattr(bounded_read, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(bounded_read, "_CHUNK_BYTES", 1_000)
    outcome = damage_and_convert(key, file, lambda path: path.write_bytes(BOMBS[key, file]))
    assert re.search(
        r" has [12],00[01],?000 bytes or more, unpacked; expected at most 1,000,000", outcome
    )
    assert os.path.basename(file) in outcome


@pytest.mark.parametrize("key", ["food101", "sun397", "cifar100", "multi30k, packed"])
def test_a_gzip_with_data_after_the_end_of_its_tar_is_refused(damage_and_convert, key, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_PADDING", 1_000_000)
    file = next(file for name, file in DAMAGES if name == key and file.endswith(".tar.gz"))
    outcome = damage_and_convert(
        key, file, lambda path: path.write_bytes(path.read_bytes() + gzip.compress(ZEROS))
    )
    assert outcome.endswith(f"{file} contains data after the end of its tar; download it again")


# --- unusual archives -----------------------------------------------------------------------------


def set_encryption_flag(path):
    """Marks all members of a zip as encrypted."""
    data = path.read_bytes()
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        parts = data.split(signature)
        data = signature.join(
            [parts[0]]
            + [p[: offset - 4] + bytes([p[offset - 4] | 1]) + p[offset - 3 :] for p in parts[1:]]
        )
    path.write_bytes(data)


def corrupt_lzma(path):
    """Compresses a zip again with LZMA, and overwrites the middle of each member."""
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


@pytest.mark.parametrize("damage", [set_encryption_flag, corrupt_lzma])
@pytest.mark.parametrize(
    "key, file",
    [
        ("sts2017", "STS2017-extended.zip"),
        ("sun397", "Partitions.zip"),
        ("coco, packed", "caption_datasets.zip"),
        ("opus", "de-en.txt.zip"),
    ],
)
def test_a_zip_that_cannot_be_unpacked_is_named(damage_and_convert, key, file, damage):
    outcome = damage_and_convert(key, file, damage)
    assert re.search(f"{file}.* (does not unpack|is encrypted)", outcome), outcome


@pytest.mark.parametrize("damage", [set_encryption_flag, corrupt_lzma])
def test_photographs_in_a_zip_that_cannot_be_unpacked_are_skipped(damage_and_convert, damage):
    outcome = damage_and_convert("coco, packed", "train2014.zip", damage)
    assert "nothing to write, of 2 records read (image does not unpack: 2, such as COCO_" in outcome


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
def test_a_tar_with_a_path_outside_of_itself_is_refused(damage_and_convert, key, file, name):
    outcome = damage_and_convert(key, file, lambda path: path.write_bytes(tar_bytes({name: b"x"})))
    assert f"{file} contains {name!r}, a path outside of the archive; download it again" in outcome


def test_a_list_with_a_path_outside_of_the_raw_folder_is_refused(damage_and_convert):
    """Damages a list of `food101`; the lists of other data sets are tested in their test files."""
    outcome = damage_and_convert(
        "food101, unpacked",
        "food-101/meta/train.json",
        lambda path: path.write_bytes(b'{"pie": ["../../../etc/passwd"]}'),
    )
    assert "expected a class of meta/classes.txt and a number" in outcome
    outcome = damage_and_convert(
        "multi30k",
        "data/task1/image_splits/train.txt",
        lambda path: path.write_text("../../etc/passwd\n2.jpg\n"),
    )
    assert "line 1: '../../etc/passwd' is not the file name of an image" in outcome


def test_images_that_are_pipes_do_not_block(damage_and_convert):
    for key, file in DAMAGES:
        if DAMAGES[key, file] is IMAGE:
            assert damage_and_convert(key, file, replace_by_pipe) == {"image missing": 1}
