import base64
import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import Dropped, Record, RecordSet
from tf_mural.datasets import DATASETS
from tf_mural.datasets.classification import imagenet
from tf_mural.errors import UserError

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12"
TENCH, SETTER, FOX = "n01440764", "n02100735", "n02119789"  # numbers 3, 2 and 1 of the kit
CLASSES = ["tench, Tinca tinca", "English setter", "kit fox, Vulpes macrotis"]

# What scipy.io.savemat(..., {"synsets": s}, do_compression=True) of SciPy 1.17.1 wrote behind the
# line of text that such a file begins with. s is a struct array (4, 1) with the fields of the
# official file; the fourth row, "canine", has children.
META = b" " * 124 + base64.b64decode(
    "AAFJTQ8AAAB+AQAAeJztVNFOwjAULQQREl3QJx/7ATxsOB08QaImkhhj1ODjsoyyNY7OrCXiH/gB/oTf4Q/xCbasQKmY"
    "ERaiD9zkrLlnOWe9zVkNAACsAlDma4WjCNLak32JoyCxz0HfCEWM8vclcCT5d47uzUPv/qJhWg23eykMnm7TdV6vcdKn"
    "KhFEMV0iyGjo+iGO+gkiU2KpmXkQxNwQ4SBkUsISDxMXD70AUWBwsgkW85S1eQoKRFUln9akLfQdRV9aoa8q+prsidmw"
    "rJbTbEle+Fxn+JxoPqJ/xgwO4nEd9kbRC6Jw6PlJzDBdZ18Hmt8hhwenxwzjAfz6lPva/HxSvZmhB5p+psv73Y31dx+d"
    "nN/v5MmFaTqnZ8ocWT6G5iP6KxJEmIaQ/3wMJev57PKwrTxUcuTBsm3TObeVObLuiWPNR/QMET+sw0dMfA8y8Vz4Ze1r"
    "l4tt5aKW656wbH5V/DLHKp+y5iN63yOYoH+Tgx/nsUpf1PS1uXzSVn3+Mhff8P1u9A=="
)


