import gzip
import io
import json
import pickle
import tarfile

import pytest
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS
from tf_mural.datasets.classification import food101, listed
from tf_mural.errors import UserError

CLASSES = ["apple_pie", "baby_back_ribs", "waffles"]
TRAIN = {"waffles": ["waffles/7", "waffles/8"], "apple_pie": ["apple_pie/1", "apple_pie/2"]}
TEST = {"baby_back_ribs": ["baby_back_ribs/5"], "waffles": ["waffles/9"]}


def picture(color):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, "JPEG")
    return buffer.getvalue()


IMAGES = {
    "apple_pie/1": picture("red"),
    "waffles/7": picture("blue"),
    "waffles/8": picture("white")[:-40],  # cut short
    "waffles/9": picture("black"),
    "baby_back_ribs/5": picture("green"),
    "waffles/10": picture("pink"),  # in no list
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
        Dropped("image missing", "images/apple_pie/2.jpg"),
        Record("apple_pie/1", (picture("red"),), label=0),
        Record("waffles/7", (picture("blue"),), label=2),
        Dropped("image does not decode", "waffles/8"),
    ],
    "test": [
        Record("waffles/9", (picture("black"),), label=2),
        Record("baby_back_ribs/5", (picture("green"),), label=1),
    ],
}


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"food-101/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def unpacked(folder, files):
    for name, data in files.items():
        path = folder / "food-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "food-101"


def items(raw, split="train"):
    units = food101.plan(str(raw), split)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in food101.read(unit)]


def in_order(found):
    return sorted(found, key=str)


@pytest.mark.parametrize("split", food101.SPLITS)
def test_an_archive_and_a_folder_say_the_same(tmp_path, split):
    archive = tar(tmp_path / "food-101.tar.gz", FILES)
    assert items(archive, split) == EXPECTED[split]
    assert items(tmp_path, split) == EXPECTED[split]
    plain = tar(tmp_path / "plain.tar", FILES, "w:")
    assert items(plain, split) == EXPECTED[split]
    folder = unpacked(tmp_path / "raw", FILES)
    for raw in (folder, folder.parent):
        assert in_order(items(raw, split)) == in_order(EXPECTED[split])
        assert food101.classes(str(raw)) == CLASSES


@pytest.mark.parametrize("split", food101.SPLITS)
def test_lists_of_lines_do_too(tmp_path, split):
    files = {name: data for name, data in FILES.items() if not name.endswith(".json")}
    assert items(tar(tmp_path / "food-101.tar.gz", files), split) == EXPECTED[split]


@pytest.mark.parametrize("mode", ["w:gz", "w:"])
def test_units_part_the_archive(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(listed, "_RECORDS_PER_UNIT", 1)
    archive = tar(tmp_path / "food-101.tar.gz", FILES, mode)
    units = food101.plan(str(archive), "train")
    found = [list(food101.read(unit)) for unit in units]
    assert found == [EXPECTED["train"][:2], *([item] for item in EXPECTED["train"][2:])]
    if mode == "w:gz":  # Every further part passes over more of it.
        monkeypatch.setattr(listed, "_MOST_PACKED_UNITS", 2)
        assert len(food101.plan(str(archive), "train")) == 2


def test_a_picture_that_begins_as_a_gzip_is_counted(tmp_path):
    files = {**FILES, "images/apple_pie/1.jpg": gzip.compress(picture("red"))}
    for raw in (tar(tmp_path / "food-101.tar.gz", files), unpacked(tmp_path / "raw", files)):
        assert Dropped("image does not decode", "apple_pie/1") in items(raw)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("meta/classes.txt", None, "meta/classes.txt is missing|expected food-101.tar.gz, or"),
        ("meta/classes.txt", b"", "classes.txt is empty"),
        ("meta/classes.txt", b"waffles\nwaffles\n", "has a name twice"),
        (
            "meta/classes.txt",
            b"waffles\n",
            "expected a class of .* such as waffles/.*'apple_pie/1'",
        ),
        ("meta/train.json", b"", "train.json is no list of photographs"),
        ("meta/train.json", b"{}", "train.json is empty"),
        ("meta/train.json", b'{"waffles": 3}', "train.json is no list of photographs"),
        ("meta/train.json", b'{"waffles": [3]}', "3 is no name"),
        ("meta/train.json", b'{"waffles": ["waffles/7", "waffles/7"]}', "'waffles/7' .* twice"),
        (
            "meta/train.json",
            b'{"waffles": ["waffles/9"]}',
            "waffles/9 is both in train and in test",
        ),
        ("meta/train.json", b'{"waffles": ["../../x"]}', r"got '\.\./\.\./x'"),
        ("meta/train.json", b'{"waffles": ["waffles/../7"]}', r"got 'waffles/\.\./7'"),
        ("../x.jpg", b"x", r"has 'food-101/\.\./x.jpg', a place outside of it"),
    ],
)
def test_lists_that_contradict_each_other(tmp_path, name, data, message):
    files = {**FILES, name: data}
    files = {key: value for key, value in files.items() if value is not None}
    raws = [tar(tmp_path / "food-101.tar.gz", files)]
    if not name.startswith(".."):
        raws.append(unpacked(tmp_path / "raw", files))
    for raw in raws:
        with pytest.raises(UserError, match=message):
            items(raw)


