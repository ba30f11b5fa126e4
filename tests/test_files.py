"""Files of a run, local and on the file system that TensorFlow keeps in memory."""

import pytest

from tf_mural import files
from tf_mural.base import UserError


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    path = str(tmp_path) if request.param == "local" else f"ram://files/{tmp_path.name}"
    files.make_folder(f"{path}/a/b")
    assert files.is_remote(path) == (request.param == "remote")
    return path


def write(path, content):
    with files.replacing(path) as temporary, files.open_file(temporary, "wb") as file:
        file.write(content)


def test_a_file_appears_whole_or_not_at_all(folder):
    path = f"{folder}/a/f"
    assert not files.exists(path) and files.size(path) is None
    write(path, b"one")
    write(path, b"2")  # shorter than before
    assert files.read_bytes(path) == b"2" and files.size(path) == 1
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        with files.open_file(temporary, "wb") as file:
            file.write(b"half")
        raise ZeroDivisionError
    assert files.read_bytes(path) == b"2"
    assert files.names(f"{folder}/a") == ["b", "f"] and files.is_folder(f"{folder}/a/b")
    files.remove(path)
    files.remove(path)
    assert files.names(f"{folder}/a") == ["b"] and files.names(f"{folder}/none") == []
    with pytest.raises(FileNotFoundError):
        files.read_bytes(path)


def test_copies_and_json(folder, tmp_path):
    files.write_json(f"{folder}/a/x.json", {"ä": [1, None]})
    files.copy(f"{folder}/a/x.json", str(tmp_path / "y.json"))
    assert files.read_json(str(tmp_path / "y.json")) == {"ä": [1, None]}
    write(f"{folder}/a/x.json", b"{")
    with pytest.raises(UserError, match=r"a/x.json is no JSON \(.*remove it and run again"):
        files.read_json(f"{folder}/a/x.json")


def test_what_only_writes_local_files_reaches_remote_ones(folder):
    with files.local(f"{folder}/picture.png") as path:
        assert not files.is_remote(path) and path.endswith("/picture.png")
        with open(path, "wb") as file:
            file.write(b"png")
    assert files.read_bytes(f"{folder}/picture.png") == b"png"
