"""File names that tables and file systems write in different ways: Unicode, case, backslash."""

import os
import tarfile
import unicodedata

import pytest
from conftest import ROOT
from helpers.datasets import read_items
from helpers.files import write_files
from helpers.images import plain_image

from tf_mural import file_io, search
from tf_mural.cli import search as search_command
from tf_mural.data.records import Record, Skipped
from tf_mural.datasets import image_files, table
from tf_mural.errors import UserError

GIVEN = os.path.join(ROOT, "..", "shared", "data", "inputs", "09_names", "names.tar")
COLORS = ("red", "green", "blue", "yellow", "black", "white")
PNGS = {color: plain_image(color, "PNG") for color in COLORS}
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
HANGUL = "\ud55c"


def read_rows(folder, *names):
    """Converts a table with one row per image name; returns the items in the order of the rows."""
    content = "image\ten\n" + "".join(f"{name}\tx\n" for name in names)
    write_files(folder, {"t.tsv": content})
    return read_items(table, folder, "train", file="t.tsv")


@pytest.mark.parametrize(
    ("on_disk", "name"),
    [
        (f"{COMPOSED}.png", f"{DECOMPOSED}.png"),
        (f"{DECOMPOSED}.png", f"{COMPOSED}.png"),
        (f"{DECOMPOSED}/{HANGUL}.png", f"{COMPOSED}/{unicodedata.normalize('NFD', HANGUL)}.png"),
        ("photos/boat.png", "photos\\boat.png"),
        (f"photos/{COMPOSED}/boat.png", f".\\photos\\{DECOMPOSED}\\boat.png"),
        ("a\\b.png", "a\\b.png"),
    ],
)
def test_another_unicode_form_and_a_backslash_are_resolved(tmp_path, on_disk, name):
    write_files(tmp_path, {on_disk: PNGS["red"]})
    assert read_rows(tmp_path, name) == [Record(name, (PNGS["red"],), (("en", "x"),))]


@pytest.mark.parametrize(
    ("on_disk", "name", "similar"),
    [
        (["house.JPG"], "house.jpg", " (did you mean house.JPG?)"),
        (["Photos/House.png"], "photos\\house.PNG", " (did you mean Photos/House.png?)"),
        (["A.png", "a.PNG"], "a.png", " (did you mean A.png or a.PNG?)"),
        (
            [f"{DECOMPOSED.upper()}.png"],
            f"{COMPOSED}.png",
            f" (did you mean {DECOMPOSED.upper()}.png?)",
        ),
        (["house.png"], "horse.png", ""),
    ],
)
def test_a_name_in_another_case_is_suggested(tmp_path, on_disk, name, similar):
    write_files(tmp_path, dict.fromkeys(on_disk, PNGS["red"]))
    assert read_rows(tmp_path, name) == [Skipped("image missing", f"line 2: {name}{similar}")]


def test_files_that_differ_only_in_case_are_never_mixed_up(tmp_path):
    write_files(tmp_path, {"a.png": PNGS["red"], "A.png": PNGS["blue"], "B.png": PNGS["green"]})
    records = read_rows(tmp_path, "A.png", "a.png", "B.png", "b.png")
    assert [record.images[0] for record in records[:3]] == [
        PNGS[c] for c in ("blue", "red", "green")
    ]
    assert records[3] == Skipped("image missing", "line 5: b.png (did you mean B.png?)")


def test_an_exact_name_precedes_another_unicode_form(tmp_path):
    write_files(tmp_path, {f"{COMPOSED}.png": PNGS["red"], f"{DECOMPOSED}.png": PNGS["blue"]})
    write_files(tmp_path, {"a\\b.png": PNGS["green"], "a/b.png": PNGS["yellow"]})
    names = [f"{COMPOSED}.png", f"{DECOMPOSED}.png", "a\\b.png", "a/b.png"]
    records = read_rows(tmp_path, *names)
    assert [record.images[0] for record in records] == [PNGS[color] for color in COLORS[:1]] + [
        PNGS[color] for color in ("blue", "green", "yellow")
    ]


def test_files_that_appear_later_are_seen(tmp_path):
    name = f"{COMPOSED}.png"
    assert image_files.load_image(tmp_path, name, "row 1") == (None, "image missing")
    write_files(tmp_path, {f"{DECOMPOSED}.png": PNGS["red"]})
    assert image_files.load_image(tmp_path, name, "row 1") == (PNGS["red"], None)


@pytest.mark.parametrize("name", ["..\\secret.png", "b\\..\\..\\secret.png", "\\secret.png"])
def test_no_path_leaves_the_folder(tmp_path, name):
    write_files(tmp_path, {"secret.png": PNGS["red"], "inside/b/a.png": PNGS["blue"]})
    with pytest.raises(UserError, match="row 1: the image .* lies outside .*inside"):
        image_files.load_image(tmp_path / "inside", name, "row 1")
    assert image_files.load_image(tmp_path / "inside", "b\\..\\b\\a.png", "")[0] == PNGS["blue"]


def test_names_that_cannot_exist_have_no_suggestion(tmp_path):
    for name in ("a\0.png", "", ".", "/", "x" * 5000, "missing/a.png"):
        assert file_io.find_name(str(tmp_path), name) == (None, [])
    assert file_io.find_name(str(tmp_path / "missing"), "a") == (None, [])


def test_a_query_image_with_another_name_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"Query.PNG": PNGS["red"]})
    with pytest.raises(
        UserError, match=r"--image=query.png: .* not exist \(did you mean Query.PNG"
    ):
        search_command.main(["--image=query.png", "--index=x"])


@pytest.fixture
def given(tmp_path):
    """The folder of ../shared/data/inputs/09_names/names.tar."""
    if not os.path.exists(GIVEN):
        pytest.skip("no ../shared/data/inputs/09_names")
    with tarfile.open(GIVEN) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_the_given_table_finds_its_images_or_suggests_a_name(given):
    items = read_items(table, given, "train")
    assert [item.id for item in items[:4]] == [
        "usual.png",
        "caf\u00e9.png",
        "Zu\u0308rich.png",
        "photos\\boat.png",
    ]
    files = ("usual.png", "cafe\u0301.png", "Z\u00fcrich.png", "photos/boat.png")
    assert [item.images[0] for item in items[:4]] == [(given / f).read_bytes() for f in files]
    texts = ("a red circle, picture 0", "a blue square, picture 1", "a green triangle, picture 2")
    texts += ("a yellow star, picture 3",)
    assert [item.texts for item in items[:4]] == [(("en", text),) for text in texts]
    assert items[4:] == [Skipped("image missing", "line 6: house.jpg (did you mean house.JPG?)")]


def test_an_index_of_the_given_folder_has_all_images(given):
    source = search.FolderSource(str(given))
    paths = [source.item(i)["path"] for i in range(len(source))]
    names = ["Z\u00fcrich.png", "cafe\u0301.png", "house.JPG", "photos/boat.png", "usual.png"]
    assert sorted(paths) == sorted(names) and not source.skipped
    assert all(source.read({"path": path}) for path in paths)
