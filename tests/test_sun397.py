import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS
from tf_mural.datasets.classification import sun397
from tf_mural.errors import UserError

CLASSES = ["abbey", "apartment_building/outdoor", "zoo"]
PARTITIONS = {
    "ClassName.txt": b"/a/abbey\n/a/apartment_building/outdoor\n/z/zoo\n",
    "Training_01.txt": b"/a/abbey/sun_1.jpg\n/a/apartment_building/outdoor/sun_2.jpg\n"
    b"/z/zoo/sun_3.jpg\n/z/zoo/sun_4.jpg",
    "Testing_01.txt": b"/z/zoo/sun_5.jpg\r\n/a/abbey/sun_6.jpg\r\n/a/abbey/sun_7.jpg\r\n",
    "Training_02.txt": b"/z/zoo/sun_5.jpg\n",
    "Testing_02.txt": b"/a/abbey/sun_1.jpg\n",
}


def picture(color, format="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).convert(mode).save(buffer, format)
    return buffer.getvalue()


IMAGES = {
    "z/zoo/sun_5.jpg": picture("red", "PNG"),
    "z/zoo/sun_4.jpg": picture("green"),
    "a/abbey/sun_1.jpg": picture("blue"),
    "a/abbey/sun_6.jpg": picture("white", "BMP"),
    "a/apartment_building/outdoor/sun_2.jpg": picture("pink", "GIF", "P"),
    "z/zoo/sun_3.jpg": b"<html>not found</html>",
    "a/abbey/sun_8.jpg": picture("black"),  # in no list
}
EXPECTED = {
    "train": [
        Record("z/zoo/sun_4.jpg", (picture("green"),), label=2),
        Record("a/abbey/sun_1.jpg", (picture("blue"),), label=0),
        Record("a/apartment_building/outdoor/sun_2.jpg", (picture("pink", "GIF", "P"),), label=1),
        Dropped("image does not decode", "z/zoo/sun_3.jpg"),
    ],
    "test": [
        Dropped("image missing", "a/abbey/sun_7.jpg"),
        Record("z/zoo/sun_5.jpg", (picture("red", "PNG"),), label=2),
        Record("a/abbey/sun_6.jpg", (picture("white", "BMP"),), label=0),
    ],
}


def put(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def archives(folder, images=IMAGES, lists=PARTITIONS):
    """SUN397.tar.gz and Partitions.zip."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "SUN397.tar.gz", "w:gz") as archive:
        for name, data in images.items():
            info = tarfile.TarInfo(f"SUN397/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(folder / "Partitions.zip", "w") as archive:
        archive.writestr("__MACOSX/ClassName.txt", b"\x00")
        for name, data in lists.items():
            archive.writestr(name, data)
    return folder


def folders(folder, images=IMAGES, lists=PARTITIONS):
    put(folder / "SUN397", images)
    return put(folder, {f"Partitions/{name}": data for name, data in lists.items()})


def items(raw, split="train", **options):
    units = sun397.plan(str(raw), split, **options)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in sun397.read(unit)]


def in_order(found):
    return sorted(found, key=str)


@pytest.mark.parametrize("split", sun397.SPLITS)
def test_archives_and_folders_say_the_same(tmp_path, split):
    raw = archives(tmp_path / "archives")
    assert items(raw, split) == EXPECTED[split]
    raws = [raw, folders(tmp_path / "folders")]
    assert in_order(items(raws[1], split)) == in_order(EXPECTED[split])
    assert [sun397.classes(str(raw)) for raw in raws] == [CLASSES, CLASSES]


def test_partitions_are_a_choice(tmp_path):
    raw = archives(tmp_path / "raw")
    assert items(raw, partition=2) == [EXPECTED["test"][1]]
    assert items(raw, "test", partition=2) == [EXPECTED["train"][1]]
    assert sun397.classes(str(raw), partition=2) == CLASSES
    for partition in (0, 11):
        with pytest.raises(UserError, match=f"expected a partition of 1 to 10, got {partition}"):
            items(raw, partition=partition)
    with pytest.raises(
        UserError, match="expected one Training_03.txt in .*Partitions.zip, found 0"
    ):
        items(raw, partition=3)


@pytest.mark.parametrize("mode", ["P", "1"])
def test_a_bitmap_with_a_palette_keeps_its_pixels(tmp_path, mode):
    colors = np.arange(24, dtype=np.uint8).reshape(4, 6) % 7 * 36
    buffer = io.BytesIO()
    image = Image.fromarray(np.stack([colors, 255 - colors, colors // 2], -1)).convert(mode)
    image.save(buffer, "BMP")
    raw = folders(tmp_path, {**IMAGES, "a/abbey/sun_1.jpg": buffer.getvalue()})
    (record,) = [item for item in items(raw) if getattr(item, "id", "") == "a/abbey/sun_1.jpg"]
    found = Image.open(io.BytesIO(record.images[0]))
    assert (found.format, found.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("ClassName.txt", None, "(expected one|or) ClassName.txt in"),
        ("ClassName.txt", b"", "ClassName.txt is empty"),
        (
            "ClassName.txt",
            b"/a/abbey\nzoo\n",
            "line 2: expected a name such as /a/abbey, got 'zoo'",
        ),
        ("ClassName.txt", b"/a/../..\n", r"line 1: expected a name .*, got '/a/\.\./\.\.'"),
        ("ClassName.txt", b"/a/abbey\n/a/abbey\n", "ClassName.txt has a name twice"),
        ("ClassName.txt", b"/a/abbey\n", "Training_01.txt, line 2: expected a class of ClassName"),
        ("ClassName.txt", b"/a/abbey\n\xe9", "ClassName.txt, line 2: expected UTF-8"),
        ("Training_01.txt", b"", "Training_01.txt is empty"),
        ("Training_01.txt", b"/z/zoo/sun_5.jpg\n", "zoo/sun_5.jpg is in both lists of partition 1"),
        ("Training_01.txt", b"/z/zoo/a.jpg\n" * 2, "Training_01.txt has a photograph twice"),
        ("Training_01.txt", b"/z/zoo/\n", "line 1: expected a class .*, got '/z/zoo/'"),
        ("Training_01.txt", b"/z/zoo/..\n", r"line 1: expected a class .*, got '/z/zoo/\.\.'"),
        ("Training_01.txt", b"/z/../etc/passwd\n", "line 1: expected a class .*/etc/passwd"),
    ],
)
def test_lists_that_contradict_each_other(tmp_path, name, data, message):
    lists = {**PARTITIONS, name: data}
    lists = {key: value for key, value in lists.items() if value is not None}
    for write in (archives, folders):
        with pytest.raises(UserError, match=message):
            items(write(tmp_path / write.__name__, lists=lists))


def test_archives_that_are_broken(tmp_path):
    raw = archives(tmp_path / "raw")
    for name in ("SUN397.tar.gz", "Partitions.zip"):
        whole = (raw / name).read_bytes()
        for broken in (whole[: len(whole) // 2], whole[:-7], b""):
            (raw / name).write_bytes(broken)
            with pytest.raises(UserError, match=f"{name} does not unpack .*; download it again"):
                items(raw)
        (raw / name).write_bytes(whole)
    archives(raw, {"../../x.jpg": b"x"})
    with pytest.raises(UserError, match=r"has 'SUN397/\.\./\.\./x.jpg', a place outside of it"):
        items(raw)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="expected SUN397.tar.gz, or the folder SUN397, in "):
        items(tmp_path)
    put(tmp_path / "SUN397", IMAGES)
    with pytest.raises(UserError, match="expected Partitions.zip, or ClassName.txt in the folder"):
        items(tmp_path)
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            sun397.plan(gone, "train")
    with pytest.raises(UserError, match="unknown split of sun397 'val'"):
        items(archives(tmp_path / "raw"), "val")


def convert(raw, out, split):
    return conversion.convert(
        DATASETS["sun397"], "sun397", str(raw), str(out), split, processes=1, progress=str
    )


def test_the_ledger_is_whole(tmp_path):
    raw = archives(tmp_path / "raw")
    manifest = convert(raw, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (4, 3)
    assert ledger["dropped"] == {"image does not decode": 1}
    assert ledger["examples"] == {"image does not decode": ["z/zoo/sun_3.jpg"]}
    assert manifest["classes"] == CLASSES
    assert {r.id[-5]: r.label for r in RecordSet.open(tmp_path / "out/train")} == {
        "4": 2,
        "1": 0,
        "2": 1,
    }
    ledger = convert(raw, tmp_path / "out", "test")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (3, 2, {"image missing": 1})
    convert(raw, tmp_path / "out", "train")  # kept
    archives(raw, {**IMAGES, "z/zoo/sun_3.jpg": picture("red")})
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out", "train")
