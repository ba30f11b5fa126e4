import io
import zipfile

import numpy as np
import pytest
from helpers.archives import tar_bytes
from helpers.datasets import convert, read_items
from helpers.files import write_files
from helpers.images import encode, plain_image
from PIL import Image

from tf_mural.data.image_normalization import normalize
from tf_mural.data.records import Record, RecordSet, Skipped
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


IMAGES = {
    "z/zoo/sun_5.jpg": plain_image("red", "PNG"),
    "z/zoo/sun_4.jpg": plain_image("green"),
    "a/abbey/sun_1.jpg": plain_image("blue"),
    "a/abbey/sun_6.jpg": plain_image("white", "BMP"),
    "a/apartment_building/outdoor/sun_2.jpg": plain_image("pink", "GIF", "P"),
    "z/zoo/sun_3.jpg": b"<html>not found</html>",
    "a/abbey/sun_8.jpg": plain_image("black"),  # in neither list
}
EXPECTED = {
    "train": [
        Record("z/zoo/sun_4.jpg", (plain_image("green"),), label=2),
        Record("a/abbey/sun_1.jpg", (plain_image("blue"),), label=0),
        Record(
            "a/apartment_building/outdoor/sun_2.jpg", (plain_image("pink", "GIF", "P"),), label=1
        ),
        Skipped("image does not decode", "z/zoo/sun_3.jpg"),
    ],
    "test": [
        Skipped("image missing", "a/abbey/sun_7.jpg"),
        Record("z/zoo/sun_5.jpg", (plain_image("red", "PNG"),), label=2),
        Record("a/abbey/sun_6.jpg", (plain_image("white", "BMP"),), label=0),
    ],
}


def write_archives(folder, images=IMAGES, lists=PARTITIONS):
    """Writes SUN397.tar.gz and Partitions.zip."""
    folder.mkdir(exist_ok=True)
    members = {f"SUN397/{name}": data for name, data in images.items()}
    (folder / "SUN397.tar.gz").write_bytes(tar_bytes(members))
    with zipfile.ZipFile(folder / "Partitions.zip", "w") as archive:
        archive.writestr("__MACOSX/ClassName.txt", b"\x00")
        for name, data in lists.items():
            archive.writestr(name, data)
    return folder


def write_folders(folder, images=IMAGES, lists=PARTITIONS):
    write_files(folder / "SUN397", images)
    return write_files(folder, {f"Partitions/{name}": data for name, data in lists.items()})


def items(raw, split="train", **options):
    return read_items(sun397, raw, split, **options)


def in_order(items):
    return sorted(items, key=str)


@pytest.mark.parametrize("split", sun397.SPLITS)
def test_archives_and_folders_give_the_same_records(tmp_path, split):
    raw = write_archives(tmp_path / "archives")
    assert items(raw, split) == EXPECTED[split]
    raws = [raw, write_folders(tmp_path / "folders")]
    assert in_order(items(raws[1], split)) == in_order(EXPECTED[split])
    assert [sun397.classes(str(raw)) for raw in raws] == [CLASSES, CLASSES]


def test_the_option_partition_selects_the_lists(tmp_path):
    raw = write_archives(tmp_path / "raw")
    assert items(raw, partition=2) == [EXPECTED["test"][1]]
    assert items(raw, "test", partition=2) == [EXPECTED["train"][1]]
    assert sun397.classes(str(raw), partition=2) == CLASSES
    for partition in (0, 11):
        with pytest.raises(UserError, match=f"expected a partition from 1 to 10, got {partition}"):
            items(raw, partition=partition)
    with pytest.raises(
        UserError, match="expected one Training_03.txt in .*Partitions.zip, found 0"
    ):
        items(raw, partition=3)


