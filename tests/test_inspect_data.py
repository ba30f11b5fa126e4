import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_statistics import picture

from tf_mural.data import records, tokenizers
from tf_mural.data.records import Record, RecordSet
from tf_mural.reports import sheet_sample

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cir", "##cle", "##s"]


@pytest.fixture
def shapes(tmp_path):
    """A folder with two splits and a vocabulary; one image and one text are in both."""
    one, two, three = (picture(8 * i, 8, colour=i) for i in (1, 2, 3))
    folder = tmp_path / "shapes"
    train = [
        Record("1", (one,), (("en", "a red circle"), ("en", "a circle"))),
        Record("2", (two, three), (("en", "a red circle"), ("de", "rot"))),
    ]
    test = [Record("3", (three,), (("de", "rot"),)), Record("4", (picture(8, 8, "JPEG"),))]
    records.write(folder / "train", train, "shapes", "train")
    records.write(folder / "test", test, "shapes", "test")
    tokenizers.save_vocabulary(folder / "vocab.txt", PIECES)
    return folder


@pytest.fixture
def inspect(tools, tmp_path):
    """Runs the tool; returns `Done`."""

    def run(*arguments):
        return tools.run(tmp_path, "inspect_data.py", *arguments)

    return run


def lines_of(done):
    """Lines of the tables, with single spaces."""
    assert done.code == 0, done.err
    return [" ".join(line.split()) for line in done.out.splitlines()]


def test_all_splits_of_a_folder(inspect, shapes, tmp_path):
    done = inspect(f"--records={shapes}", "--out_dir=seen", "--max_tokens=5")
    lines = lines_of(done)
    assert done.err == ""
    assert f"{shapes}/train (shapes, train): 2 records, 3 images, 4 texts" in lines
    assert "en 2 3 3 8 12 12 12 2 3 3 3" in lines
    # a red cir ##cle: 4 pieces, 3 words, 10 letters; a circle: 3, 2, 7. Of 5 tokens 3 are pieces.
    assert "en 3 4 4 4 1.38 0.41 0.00 66.67" in lines
    assert "de 1 1 1 1 1.00 0.33 100.00 0.00" in lines
    assert "width px 8 8 8 16 24 24 24 16" in lines
    assert "formats: PNG RGB 3" in lines and "images a record: 1 to 2, mean 1.50" in lines
    assert "texts 3 2 100.00" in lines, "both records of train say that the circle is red"
    assert "shapes-train shapes-test 1 1" in lines and "shapes-test shapes-train 1 1" in lines
    seen = json.loads((tmp_path / "seen" / "inspection.json").read_text(encoding="utf-8"))
    assert list(seen["sets"]) == ["shapes-test", "shapes-train"]
    english = seen["sets"]["shapes-train"]["languages"]["en"]
    assert english["characters"]["median"] == 12 and english["cut_percent"] == 66.666667
    assert seen["shared"][0]["images"] == 1
    kinds = ("languages", "lengths", "tokens", "images", "sheet")
    names = [f"shapes-{split}-{kind}.png" for split in ("train", "test") for kind in kinds]
    assert sorted(os.listdir(tmp_path / "seen")) == sorted(["inspection.json", *names])
    for name in names:
        with Image.open(tmp_path / "seen" / name) as image:
            assert image.format == "PNG" and np.asarray(image.convert("L")).min() < 200, name


def test_one_set_without_a_vocabulary_writes_nothing(inspect, shapes, tmp_path):
    before = sorted(os.listdir(tmp_path))
    lines = lines_of(inspect(f"--records={shapes}/train", "--vocab="))
    assert "tokens: not counted without a vocabulary (--vocab)" in lines
    assert not any(line.startswith("records of") for line in lines), "there is no second set"
    assert sorted(set(os.listdir(tmp_path)) - {".out", ".err"}) == before


