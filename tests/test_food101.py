import gzip
import json
import tarfile

import pytest
from helpers.archives import tar_bytes
from helpers.datasets import convert, read_items
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets.classification import food101, image_list
from tf_mural.errors import UserError

CLASSES = ["apple_pie", "baby_back_ribs", "waffles"]
TRAIN = {"waffles": ["waffles/7", "waffles/8"], "apple_pie": ["apple_pie/1", "apple_pie/2"]}
TEST = {"baby_back_ribs": ["baby_back_ribs/5"], "waffles": ["waffles/9"]}


IMAGES = {
    "apple_pie/1": plain_image("red"),
    "waffles/7": plain_image("blue"),
    "waffles/8": plain_image("white")[:-40],  # truncated
    "waffles/9": plain_image("black"),
    "baby_back_ribs/5": plain_image("green"),
    "waffles/10": plain_image("pink"),  # in neither list
}
FILES = {f"images/{name}.jpg": data for name, data in IMAGES.items()}
FILES |= {
    "meta/classes.txt": b"apple_pie\nbaby_back_ribs\nwaffles\n",
    "meta/labels.txt": b"Apple pie\nBaby back ribs\nWaffles\n",
    "meta/train.json": json.dumps(TRAIN).encode(),
    "meta/test.json": json.dumps(TEST).encode(),
    "meta/train.txt": "\n".join(sum(TRAIN.values(), [])).encode(),
    "meta/test.txt": "\n".join(sum(TEST.values(), [])).encode(),
}
EXPECTED = {
    "train": [
        Skipped("image missing", "images/apple_pie/2.jpg"),
        Record("apple_pie/1", (plain_image("red"),), label=0),
        Record("waffles/7", (plain_image("blue"),), label=2),
        Skipped("image does not decode", "waffles/8"),
    ],
    "test": [
        Record("waffles/9", (plain_image("black"),), label=2),
        Record("baby_back_ribs/5", (plain_image("green"),), label=1),
    ],
}


def write_tar(path, files, mode="w:gz"):
    path.write_bytes(tar_bytes({f"food-101/{name}": data for name, data in files.items()}, mode))
    return path


def unpacked(folder, files):
    return write_files(folder / "food-101", files)


def items(raw, split="train"):
    return read_items(food101, raw, split)


def in_order(items):
    return sorted(items, key=str)


@pytest.mark.parametrize("split", food101.SPLITS)
def test_an_archive_and_a_folder_give_the_same_records(tmp_path, split):
    archive = write_tar(tmp_path / "food-101.tar.gz", FILES)
    assert items(archive, split) == EXPECTED[split]
    assert items(tmp_path, split) == EXPECTED[split]
    plain = write_tar(tmp_path / "plain.tar", FILES, "w:")
    assert items(plain, split) == EXPECTED[split]
    folder = unpacked(tmp_path / "raw", FILES)
    for raw in (folder, folder.parent):
        assert in_order(items(raw, split)) == in_order(EXPECTED[split])
        assert food101.classes(str(raw)) == CLASSES


@pytest.mark.parametrize("split", food101.SPLITS)
def test_text_lists_give_the_same_records_as_json_lists(tmp_path, split):
    files = {name: data for name, data in FILES.items() if not name.endswith(".json")}
    assert items(write_tar(tmp_path / "food-101.tar.gz", files), split) == EXPECTED[split]