@pytest.mark.parametrize("mode", ["P", "1"])
def test_a_bitmap_with_a_palette_keeps_its_pixels(tmp_path, mode):
    colors = np.arange(24, dtype=np.uint8).reshape(4, 6) % 7 * 36
    image = Image.fromarray(np.stack([colors, 255 - colors, colors // 2], -1)).convert(mode)
    raw = write_folders(tmp_path, {**IMAGES, "a/abbey/sun_1.jpg": encode(image, "BMP")})
    (record,) = [item for item in items(raw) if getattr(item, "id", "") == "a/abbey/sun_1.jpg"]
    converted = Image.open(io.BytesIO(normalize(record.images[0]).data))
    assert (converted.format, converted.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(converted), np.asarray(image.convert("RGB")))


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
        ("ClassName.txt", b"/a/abbey\n/a/abbey\n", "ClassName.txt contains a name twice"),
        ("ClassName.txt", b"/a/abbey\n", "Training_01.txt, line 2: expected a class of ClassName"),
        ("ClassName.txt", b"/a/abbey\n\xe9", "ClassName.txt, line 2: expected UTF-8"),
        ("Training_01.txt", b"", "Training_01.txt is empty"),
        ("Training_01.txt", b"/z/zoo/sun_5.jpg\n", "zoo/sun_5.jpg is in both lists of partition 1"),
        ("Training_01.txt", b"/z/zoo/a.jpg\n" * 2, "Training_01.txt contains a photograph twice"),
        ("Training_01.txt", b"/z/zoo/\n", "line 1: expected a class .*, got '/z/zoo/'"),
        ("Training_01.txt", b"/z/zoo/..\n", r"line 1: expected a class .*, got '/z/zoo/\.\.'"),
        ("Training_01.txt", b"/z/../etc/passwd\n", "line 1: expected a class .*/etc/passwd"),
    ],
)
def test_contradictory_lists_are_refused(tmp_path, name, data, message):
    lists = {**PARTITIONS, name: data}
    lists = {key: value for key, value in lists.items() if value is not None}
    for write in (write_archives, write_folders):
        with pytest.raises(UserError, match=message):
            items(write(tmp_path / write.__name__, lists=lists))


def test_corrupt_archives_are_refused(tmp_path):
    raw = write_archives(tmp_path / "raw")
    for name in ("SUN397.tar.gz", "Partitions.zip"):
        archive = (raw / name).read_bytes()
        for corrupt in (archive[: len(archive) // 2], archive[:-7], b""):
            (raw / name).write_bytes(corrupt)
            with pytest.raises(UserError, match=f"{name} does not unpack .*; download it again"):
                items(raw)
        (raw / name).write_bytes(archive)
    write_archives(raw, {"../../x.jpg": b"x"})
    with pytest.raises(UserError, match=r"contains 'SUN397/\.\./\.\./x.jpg', a path outside of"):
        items(raw)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="expected SUN397.tar.gz, or the folder SUN397, in "):
        items(tmp_path)
    write_files(tmp_path / "SUN397", IMAGES)
    with pytest.raises(UserError, match="expected Partitions.zip, or ClassName.txt in the folder"):
        items(tmp_path)
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            sun397.plan(raw_dir, "train")
    with pytest.raises(UserError, match="unknown split of sun397 'val'"):
        items(write_archives(tmp_path / "raw"), "val")


def test_a_conversion_counts_every_image_and_notices_a_new_archive(tmp_path):
    raw = write_archives(tmp_path / "raw")
    manifest = convert("sun397", raw, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (4, 3)
    assert ledger["dropped"] == {"image does not decode": 1}
    assert ledger["examples"] == {"image does not decode": ["z/zoo/sun_3.jpg"]}
    assert manifest["classes"] == CLASSES
    labels = {record.id[-5]: record.label for record in RecordSet.open(tmp_path / "out/train")}
    assert labels == {"4": 2, "1": 0, "2": 1}
    ledger = convert("sun397", raw, tmp_path / "out", "test")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (3, 2, {"image missing": 1})
    convert("sun397", raw, tmp_path / "out", "train")  # The existing set is kept.
    write_archives(raw, {**IMAGES, "z/zoo/sun_3.jpg": plain_image("red")})
    with pytest.raises(UserError, match="another recipe"):
        convert("sun397", raw, tmp_path / "out", "train")