def picture(color, format="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).convert(mode).save(buffer, format)
    return buffer.getvalue()


IMAGES = {
    TENCH: {"n01440764_1.JPEG": picture("red"), "n01440764_2.JPEG": picture("red", "PNG")},
    FOX: {"n02119789_7.JPEG": picture("blue"), "n02119789_8.JPEG": picture("blue")[:-40]},
    SETTER: {"n02100735_3.JPEG": picture("white", mode="CMYK")},
}
EXPECTED = [
    Record("n01440764_1", (picture("red"),), label=0),
    Record("n01440764_2", (picture("red", "PNG"),), label=0),
    Record("n02100735_3", (picture("white", mode="CMYK"),), label=1),
    Record("n02119789_7", (picture("blue"),), label=2),
    Dropped("image does not decode", "n02119789_8"),
]
VALIDATION = {
    "ILSVRC2012_val_00000001.JPEG": picture("green"),
    "ILSVRC2012_val_00000002.JPEG": picture("pink"),
    "ILSVRC2012_val_00000004.JPEG": picture("black"),
}
TRUTH = b"3\n1\n2\n2\n"
EXPECTED_VAL = [
    Dropped("image missing", "ILSVRC2012_val_00000003.JPEG"),
    Record("ILSVRC2012_val_00000001", (picture("green"),), label=0),
    Record("ILSVRC2012_val_00000002", (picture("pink"),), label=2),
    Record("ILSVRC2012_val_00000004", (picture("black"),), label=1),
]


def tarred(files, mode="w:"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def put(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def kit(meta=META, truth=TRUTH):
    return {
        f"{KIT}/data/meta.mat": meta,
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }


def inner():
    return {f"{wnid}.tar": tarred(files) for wnid, files in IMAGES.items()}


def as_archives():
    return {TRAIN: tarred(inner()), VAL: tarred(VALIDATION), f"{KIT}.tar.gz": tarred(kit(), "w:gz")}


def as_tars_in_folders():
    return {f"train/{name}": data for name, data in inner().items()} | as_folders(("val",))


def as_folders(splits=("train", "val")):
    files = {f"val/{name}": data for name, data in VALIDATION.items()} | kit()
    if "train" in splits:
        for wnid, images in IMAGES.items():
            files |= {f"train/{wnid}/{name}": data for name, data in images.items()}
    return files


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    monkeypatch.setattr(imagenet, "_CLASSES", 3)


@pytest.fixture
def raw(tmp_path):
    return put(tmp_path / "raw", as_archives())


def items(raw, split="train"):
    units = imagenet.plan(str(raw), split)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in imagenet.read(unit)]


@pytest.mark.parametrize("layout", [as_archives, as_tars_in_folders, as_folders])
def test_archives_and_folders_say_the_same(tmp_path, layout):
    raw = put(tmp_path / "raw", layout())
    assert items(raw) == EXPECTED
    assert items(raw, "val") == EXPECTED_VAL
    assert imagenet.classes(str(raw)) == CLASSES
    assert imagenet.splits(str(raw)) == ("train", "val")


def test_the_training_set_needs_no_kit(raw):
    (raw / f"{KIT}.tar.gz").unlink()
    (raw / VAL).unlink()
    assert items(raw) == EXPECTED
    assert imagenet.classes(str(raw)) == [TENCH, SETTER, FOX]
    assert imagenet.splits(str(raw)) == ("train",)


def test_units_hold_some_classes(raw, monkeypatch):
    assert len(imagenet.plan(str(raw), "train")) == 3
    monkeypatch.setattr(imagenet, "_MOST_UNITS", 2)
    units = imagenet.plan(str(raw), "train")
    assert [[c.label for c in unit.classes] for unit in units] == [[0], [1, 2]]
    assert [item for unit in units for item in imagenet.read(unit)] == EXPECTED


@pytest.mark.parametrize(
    "gone, message",
    [
        (TENCH, "expected 3 classes, found 2"),
        (KIT, "differ in 1 classes, such as n01440764; download both again"),
    ],
)
def test_classes_that_are_missing(raw, gone, message):
    names = inner()
    del names[f"{TENCH}.tar"]
    put(raw, {TRAIN: tarred(names)})
    if gone == TENCH:
        (raw / f"{KIT}.tar.gz").unlink()
    with pytest.raises(UserError, match=message):
        items(raw)


def test_a_kit_of_other_size(raw, monkeypatch):
    monkeypatch.setattr(imagenet, "_CLASSES", 4)
    for split in imagenet.SPLITS:
        with pytest.raises(UserError, match="expected 4 classes, found 3; labels are places"):
            items(raw, split)


@pytest.mark.parametrize(
    "files, message",
    [
        (kit(meta=b""), "meta.mat is no table of classes"),
        (kit(meta=META[:-30]), "meta.mat is no table of classes .*cut short"),
        (kit(meta=META[:160] + bytes(9) + META[169:]), "meta.mat is no table of classes"),
        (kit(meta=b"plain text" * 50), "not of Matlab's version 5"),
        (kit(meta=META[:128]), r"meta.mat is no table of classes \(KeyError\('synsets'\)\)"),
        (kit(truth=b""), "ground_truth.txt, line 1: expected the number of a class"),
        (kit(truth=b"1\n0\n"), "ground_truth.txt, line 2: expected the number of a class"),
        (kit(truth=b"1\nfox\n"), "ground_truth.txt, line 2: expected the number of a class"),
        (kit(truth=b"1\n4\n"), "val_00000002 is of class 4, which meta.mat does not have"),
        ({f"{KIT}/data/meta.mat": META}, "ground_truth.txt is missing"),
        ({}, "expected ILSVRC2012_devkit_t12.tar.gz in .*, for the labels"),
    ],
)
def test_kits_that_are_broken(tmp_path, files, message):
    put(tmp_path, {VAL: tarred(VALIDATION), **files})
    with pytest.raises(UserError, match=message):
        items(tmp_path, "val")


def test_tars_that_are_broken(raw):
    whole = (raw / TRAIN).read_bytes()
    for cut in (len(whole) // 2, 700, 0):
        (raw / TRAIN).write_bytes(whole[:cut])
        with pytest.raises(UserError, match="img_train.tar does not unpack .*; download it again"):
            items(raw)
    for broken, message in (
        (inner()[f"{FOX}.tar"][:1536], "holds a tar that ends before n02100735.tar does"),
        (b"", "holds a tar that ends before n02100735.tar does"),
        (tarred({}), "img_train.tar has no photographs of n02119789"),
        (tarred({"../n1.JPEG": b"x"}), r"has '\.\./n1.JPEG', a place outside of it"),
        (tarred({"/n1.JPEG": b"x"}), "has '/n1.JPEG', a place outside of it"),
        (tarred({"a/n1.JPEG": b"x", "b/n1.JPEG": b"y"}), "holds n1.JPEG twice"),
    ):
        put(raw, {TRAIN: tarred({**inner(), f"{FOX}.tar": broken})})
        with pytest.raises(UserError, match=message):
            items(raw)
    with pytest.raises(UserError, match="img_train.tar has no tars such as n01440764.tar"):
        items(put(raw, {TRAIN: tarred({"readme.txt": b"read me"})}))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="expected ILSVRC2012_img_train.tar, or the folder train"):
        items(tmp_path)
    with pytest.raises(UserError, match="expected ILSVRC2012_img_val.tar, or the folder val"):
        items(tmp_path, "val")
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder"):
            imagenet.plan(gone, "train")
    with pytest.raises(UserError, match="unknown split of imagenet 'test'"):
        items(tmp_path, "test")


def convert(raw, out, split):
    return conversion.convert(
        DATASETS["imagenet"], "imagenet", str(raw), str(out), split, processes=1, progress=str
    )


def test_the_ledger_is_whole(raw, tmp_path):
    manifest = convert(raw, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"]) == (5, 4)
    assert ledger["dropped"] == {"image does not decode": 1}
    assert manifest["classes"] == CLASSES
    ledger = convert(raw, tmp_path / "out", "val")["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (4, 3, {"image missing": 1})
    labels = {r.id[-1]: r.label for r in RecordSet.open(tmp_path / "out/val")}
    assert labels == {"1": 0, "2": 2, "4": 1}
    convert(raw, tmp_path / "out", "train")  # kept
    put(raw, {f"{KIT}.tar.gz": tarred(kit(truth=TRUTH[::-1].strip()), "w:gz")})
    with pytest.raises(UserError, match="another recipe"):
        convert(raw, tmp_path / "out", "val")


def test_the_pipeline_decodes_the_odd_ones():
    from tf_mural.data import image_ops

    rows = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image = Image.fromarray(rows)
    for data, format in ((image.convert("CMYK"), "JPEG"), (image, "PNG")):
        buffer = io.BytesIO()
        data.save(buffer, format)
        expected = np.asarray(Image.open(buffer).convert("RGB"))
        decoded = image_ops.decode(buffer.getvalue()).numpy()
        np.testing.assert_allclose(decoded.astype(int), expected, atol=2)