def test_a_vocabulary_by_name_and_a_set_under_the_data_folder(inspect, shapes, tmp_path):
    tokenizers.save_vocabulary(tmp_path / "other.txt", [*PIECES, "circle"])
    done = inspect("--records=shapes/train", f"--data_dir={tmp_path}", "--vocab=other.txt")
    assert "en 2 3 3 3 1.00 0.30 0.00 0.00" in lines_of(done)


def test_sets_without_texts_without_images_with_labels_with_scores(inspect, tmp_path):
    photos = [Record(str(i), (picture(4, 4),), label=int(i > 0)) for i in range(4)]
    pairs = [Record(str(i), (), (("en", "a"), ("en", "b")), score=i / 2) for i in range(5)]
    records.write(tmp_path / "data" / "photos", photos, "photos", "val")
    records.write(tmp_path / "data" / "pairs", pairs, "pairs", "test")
    records.write(tmp_path / "data" / "none", [], "none", "train")
    done = inspect("--records=data", "--out_dir=seen")
    lines = lines_of(done)
    assert "It has no images." in lines and lines.count("It has no texts.") == 2
    assert "2 classes, 4 records with one" in lines
    assert "smallest 0 - 1" in lines and "largest 1 - 3" in lines
    assert "min 0.00, mean 1.00, median 1.00, max 2.00" in lines
    assert any(line.startswith("0.00 to 0.10 1 ####") for line in lines)
    written = set(os.listdir(tmp_path / "seen"))
    assert written == {
        "inspection.json",
        *(f"data-pairs-{kind}.png" for kind in ("languages", "lengths", "scores")),
        *(f"data-photos-{kind}.png" for kind in ("images", "labels", "sheet")),
    }


def test_a_sample_says_its_size(inspect, shapes):
    lines = lines_of(inspect(f"--records={shapes}/train", "--limit=1", "--vocab="))
    assert (
        "records, images and texts of a language: of the whole set; "
        "all else: of 1 records drawn at random"
    ) in lines
    assert any(line.startswith("en 2 3 3 ") for line in lines)


def test_scripts_without_a_font_are_named(inspect, tmp_path):
    texts = (("en", "a circle"), ("gez", "𞟠"), ("xx", "𐎠"))  # rare: Ethiopic B, Old Persian
    records.write(tmp_path / "a", [Record("1", (picture(4, 4),), texts)])
    out = inspect("--records=a", "--out_dir=seen").out
    if "no font here" not in out:
        pytest.skip("this machine has fonts of all scripts")
    assert "Old (xx)" in out and "~/.local/share/fonts" in out and "(en)" not in out


_INTERRUPTED = """
import sys
sys.path[:0] = [{tools!r}, {root!r}]
import common, inspect_data
from tf_mural.reports import collection
collection._BATCH = 2
calls, add = [], collection.Statistics.add
def interrupt(self, indices):
    calls.append(1)
    if len(calls) > {after}:
        raise KeyboardInterrupt
    add(self, indices)
collection.Statistics.add = interrupt
common.run(inspect_data.main)
"""