def test_archives_that_are_broken(tmp_path):
    for mode in ("w:gz", "w:"):
        path = tar(tmp_path / "food-101.tar.gz", FILES, mode)
        whole = path.read_bytes()
        cuts = [len(whole) // 2, 700, 0]
        if mode == "w:gz":
            cuts.append(len(whole) - 4)  # in the checksum
        else:
            # In a header, and between two of them: tarfile alone takes each for the end.
            cuts += [whole.rindex(b"food-101/") + 100, whole.rindex(b"food-101/")]
        for cut in cuts:
            path.write_bytes(whole[:cut])
            with pytest.raises(UserError, match="gz does not unpack .*; download it again"):
                items(path)
        if mode == "w:":
            at = whole.rindex(b"food-101/")
            path.write_bytes(whole[:at] + b"F" + whole[at + 1 :])
            with pytest.raises(UserError, match="gz does not unpack .*bad checksum"):
                items(path)
    with tarfile.open(path, "w:") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("food-101/images/apple_pie/1.jpg"))
    with pytest.raises(UserError, match="holds food-101/images/apple_pie/1.jpg twice"):
        items(path)


def test_a_photograph_that_goes_meanwhile_is_counted(tmp_path):
    folder = unpacked(tmp_path / "raw", FILES)
    units = food101.plan(str(folder), "train")
    (folder / "images/waffles/7.jpg").unlink()
    found = [item for unit in units for item in food101.read(unit)]
    assert Dropped("image may not be read", "waffles/7") in found and len(found) == 4


def test_links_are_no_pictures(tmp_path):
    path = tmp_path / "food-101.tar.gz"
    files = {name: data for name, data in FILES.items() if name != "images/apple_pie/1.jpg"}
    tar(path, files, "w:")
    with tarfile.open(path, "a:") as archive:
        link = tarfile.TarInfo("food-101/images/apple_pie/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert Dropped("image missing", "images/apple_pie/1.jpg") in items(path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="expected food-101.tar.gz, or meta and images, in "):
        items(tmp_path)
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, or food-101"):
            food101.plan(gone, "train")
    with pytest.raises(UserError, match="unknown split of food101 'val'"):
        items(tar(tmp_path / "food-101.tar.gz", FILES), "val")


def convert(raw, out, split="train"):
    return conversion.convert(
        DATASETS["food101"], "food101", str(raw), str(out), split, processes=1, progress=str
    )


def test_the_ledger_is_whole(tmp_path):
    folder = unpacked(tmp_path / "raw", FILES)
    manifest = convert(folder, tmp_path / "out")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (4, 2)
    assert ledger["dropped"] == {"image does not decode": 1, "image missing": 1}
    assert manifest["classes"] == CLASSES
    kept = {record.id: record.label for record in RecordSet.open(tmp_path / "out/train")}
    assert kept == {"waffles/7": 2, "apple_pie/1": 0}
    convert(folder, tmp_path / "out")  # kept
    (folder / "images/apple_pie/2.jpg").write_bytes(picture("pink"))
    with pytest.raises(UserError, match="another recipe"):
        convert(folder, tmp_path / "out")
