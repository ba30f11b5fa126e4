import io

import numpy as np
import pytest
from helpers.archives import tar_bytes
from helpers.datasets import convert, read_items
from helpers.files import write_files
from helpers.imagenet_files import (
    CLASSES,
    FOX,
    GROUND_TRUTH,
    KIT,
    META,
    SETTER,
    TENCH,
    TRAIN,
    VAL,
    VALIDATION,
    as_archives,
    as_folders,
    as_tars_in_folders,
    inner_tars,
    kit_files,
)
from helpers.images import plain_image
from PIL import Image

from tf_mural.data.records import Record, RecordSet, Skipped
from tf_mural.datasets.classification import imagenet
from tf_mural.errors import UserError

EXPECTED = [
    Record("n01440764_1", (plain_image("red"),), label=0),
    Record("n01440764_2", (plain_image("red", "PNG"),), label=0),
    Record("n02100735_3", (plain_image("white", mode="CMYK"),), label=1),
    Record("n02119789_7", (plain_image("blue"),), label=2),
    Skipped("image does not decode", "n02119789_8"),
]
EXPECTED_VAL = [
    Skipped("image missing", "ILSVRC2012_val_00000003.JPEG"),
    Record("ILSVRC2012_val_00000001", (plain_image("green"),), label=0),
    Record("ILSVRC2012_val_00000002", (plain_image("pink"),), label=2),
    Record("ILSVRC2012_val_00000004", (plain_image("black"),), label=1),
]


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    monkeypatch.setattr(imagenet, "_NUM_CLASSES", 3)


@pytest.fixture
def raw(tmp_path):
    return write_files(tmp_path / "raw", as_archives())


def items(raw, split="train"):
    return read_items(imagenet, raw, split)


@pytest.mark.parametrize("layout", [as_archives, as_tars_in_folders, as_folders])
def test_archives_and_folders_give_the_same_records(tmp_path, layout):
    raw = write_files(tmp_path / "raw", layout())
    assert items(raw) == EXPECTED
    assert items(raw, "val") == EXPECTED_VAL
    assert imagenet.classes(str(raw)) == CLASSES
    assert imagenet.splits(str(raw)) == ("train", "val")


def test_the_training_set_does_not_need_the_kit(raw):
    (raw / f"{KIT}.tar.gz").unlink()
    (raw / VAL).unlink()
    assert items(raw) == EXPECTED
    assert imagenet.classes(str(raw)) == [TENCH, SETTER, FOX]
    assert imagenet.splits(str(raw)) == ("train",)


def test_a_unit_has_some_of_the_classes(raw, monkeypatch):
    assert len(imagenet.plan(str(raw), "train")) == 3
    monkeypatch.setattr(imagenet, "_MAX_UNITS", 2)
    units = imagenet.plan(str(raw), "train")
    assert [[item.label for item in unit.classes] for unit in units] == [[0], [1, 2]]
    assert [item for unit in units for item in imagenet.read(unit)] == EXPECTED


@pytest.mark.parametrize(
    "missing, message",
    [
        (TENCH, "expected 3 classes, found 2"),
        (KIT, "differ in 1 classes, such as n01440764; download both again"),
    ],
)
def test_missing_classes_are_refused(raw, missing, message):
    tars = inner_tars()
    del tars[f"{TENCH}.tar"]
    write_files(raw, {TRAIN: tar_bytes(tars, "w:")})
    if missing == TENCH:
        (raw / f"{KIT}.tar.gz").unlink()
    with pytest.raises(UserError, match=message):
        items(raw)


def test_another_number_of_classes_is_refused(raw, monkeypatch):
    monkeypatch.setattr(imagenet, "_NUM_CLASSES", 4)
    for split in imagenet.SPLITS:
        with pytest.raises(UserError, match="expected 4 classes, found 3; labels are positions"):
            items(raw, split)