@pytest.mark.parametrize("after", [0, 2])
def test_an_interruption_shows_what_is_there(tmp_path, after):
    parts = [Record(str(i), (picture(4, 4),), (("en", f"text {i}"),)) for i in range(9)]
    records.write(tmp_path / "a", parts)
    tools = os.path.join(ROOT, "tools")
    code = _INTERRUPTED.format(tools=tools, root=ROOT, after=after)
    command = [sys.executable, "-c", code, "--records=a", "--out_dir=seen"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    if after == 0:
        assert done.stdout == "" and os.listdir(tmp_path / "seen") == []
        return
    assert "of the first 4 records" in done.stdout
    seen = json.loads((tmp_path / "seen" / "inspection.json").read_text())
    (found,) = seen["sets"].values()
    assert (found["sampled_records"], found["records"], found["sample"]) == (4, 9, "first")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "say which records"),
        (("--records=nowhere",), "no folder 'nowhere'"),
        (("--records=empty",), "no record set in empty: manifest.json is missing"),
        (("--records=shapes/train,empty",), "no record set in empty"),
        (("--records=shapes", "--languages=fr"), "unknown language 'fr'; known: de, en"),
        (("--records=shapes", "--out_dir=file"), "--out_dir file: File exists"),
        (("--records=shapes", "--vocab=none.txt"), "vocabulary none.txt: No such file"),
        (("--records=shapes", "--limit=-1"), "limit"),
    ],
)
def test_mistakes_end_in_one_line(inspect, shapes, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert message in inspect(*arguments).error()


# --- which images and captions a sheet shows ------------------------------------------------------


def opened(folder, *parts):
    records.write(folder, parts)
    return RecordSet.open(folder)


def test_each_language_has_its_turn(tmp_path):
    texts = tuple((code, f"{code} {n}") for code in ("cs", "de", "en", "fr") for n in (1, 2))
    record_set = opened(
        tmp_path / "a", *(Record(str(i), (picture(4, 4),), texts) for i in range(3))
    )
    _, captions = sheet_sample(record_set, 3, captions=2)
    assert captions == [
        [("cs", "cs 1"), ("de", "de 1")],
        [("en", "en 1"), ("fr", "fr 1")],
        [("cs", "cs 1"), ("de", "de 1")],
    ]
    _, captions = sheet_sample(record_set, 1, captions=3, languages=["fr", "de"])
    assert captions == [[("de", "de 1"), ("de", "de 2"), ("fr", "fr 1")]]


def test_an_image_shows_each_of_its_languages_before_one_twice(tmp_path):
    one, both = (("en", "one"),), (("de", "eins"), ("de", "zwei"), ("en", "one"))
    record_set = opened(tmp_path / "a", *(Record("", (picture(4, 4),), t) for t in (one, both)))
    draws = {s: np.random.default_rng(s).choice(2, 2, replace=False)[0] for s in range(20)}
    seed = next(s for s, first in draws.items() if first == 0)  # so that English was shown more
    _, captions = sheet_sample(record_set, 2, captions=2, seed=seed)
    assert captions == [[("en", "one")], [("de", "eins"), ("en", "one")]]


def test_images_are_drawn_at_random_and_decoded_small(tmp_path):
    wide = picture(1024, 512, "JPEG")
    parts = [Record(str(i), (picture(4, 4, colour=i),), label=i) for i in range(50)]
    record_set = opened(tmp_path / "a", *parts)
    labels = [
        [int(label) for [(label, _)] in sheet_sample(record_set, 5, seed=s)[1]] for s in (1, 2)
    ]
    assert labels[0] != labels[1] and len(set(labels[0])) == 5
    images, captions = sheet_sample(record_set, 5, seed=1)
    assert [image[0, 0, 0] for image in images] == labels[0], "captions are of their images"
    assert captions[0] == [(str(labels[0][0]), "(no name)")]
    (image,), _ = sheet_sample(opened(tmp_path / "b", Record("1", (wide,))), 5)
    assert image.shape == (128, 256, 3) and image.dtype == np.uint8


def test_what_does_not_decode_is_passed_over_and_nothing_is_seen_through(tmp_path):
    clear = picture(4, 4, mode="RGBA", colour=(200, 0, 0, 0))
    parts = [Record("1", (b"no image",)), Record("2", (clear,)), Record("3", (), (("en", "a"),))]
    images, captions = sheet_sample(opened(tmp_path / "a", *parts), 3)
    assert len(images) == len(captions) == 1
    assert (images[0] == 255).all(), "transparent parts are white"


def test_names_of_labels_stand_below(tmp_path):
    record_set = opened(tmp_path / "a", Record("1", (picture(4, 4),), label=1))
    record_set.manifest["classes"] = ["cat", "dog"]
    assert sheet_sample(record_set, 1)[1] == [[("1", "dog")]]