@pytest.mark.parametrize("mode", ["w:gz", "w:"])
def test_units_divide_an_archive_into_parts(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(image_list, "_RECORDS_PER_UNIT", 1)
    archive = write_tar(tmp_path / "food-101.tar.gz", FILES, mode)
    units = food101.plan(str(archive), "train")
    actual = [list(food101.read(unit)) for unit in units]
    assert actual == [EXPECTED["train"][:2], *([item] for item in EXPECTED["train"][2:])]
    if mode == "w:gz":  # Each unit decompresses the archive from its start.
        monkeypatch.setattr(image_list, "_MAX_GZIP_UNITS", 2)
        assert len(food101.plan(str(archive), "train")) == 2


def test_a_compressed_image_is_counted_as_undecodable(tmp_path):
    files = {**FILES, "images/apple_pie/1.jpg": gzip.compress(plain_image("red"))}
    for raw in (write_tar(tmp_path / "food-101.tar.gz", files), unpacked(tmp_path / "raw", files)):
        assert Skipped("image does not decode", "apple_pie/1") in items(raw)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("meta/classes.txt", None, "meta/classes.txt is missing|expected food-101.tar.gz, or"),
        ("meta/classes.txt", b"", "classes.txt is empty"),
        ("meta/classes.txt", b"waffles\nwaffles\n", "contains a name twice"),
        (
            "meta/classes.txt",
            b"waffles\n",
            "expected a class of .* such as waffles/.*'apple_pie/1'",
        ),
        ("meta/train.json", b"", "train.json is not a list of photographs"),
        ("meta/train.json", b"{}", "train.json is empty"),
        ("meta/train.json", b'{"waffles": 3}', "train.json is not a list of photographs"),
        ("meta/train.json", b'{"waffles": [3]}', "expected the name of an image, got 3"),
        (
            "meta/train.json",
            b'{"waffles": ["waffles/7", "waffles/7"]}',
            "train.json contains 'waffles/7' twice",
        ),
        (
            "meta/train.json",
            b'{"waffles": ["waffles/9"]}',
            "waffles/9 is in both train and test",
        ),
        ("meta/train.json", b'{"waffles": ["../../x"]}', r"got '\.\./\.\./x'"),
        ("meta/train.json", b'{"waffles": ["waffles/../7"]}', r"got 'waffles/\.\./7'"),
        ("../x.jpg", b"x", r"contains 'food-101/\.\./x.jpg', a path outside of"),
    ],
)
def test_contradictory_lists_are_refused(tmp_path, name, data, message):
    files = {**FILES, name: data}
    files = {key: value for key, value in files.items() if value is not None}
    raws = [write_tar(tmp_path / "food-101.tar.gz", files)]
    if not name.startswith(".."):
        raws.append(unpacked(tmp_path / "raw", files))
    for raw in raws:
        with pytest.raises(UserError, match=message):
            items(raw)


def test_corrupt_archives_are_refused(tmp_path):
    for mode in ("w:gz", "w:"):
        path = write_tar(tmp_path / "food-101.tar.gz", FILES, mode)
        archive = path.read_bytes()
        sizes = [len(archive) // 2, 700, 0]
        if mode == "w:gz":
            sizes.append(len(archive) - 4)  # cuts the checksum
        else:
            # With these two sizes, the tar ends inside a header or between two files. The module
            # `tarfile` reports no error for such a tar.
            last = archive.rindex(b"food-101/")
            sizes += [last + 100, last]
        for size in sizes:
            path.write_bytes(archive[:size])
            with pytest.raises(UserError, match="gz does not unpack .*; download it again"):
                items(path)
        if mode == "w:":
            path.write_bytes(archive[:last] + b"F" + archive[last + 1 :])
            with pytest.raises(UserError, match="gz does not unpack .*bad checksum"):
                items(path)
    with tarfile.open(path, "w:") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("food-101/images/apple_pie/1.jpg"))
    with pytest.raises(UserError, match="contains food-101/images/apple_pie/1.jpg twice"):
        items(path)


def test_a_photograph_deleted_after_planning_is_counted(tmp_path):
    folder = unpacked(tmp_path / "raw", FILES)
    units = food101.plan(str(folder), "train")
    (folder / "images/waffles/7.jpg").unlink()
    actual = [item for unit in units for item in food101.read(unit)]
    assert Skipped("image may not be read", "waffles/7") in actual and len(actual) == 4


def test_links_in_archives_are_not_followed(tmp_path):
    path = tmp_path / "food-101.tar.gz"
    files = {name: data for name, data in FILES.items() if name != "images/apple_pie/1.jpg"}
    write_tar(path, files, "w:")
    with tarfile.open(path, "a:") as archive:
        link = tarfile.TarInfo("food-101/images/apple_pie/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert Skipped("image missing", "images/apple_pie/1.jpg") in items(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="expected food-101.tar.gz, or the folders meta and images"):
        items(tmp_path)
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, or food-101"):
            food101.plan(raw_dir, "train")
    with pytest.raises(UserError, match="unknown split of food101 'val'"):
        items(write_tar(tmp_path / "food-101.tar.gz", FILES), "val")


def test_a_conversion_counts_every_image_and_notices_a_new_one(tmp_path):
    folder = unpacked(tmp_path / "raw", FILES)
    manifest = convert("food101", folder, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (4, 2)
    assert ledger["dropped"] == {"image does not decode": 1, "image missing": 1}
    assert manifest["classes"] == CLASSES
    labels = {record.id: record.label for record in RecordSet.open(tmp_path / "out/train")}
    assert labels == {"waffles/7": 2, "apple_pie/1": 0}
    convert("food101", folder, tmp_path / "out", "train")  # The existing set is kept.
    (folder / "images/apple_pie/2.jpg").write_bytes(plain_image("pink"))
    with pytest.raises(UserError, match="another recipe"):
        convert("food101", folder, tmp_path / "out", "train")
