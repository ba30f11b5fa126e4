import functools
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from tf_mural import conversion
from tf_mural.data.records import RecordSet
from tf_mural.datasets import DATASETS
from tf_mural.datasets.classification import cifar100, unpickle
from tf_mural.errors import UserError

CLASSES = ["apple", "aquarium_fish", "baby"]
LABELS = {"train": [2, 0, 1, 2], "test": [1, 0]}
COARSE = [14, 4, 1, 14]  # told apart from the fine ones: the first of two bytes


@functools.cache
def pixels(split):
    """(n, 3, 32, 32): no two colours, rows or columns alike."""
    shape = (len(LABELS[split]), 3, 32, 32)
    return np.random.default_rng(len(split)).integers(0, 256, shape, np.uint8)


# --- the two forms of the home page ---------------------------------------------------------------


def binary(split):
    rows = zip(COARSE, LABELS[split], pixels(split), strict=False)
    return b"".join(bytes([coarse, fine]) + image.tobytes() for coarse, fine, image in rows)


def python2(value):
    """The opcodes by which Python 2 pickled a value in protocol 2."""
    if isinstance(value, dict):
        items = b"".join(python2(key) + python2(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"K" + bytes([value])
    data = value.tobytes()
    shape = b"".join(b"M" + struct.pack("<H", side) for side in value.shape)
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    )
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + (b"(K\x01" + shape + b"\x86" + dtype + b"K\x00tb")
        + (b"\x89T" + struct.pack("<i", len(data)) + data + b"tb")
    )


def pickled(value):
    return b"\x80\x02" + python2(value) + b"."


def fields(split):
    rows = pixels(split).reshape(-1, 3072)
    names = [f"picture_s_{number}.png" for number in range(len(rows))]
    labels = {"coarse_labels": COARSE[: len(rows)], "fine_labels": LABELS[split]}
    return {"filenames": names, "batch_label": "batch", **labels, "data": rows}


