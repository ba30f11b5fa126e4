"""Access to local files, to files in S3 and GCS, and to files that TensorFlow opens."""

import os

import pytest

from tf_mural import file_io
from tf_mural.errors import UserError


@pytest.fixture(params=["local", "ram", "s3", "gs", "az"])
def folder(request, tmp_path, storage):
    if request.param in ("s3", "gs", "az"):
        storage(request.param)
    path = (
        str(tmp_path) if request.param == "local" else f"{request.param}://bucket/{tmp_path.name}"
    )
    file_io.makedirs(f"{path}/a/b")
    write(f"{path}/a/b/c", b"")
    assert file_io.is_remote(path) == (request.param != "local")
    return path


def write(path, content):
    with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write(content)


def test_a_file_is_written_completely_or_not_at_all(folder):
    path = f"{folder}/a/f"
    assert not file_io.exists(path) and file_io.size(path) is None
    write(path, b"one")
    write(path, b"2")  # shorter than the previous content
    assert file_io.read_bytes(path) == b"2" and file_io.size(path) == 1
    with pytest.raises(ZeroDivisionError), file_io.atomic_write(path) as temporary:
        with file_io.open_file(temporary, "wb") as file:
            file.write(b"half")
        raise ZeroDivisionError
    assert file_io.read_bytes(path) == b"2"
    assert file_io.listdir(f"{folder}/a") == ["b", "f"] and file_io.isdir(f"{folder}/a/b")
    file_io.remove(path)
    file_io.remove(path)
    assert file_io.listdir(f"{folder}/a") == ["b"] and file_io.listdir(f"{folder}/none") == []
    with pytest.raises(FileNotFoundError):
        file_io.read_bytes(path)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_write_leaves_no_temporary_file(folder, sync, error):
    path = f"{folder}/a/f"
    for is_created in (False, True):
        with pytest.raises(error), file_io.atomic_write(path, sync) as temporary:
            if not file_io.is_remote(path):
                assert os.path.dirname(temporary) == f"{folder}/a" and temporary.endswith(".tmp")
            if is_created:
                with file_io.open_file(temporary, "wb") as file:
                    file.write(b"half")
            raise error
    assert file_io.listdir(f"{folder}/a") == ["b"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_written_file_has_the_permissions_of_the_umask(tmp_path, umask):
    previous = os.umask(umask)
    try:
        write(str(tmp_path / "f"), b"1")
    finally:
        os.umask(previous)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o666 & ~umask


def test_only_a_write_with_sync_flushes_file_and_folder(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(file_io, "fsync", flushed.append)
    with file_io.atomic_write(str(tmp_path / "f"), sync=False) as temporary:
        open(temporary, "wb").close()
    assert flushed == []
    with file_io.atomic_write(str(tmp_path / "f")) as temporary:
        open(temporary, "wb").close()
    assert flushed == [temporary, str(tmp_path)]


def test_a_folder_appears_completely_or_not_at_all(tmp_path):
    def write_folder(name, error=None):
        with file_io.atomic_write(str(tmp_path / name)) as temporary:
            os.mkdir(temporary)
            open(os.path.join(temporary, "f"), "wb").close()
            assert not (tmp_path / name).exists()
            if error:
                raise error

    write_folder("whole")
    with pytest.raises(KeyboardInterrupt):
        write_folder("half", KeyboardInterrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert os.listdir(tmp_path / "whole") == ["f"]


def test_json_is_written_copied_and_read(folder, tmp_path):
    file_io.write_json(f"{folder}/a/x.json", {"ä": [1, None]})
    file_io.copy(f"{folder}/a/x.json", str(tmp_path / "y.json"))
    assert file_io.read_json(str(tmp_path / "y.json")) == {"ä": [1, None]}
    write(f"{folder}/a/x.json", b"{")
    with pytest.raises(UserError, match=r"a/x.json is not JSON \(.*remove it and run again"):
        file_io.read_json(f"{folder}/a/x.json")


def test_the_files_of_a_local_folder_are_copied(folder):
    with file_io.local_folder(f"{folder}/out") as local:
        os.makedirs(f"{local}/x")
        for name in ("f", "x/g"):
            with open(f"{local}/{name}", "wb") as file:
                file.write(name.encode())
    assert file_io.read_bytes(f"{folder}/out/f") == b"f"
    assert file_io.read_bytes(f"{folder}/out/x/g") == b"x/g"
    with file_io.local_files([f"{folder}/out/f", f"{folder}/out/x/g"]) as paths:
        assert [open(path, "rb").read() for path in paths] == [b"f", b"x/g"]


def test_a_local_copy_is_copied_to_its_path(folder):
    with file_io.local_copy(f"{folder}/picture.png") as path:
        assert not file_io.is_remote(path) and path.endswith("/picture.png")
        with open(path, "wb") as file:
            file.write(b"png")
    assert file_io.read_bytes(f"{folder}/picture.png") == b"png"