@pytest.mark.parametrize(
    "files, message",
    [
        (kit_files(meta=b""), "meta.mat is not a table of classes"),
        (kit_files(meta=META[:-30]), "meta.mat is not a table of classes .*truncated"),
        (kit_files(meta=META[:160] + bytes(9) + META[169:]), "meta.mat is not a table of classes"),
        (kit_files(meta=b"plain text" * 50), "not of Matlab's version 5"),
        (
            kit_files(meta=META[:128]),
            r"meta.mat is not a table .*\(KeyError\('synsets'\)\)",
        ),
        (
            kit_files(ground_truth=b""),
            "ground_truth.txt, line 1: expected a class number",
        ),
        (
            kit_files(ground_truth=b"1\n0\n"),
            "ground_truth.txt, line 2: expected a class number",
        ),
        (
            kit_files(ground_truth=b"1\nfox\n"),
            "ground_truth.txt, line 2: expected a class number",
        ),
        (
            kit_files(ground_truth=b"1\n4\n"),
            "val_00000002 is of class 4, which meta.mat does not contain",
        ),
        ({f"{KIT}/data/meta.mat": META}, "ground_truth.txt is missing"),
        ({}, "expected ILSVRC2012_devkit_t12.tar.gz in .*, for the labels"),
    ],
)
def test_a_corrupt_kit_is_refused(tmp_path, files, message):
    write_files(tmp_path, {VAL: tar_bytes(VALIDATION, "w:"), **files})
    with pytest.raises(UserError, match=message):
        items(tmp_path, "val")


def test_a_corrupt_tar_is_refused(raw):
    archive = (raw / TRAIN).read_bytes()
    for size in (len(archive) // 2, 700, 0):
        (raw / TRAIN).write_bytes(archive[:size])
        with pytest.raises(UserError, match="img_train.tar does not unpack .*; download it again"):
            items(raw)
    for corrupt, message in (
        (inner_tars()[f"{FOX}.tar"][:1536], "contains a tar that ends before n02100735.tar does"),
        (b"", "contains a tar that ends before n02100735.tar does"),
        (tar_bytes({}, "w:"), "img_train.tar has no photographs of n02119789"),
        (tar_bytes({"../n1.JPEG": b"x"}, "w:"), r"contains '\.\./n1.JPEG', a path outside of"),
        (tar_bytes({"/n1.JPEG": b"x"}, "w:"), "contains '/n1.JPEG', a path outside of the archive"),
        (tar_bytes({"a/n1.JPEG": b"x", "b/n1.JPEG": b"y"}, "w:"), "contains n1.JPEG twice"),
    ):
        write_files(raw, {TRAIN: tar_bytes({**inner_tars(), f"{FOX}.tar": corrupt}, "w:")})
        with pytest.raises(UserError, match=message):
            items(raw)
    with pytest.raises(UserError, match="img_train.tar has no tars such as n01440764.tar"):
        items(write_files(raw, {TRAIN: tar_bytes({"readme.txt": b"read me"}, "w:")}))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="expected ILSVRC2012_img_train.tar, or the folder train"):
        items(tmp_path)
    with pytest.raises(UserError, match="expected ILSVRC2012_img_val.tar, or the folder val"):
        items(tmp_path, "val")
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            imagenet.plan(raw_dir, "train")
    with pytest.raises(UserError, match="unknown split of imagenet 'test'"):
        items(tmp_path, "test")


def test_a_conversion_counts_every_image_and_notices_new_labels(raw, tmp_path):
    manifest = convert("imagenet", raw, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (5, 4)
    assert ledger["dropped"] == {"image does not decode": 1}
    assert manifest["classes"] == CLASSES
    ledger = convert("imagenet", raw, tmp_path / "out", "val")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (4, 3, {"image missing": 1})
    labels = {r.id[-1]: r.label for r in RecordSet.open(tmp_path / "out/val")}
    assert labels == {"1": 0, "2": 2, "4": 1}
    convert("imagenet", raw, tmp_path / "out", "train")  # The existing set is kept.
    write_files(
        raw, {f"{KIT}.tar.gz": tar_bytes(kit_files(ground_truth=GROUND_TRUTH[::-1].strip()))}
    )
    with pytest.raises(UserError, match="another recipe"):
        convert("imagenet", raw, tmp_path / "out", "val")


def test_the_pipeline_decodes_cmyk_jpegs_and_pngs():
    from tf_mural.data import image_ops

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image = Image.fromarray(pixels)
    for variant, format in ((image.convert("CMYK"), "JPEG"), (image, "PNG")):
        buffer = io.BytesIO()
        variant.save(buffer, format)
        expected = np.asarray(Image.open(buffer).convert("RGB"))
        decoded = image_ops.decode(buffer.getvalue()).numpy()
        np.testing.assert_allclose(decoded.astype(int), expected, atol=2)