def official(form):
    """The files of an archive, by name."""
    if form == "binary":
        names = "".join(f"{name}\n" for name in CLASSES).encode()
        files = {"train.bin": binary("train"), "test.bin": binary("test")}
        files |= {"coarse_label_names.txt": b"fish\n", "fine_label_names.txt": names}
    else:
        files = {split: pickled(fields(split)) for split in ("train", "test")}
        files["meta"] = pickled({"fine_label_names": CLASSES, "coarse_label_names": ["fish"]})
        files["file.txt~"] = b""
    return files


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo(path.name.removesuffix(".tar.gz"))
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder.name}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def unpacked(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def items(raw, split="train"):
    units = cifar100.plan(str(raw), split)
    return [item for unit in pickle.loads(pickle.dumps(units)) for item in cifar100.read(unit)]


def decoded(record):
    (data,) = record.images
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("split", cifar100.SPLITS)
def test_pixels_and_labels_are_those_of_the_source(tmp_path, form, split, monkeypatch):
    monkeypatch.setattr(cifar100, "_RECORDS_PER_UNIT", 3)
    archive = tar(tmp_path / f"cifar-100-{form}.tar.gz", official(form))
    found = items(archive, split)
    assert [r.label for r in found] == LABELS[split]
    assert [r.id for r in found] == [f"{split}/{n:05d}" for n in range(len(found))]
    assert not any(r.texts for r in found)
    np.testing.assert_array_equal([decoded(r) for r in found], pixels(split))
    assert [len(list(cifar100.read(u))) for u in cifar100.plan(str(archive), "train")] == [3, 1]
    assert cifar100.classes(str(archive)) == CLASSES
    folder = unpacked(tmp_path / "raw" / f"cifar-100-{form}", official(form))
    for raw in (tmp_path, folder, folder.parent):
        assert items(raw, split) == found


def test_what_numpy_pickles_today_is_read_too():
    rows = pixels("test").reshape(-1, 3072)
    for protocol in (3, 4):
        data = pickle.dumps({"data": rows, "name": "é", "labels": [1, 300]}, protocol)
        found = unpickle.load(io.BytesIO(data), "x")
        assert (found["name"], found["labels"]) == ("é", [1, 300])
        np.testing.assert_array_equal(unpickle.matrix(found["data"], "x"), rows)
    by_columns = unpickle.load(io.BytesIO(pickle.dumps(np.asfortranarray(rows), 3)), "x")
    np.testing.assert_array_equal(unpickle.matrix(by_columns, "x"), rows)
    for other in (rows.astype(np.int32), rows[0], [1], None):
        found = unpickle.load(io.BytesIO(pickle.dumps(other, 3)), "x")
        with pytest.raises(UserError, match="x: expected a matrix of bytes"):
            unpickle.matrix(found, "x")


class Call:
    """A pickle of it calls `function` when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["train", "meta"])
def test_a_pickle_that_wants_to_run_something_does_not(tmp_path, name):
    ran = tmp_path / "ran"
    folder = unpacked(tmp_path / "cifar-100-python", official("python"))
    for function, *arguments in (
        (os.mkdir, str(ran)),
        (eval, f"__import__('os').mkdir({str(ran)!r})"),
        (np.save, str(ran), 1),
        (getattr, str(ran), "upper"),
    ):
        value = {b"data": Call(function, *arguments), b"fine_labels": [0]}
        data = pickle.dumps(value, 2)
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match="no pickle of plain data .it asks for .*, so it was"):
            items(folder)
        assert os.listdir(tmp_path) == ["cifar-100-python"]
    pickle.loads(pickle.dumps(Call(os.mkdir, str(ran)), 2))
    assert ran.exists()  # It would have.


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("train", b"", "train is cut short|no pickle"),
        ("train", pickled(fields("train"))[:-2000], "train is (cut short|no pickle of plain data)"),
        ("train", b"plain text", "train is no pickle of plain data"),
        ("train", pickled([1]), "train: expected a dict with 'data'"),
        ("train", pickled({**fields("train"), "data": [1]}), "train: expected a matrix of bytes"),
        ("train", pickled({**fields("train"), "fine_labels": [1]}), "and 1 labels; download"),
        (
            "train",
            pickled({**fields("train"), "data": pixels("train").reshape(-1, 3072)[:, :9]}),
            r"expected 3,072 bytes and a label a picture, got \(4, 9\) bytes and 4 labels",
        ),
        ("train", pickled({**fields("train"), "fine_labels": list("abcd")}), "whole numbers"),
        (
            "train",
            pickled({**fields("train"), "fine_labels": [0, 1, 3, 0]}),
            "2: .* under 3, got 3",
        ),
        ("meta", pickled({"fine_label_names": "apple"}), "a dict with 'fine_label_names'"),
        ("meta", pickled({"fine_label_names": ["a", "a"]}), "fine labels are empty or repeat"),
    ],
)
def test_pickles_of_something_else(tmp_path, name, data, message):
    folder = unpacked(tmp_path / "cifar-100-python", {**official("python"), name: data})
    with pytest.raises(UserError, match=message):
        items(folder)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("train.bin", b"", "train.bin: expected 3,074 bytes a picture, got 0 bytes"),
        ("train.bin", binary("train")[:-1], "expected 3,074 bytes a picture, got 12,295 bytes"),
        ("train.bin", None, "train.bin is missing|expected cifar-100-binary.tar.gz"),
        ("train.bin", bytes([0, 3]) + bytes(3072), "train, picture 0: .* under 3, got 3"),
        ("fine_label_names.txt", None, "fine_label_names.txt is missing"),
        ("fine_label_names.txt", b"", "fine labels are empty or repeat"),
        ("fine_label_names.txt", b"\xff\n", "fine_label_names.txt, line 1: expected UTF-8"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_binary_files_of_another_size(tmp_path, name, data, message, packed):
    files = {**official("binary"), name: data}
    files = {key: value for key, value in files.items() if value is not None}
    if packed:
        raw = tar(tmp_path / "cifar-100-binary.tar.gz", files)
    else:
        raw = unpacked(tmp_path / "cifar-100-binary", files)
    with pytest.raises(UserError, match=message):
        items(raw)


def test_archives_that_are_broken(tmp_path):
    path = tar(tmp_path / "cifar-100-binary.tar.gz", official("binary"))
    whole = path.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        whole[:-4],
        whole[:9000] + bytes(9) + whole[9009:],
        b"",
        b"text",
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="binary.tar.gz does not unpack .*; download it again"):
            items(path)
    tar(path, {"../../etc": b"x", **official("binary")})
    with pytest.raises(UserError, match=r"has 'cifar-100-binary/\.\./\.\./etc', a place outside"):
        items(path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="expected cifar-100-binary.tar.gz or cifar-100-python"):
        items(tmp_path)
    for gone in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, or cifar-100"):
            cifar100.plan(gone, "train")
    with pytest.raises(UserError, match="unknown split of cifar100 'val'"):
        items(tmp_path, "val")


def convert(raw, out, split="train"):
    return conversion.convert(
        DATASETS["cifar100"], "cifar100", str(raw), str(out), split, processes=1, progress=str
    )


def test_the_ledger_is_whole_and_the_manifest_names_the_classes(tmp_path):
    folder = unpacked(tmp_path / "cifar-100-binary", official("binary"))
    manifest = convert(folder, tmp_path / "out")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (4, 4, {})
    assert manifest["classes"] == CLASSES
    found = RecordSet.open(tmp_path / "out/train")
    assert found.manifest["classes"] == CLASSES
    assert [record.label for record in found] == LABELS["train"]
    convert(folder, tmp_path / "out")  # kept
    (folder / "train.bin").write_bytes(binary("train")[::-1])
    with pytest.raises(UserError, match="another recipe"):
        convert(folder, tmp_path / "out")
