import io
import os
import pickle

import numpy as np
import pytest
from helpers.cifar100_files import (
    CLASSES,
    LABELS,
    binary_batch,
    official_files,
    pixels,
    python2_pickle,
    python_batch,
    write_archive,
)
from helpers.datasets import convert, read_items
from PIL import Image

from tf_mural.data.records import RecordSet
from tf_mural.datasets.classification import cifar100, unpickle
from tf_mural.errors import UserError


def unpacked(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def items(raw, split="train"):
    return read_items(cifar100, raw, split)


def decode(record):
    (data,) = record.images
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("split", cifar100.SPLITS)
def test_records_have_the_pixels_and_labels_of_the_source(tmp_path, version, split, monkeypatch):
    monkeypatch.setattr(cifar100, "_RECORDS_PER_UNIT", 3)
    archive = write_archive(tmp_path / f"cifar-100-{version}.tar.gz", official_files(version))
    records = items(archive, split)
    assert [record.label for record in records] == LABELS[split]
    assert [record.id for record in records] == [f"{split}/{n:05d}" for n in range(len(records))]
    assert not any(record.texts for record in records)
    np.testing.assert_array_equal([decode(record) for record in records], pixels(split))
    assert [len(list(cifar100.read(unit))) for unit in cifar100.plan(str(archive), "train")] == [
        3,
        1,
    ]
    assert cifar100.classes(str(archive)) == CLASSES
    folder = unpacked(tmp_path / "raw" / f"cifar-100-{version}", official_files(version))
    for raw in (tmp_path, folder, folder.parent):
        assert items(raw, split) == records


def test_pickles_of_current_numpy_are_supported():
    rows = pixels("test").reshape(-1, 3072)
    for protocol in (3, 4):
        data = pickle.dumps({"data": rows, "name": "é", "labels": [1, 300]}, protocol)
        loaded = unpickle.load_plain(io.BytesIO(data), "x")
        assert (loaded["name"], loaded["labels"]) == ("é", [1, 300])
        np.testing.assert_array_equal(unpickle.to_matrix(loaded["data"], "x"), rows)
    fortran_order = unpickle.load_plain(io.BytesIO(pickle.dumps(np.asfortranarray(rows), 3)), "x")
    np.testing.assert_array_equal(unpickle.to_matrix(fortran_order, "x"), rows)
    for other in (rows.astype(np.int32), rows[0], [1], None):
        loaded = unpickle.load_plain(io.BytesIO(pickle.dumps(other, 3)), "x")
        with pytest.raises(UserError, match="x: expected a matrix of bytes"):
            unpickle.to_matrix(loaded, "x")


class Call:
    """An object whose pickle calls `function` when Python loads it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["train", "meta"])
def test_a_pickle_never_runs_the_functions_that_it_names(tmp_path, name):
    marker = tmp_path / "marker"
    folder = unpacked(tmp_path / "cifar-100-python", official_files("python"))
    for function, *arguments in (
        (os.mkdir, str(marker)),
        (eval, f"__import__('os').mkdir({str(marker)!r})"),
        (np.save, str(marker), 1),
        (getattr, str(marker), "upper"),
    ):
        value = {b"data": Call(function, *arguments), b"fine_labels": [0]}
        data = pickle.dumps(value, 2)
        (folder / name).write_bytes(data)
        with pytest.raises(
            UserError, match="not a pickle of plain data .it refers to .* was not read"
        ):
            items(folder)
        assert os.listdir(tmp_path) == ["cifar-100-python"]
    pickle.loads(pickle.dumps(Call(os.mkdir, str(marker)), 2))
    assert marker.exists()  # Python's own unpickler calls the function.


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("train", b"", "train is truncated|not a pickle"),
        (
            "train",
            python2_pickle(python_batch("train"))[:-2000],
            "train is (truncated|not a pickle of plain data)",
        ),
        ("train", b"plain text", "train is not a pickle of plain data"),
        ("train", python2_pickle([1]), "train: expected a dict with 'data'"),
        (
            "train",
            python2_pickle({**python_batch("train"), "data": [1]}),
            "train: expected a matrix of bytes",
        ),
        (
            "train",
            python2_pickle({**python_batch("train"), "fine_labels": [1]}),
            "and 1 labels; download",
        ),
        (
            "train",
            python2_pickle(
                {**python_batch("train"), "data": pixels("train").reshape(-1, 3072)[:, :9]}
            ),
            r"expected 3,072 bytes and a label per image, got \(4, 9\) bytes and 4 labels",
        ),
        (
            "train",
            python2_pickle({**python_batch("train"), "fine_labels": list("abcd")}),
            "integer labels",
        ),
        (
            "train",
            python2_pickle({**python_batch("train"), "fine_labels": [0, 1, 3, 0]}),
            "image 2: .* below 3, got 3",
        ),
        ("meta", python2_pickle({"fine_label_names": "apple"}), "a dict with 'fine_label_names'"),
        (
            "meta",
            python2_pickle({"fine_label_names": ["a", "a"]}),
            "fine labels are empty or not unique",
        ),
    ],
)
def test_pickles_with_unexpected_contents_are_refused(tmp_path, name, data, message):
    folder = unpacked(tmp_path / "cifar-100-python", {**official_files("python"), name: data})
    with pytest.raises(UserError, match=message):
        items(folder)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("train.bin", b"", "train.bin: expected 3,074 bytes per image, got 0 bytes"),
        (
            "train.bin",
            binary_batch("train")[:-1],
            "expected 3,074 bytes per image, got 12,295 bytes",
        ),
        ("train.bin", None, "train.bin is missing|expected cifar-100-binary.tar.gz"),
        ("train.bin", bytes([0, 3]) + bytes(3072), "train, image 0: .* below 3, got 3"),
        ("fine_label_names.txt", None, "fine_label_names.txt is missing"),
        ("fine_label_names.txt", b"", "fine labels are empty or not unique"),
        ("fine_label_names.txt", b"\xff\n", "fine_label_names.txt, line 1: expected UTF-8"),
    ],
)
@pytest.mark.parametrize("is_archive", [True, False])
def test_unexpected_binary_files_are_refused(tmp_path, name, data, message, is_archive):
    files = {**official_files("binary"), name: data}
    files = {key: value for key, value in files.items() if value is not None}
    if is_archive:
        raw = write_archive(tmp_path / "cifar-100-binary.tar.gz", files)
    else:
        raw = unpacked(tmp_path / "cifar-100-binary", files)
    with pytest.raises(UserError, match=message):
        items(raw)


def test_corrupt_archives_are_refused(tmp_path):
    path = write_archive(tmp_path / "cifar-100-binary.tar.gz", official_files("binary"))
    archive = path.read_bytes()
    for corrupt in (
        archive[: len(archive) // 2],
        archive[:-4],
        archive[:9000] + bytes(9) + archive[9009:],
        b"",
        b"text",
    ):
        path.write_bytes(corrupt)
        with pytest.raises(UserError, match="binary.tar.gz does not unpack .*; download it again"):
            items(path)
    write_archive(path, {"../../etc": b"x", **official_files("binary")})
    with pytest.raises(UserError, match=r"contains 'cifar-100-binary/\.\./\.\./etc', a path"):
        items(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="expected cifar-100-binary.tar.gz or cifar-100-python"):
        items(tmp_path)
    for raw_dir in (str(tmp_path / "gone"), None):
        with pytest.raises(UserError, match="expected raw_dir to be a folder, or cifar-100"):
            cifar100.plan(raw_dir, "train")
    with pytest.raises(UserError, match="unknown split of cifar100 'val'"):
        items(tmp_path, "val")


def test_a_conversion_counts_every_image_and_lists_the_classes(tmp_path):
    folder = unpacked(tmp_path / "cifar-100-binary", official_files("binary"))
    manifest = convert("cifar100", folder, tmp_path / "out", "train")
    ledger = manifest["ledger"]
    assert (ledger["read"], ledger["kept"], ledger["dropped"]) == (4, 4, {})
    assert manifest["classes"] == CLASSES
    record_set = RecordSet.open(tmp_path / "out/train")
    assert record_set.manifest["classes"] == CLASSES
    assert [record.label for record in record_set] == LABELS["train"]
    convert("cifar100", folder, tmp_path / "out", "train")  # The existing set is kept.
    (folder / "train.bin").write_bytes(binary_batch("train")[::-1])
    with pytest.raises(UserError, match="another recipe"):
        convert("cifar100", folder, tmp_path / "out", "train")
