"""Filters of single records, and resizing."""

import subprocess
import sys

import pytest
from conftest import ROOT
from corpora import Corpus, encoded, needs_imagehash, picture

from tf_mural.conversion import PAPER, Steps, language_id, record_filters
from tf_mural.data.records import Dropped, Record
from tf_mural.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def pair(id, width, height):
    return Record(id, (encoded(picture(0, width, height)),), (("en", "a few words"),))


def bitext(id, *texts):
    return Record(id, (), tuple(zip(("en", "de", "fr"), texts, strict=False)))


def test_no_step_is_no_recipe(corpus):
    manifest = corpus.convert([[bitext("0", "a", "b")]])
    assert "steps" not in manifest["made_by"]


def test_sides_of_images(corpus):
    sizes = {"just": (201, 300), "side": (400, 200), "flat": (603, 201), "near": (602, 201)}
    units = [[pair(name, *size) for name, size in sizes.items()]]
    assert corpus.ids(units, short_side_above=200, aspect_below=3) == ["just", "near"]
    assert corpus.dropped() == (
        {"image side of 200 pixels or less": 1, "image sides of 3 to 1 or more": 1},
        {},
    )
    assert corpus.manifest["made_by"]["steps"] == {"aspect_below": 3, "short_side_above": 200}


def test_every_image_of_a_record_must_pass(corpus):
    large, small = encoded(picture(0)), encoded(picture(0, 100, 100))
    units = [[Record("0", (large, small), (("en", "x"),)), Record("1", (large,), (("en", "x"),))]]
    assert corpus.ids(units, short_side_above=100) == ["1"]


def test_what_does_not_decode_is_dropped_where_it_is_looked_at(corpus, monkeypatch):
    from PIL import Image

    broken = Record("broken", (b"no image",), (("en", "x"),))
    assert corpus.ids([[broken]]) == ["broken"]  # Bytes pass untouched.
    large = Record("large", (encoded(picture(0, 300, 300), "PNG"),), (("en", "x"),))
    fine = pair("fine", 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # An error above twice as many.
    assert corpus.ids([[broken, large, fine]], short_side_above=9, overwrite=True) == ["fine"]
    assert corpus.dropped()[0] == {"image does not decode": 1, "image too large": 1}


def test_lengths_of_texts(corpus):
    texts = (
        ("en", "two words"),
        ("en", "these are three"),
        ("en", "here are four words"),
        ("en", "now these are five words"),
        ("en", "threes threes loooooooooooooooong"),
        ("zh", "三个字"),
        ("zh", "两字"),
        ("zh", "五个汉字啊"),
    )
    units = [[Record("0", (b"i",), texts)]]
    assert corpus.ids(units, min_words=3, max_words=4, max_characters=30) == ["0"]
    assert corpus.records()[0].texts == (texts[1], texts[2], texts[5])
    assert corpus.dropped()[1] == {
        "text of fewer than 3 words": 2,
        "text of more than 4 words": 2,
        "text of more than 30 characters": 1,
    }
    examples = corpus.manifest["ledger"]["examples"]
    assert examples["text of fewer than 3 words"] == ["0, en: two words", "0, zh: 两字"]


def test_a_record_without_enough_texts_goes(corpus):
    units = [
        [
            bitext("one left", "x y", "z"),
            bitext("two left", "x y", "y z", "z"),
            Record("a text alone", (), (("en", "x y"),)),
            Record("image alone", (b"i",), (("en", "x"),)),
            Record("label", (b"i",), (), label=3),
            Dropped("odd", "1"),
        ]
    ]
    assert corpus.ids(units, min_words=2) == ["two left", "a text alone", "label"]
    assert corpus.dropped() == (
        {"no text left": 1, "no translation left": 1, "odd": 1},
        {"text of fewer than 2 words": 3},
    )


def detect(text):
    return {"hallo": "de", "shalom": "iw", "你好": "zh-Latn"}.get(text)


def test_another_detector_by_name(corpus):
    texts = (
        ("en", "hallo"),
        ("de-AT", "hallo"),
        ("he", "shalom"),
        ("zh-Hant", "你好"),
        ("en", "?"),
    )
    name = f"{__name__}:detect"
    assert corpus.ids([[Record("0", (b"i",), texts)]], language_detector=name) == ["0"]
    assert corpus.records()[0].texts == texts[1:4]
    assert corpus.manifest["ledger"]["examples"] == {
        f"another language by {name}": ["0, en: de: hallo", "0, en: None: ?"]
    }


CLD3 = """
from pathlib import Path
from corpora import Corpus, encoded, picture
from tf_mural.records import Record

texts = (
    ("en", "The quick brown fox jumps over the lazy dog near the river."),
    ("en", "Der schnelle braune Fuchs springt über den faulen Hund."),
    ("de", "Der schnelle braune Fuchs springt über den faulen Hund."),
    ("ja", "素早い茶色の狐がのろまな犬を飛び越える。"),
)
corpus, image = Corpus(Path({folder!r})), encoded(picture(0))
units = [[Record("0", (image,), texts)], [Record("1", (image,), texts[1:2])]]
assert corpus.ids(units, language_detector="cld3", resize=32) == ["0"]
assert corpus.records()[0].texts == (texts[0], *texts[2:])
assert corpus.dropped() == ({{"no text left": 1}}, {{"another language by cld3": 2}})
"""


def apart(code):
    """Runs code in a process without TensorFlow."""
    paths = f"import sys; sys.path[:0] = [{ROOT!r}, {ROOT + '/tests'!r}]\n"
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_cld3_beside_tensorflow(tmp_path):
    pytest.importorskip("gcld3", reason="the detector is an optional package, cld3-py")
    apart(CLD3.format(folder=str(tmp_path)))


def test_cld3_after_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    monkeypatch.delitem(sys.modules, "gcld3", raising=False)
    language_id.detector.cache_clear()
    with pytest.raises(UserError, match="cld3 must be loaded before TensorFlow"):
        language_id.detector("cld3")


def test_detectors_that_are_not_there(corpus, monkeypatch):
    with pytest.raises(UserError, match="unknown language detector 'cld4'; known: cld3"):
        language_id.detector("cld4")
    with pytest.raises(UserError, match="no language detector 'nowhere:f'"):
        language_id.detector("nowhere:f")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setitem(sys.modules, "gcld3", None)
    language_id.detector.cache_clear()
    with pytest.raises(UserError, match="pip install cld3-py"):
        language_id.detector("cld3")


@pytest.mark.parametrize(
    "steps, message",
    [
        ({"min_words": 0}, "expected min_words of 1 or more, got 0"),
        ({"resize_quality": 101}, "resize_quality of 1 to 100"),
        ({"near_distance": -1}, "near_distance of 0 to 15"),
        ({"deduplicate": ("exakt",)}, "unknown kind of duplicates 'exakt'; known: exact, near"),
        ({"shard_records": 0}, "shard_records of 1 or more"),
    ],
)
def test_steps_that_cannot_be(steps, message):
    with pytest.raises(UserError, match=message):
        Steps(**steps)


def test_the_papers_filters_are_those_of_the_paper():
    steps = Steps(**PAPER)
    assert (steps.short_side_above, steps.aspect_below) == (200, 3)
    assert (steps.texts_per_image, steps.images_per_text) == (100, 10)
    assert (steps.min_words, steps.max_words, steps.max_characters) == (3, 100, 1000)
    assert steps.language_detector == "cld3"
    assert steps.questions == ("texts per image", "images per text")


def test_words_are_counted_by_blanks_or_by_characters():
    assert record_filters.words("  two   words ", "en") == 2
    assert record_filters.words("两 字啊", "zh-Hant") == 3
    assert record_filters.words("สวัสดี", "th") == 6


# --- resizing -------------------------------------------------------------------------------------


def test_resize_is_the_pipelines_own(corpus):
    import tensorflow as tf

    from tf_mural.data import image_ops

    original = encoded(picture(1, 500, 300))
    exact = encoded(picture(2, 200, 200), "PNG")
    units = [
        [
            Record("0", (original,), (("en", "x"),), label=2),
            Record("1", (exact,), (("en", "x"),)),
            Record("2", (original[:200],), (("en", "x"),)),
            bitext("3", "x", "y"),
        ]
    ]
    assert corpus.ids(units, resize=200, resize_quality=100) == ["0", "1", "3"]
    assert corpus.dropped()[0] == {"image does not decode": 1}
    first, second, third = corpus.records()
    early = image_ops.decode(first.images[0])
    late = image_ops.resize(image_ops.decode(original), 200)
    assert early.shape == (200, 200, 3) and first.label == 2
    difference = abs(tf.cast(early, tf.int32) - tf.cast(late, tf.int32))
    assert tf.reduce_mean(tf.cast(difference, tf.float32)) < 2  # what JPEG loses
    assert first.images[0] == tf.io.encode_jpeg(late, quality=100).numpy()
    assert second.images == (exact,)  # It has that size, so its bytes pass untouched.
    assert third == units[0][3]
    assert corpus.manifest["made_by"]["steps"] == {"resize": 200, "resize_quality": 100}


def test_quality_can_be_set(corpus):
    units = [[pair("0", 500, 500)]]
    corpus.convert(units, resize=200, resize_quality=30)
    small = len(corpus.records()[0].images[0])
    corpus.convert(units, resize=200, overwrite=True)
    assert small < len(corpus.records()[0].images[0]) / 2


ONLY = """
from pathlib import Path
from corpora import Corpus, encoded, picture
from tf_mural.records import Record

unit = [Record("0", (encoded(picture(0)),), (("en", "a few words"),))]
steps = dict(deduplicate=("exact", "near"), short_side_above=200, min_words=1)
assert Corpus(Path({folder!r})).ids([unit], **steps) == ["0"]
assert "tensorflow" not in sys.modules
"""


@needs_imagehash
def test_only_resizing_imports_tensorflow(tmp_path):
    apart(ONLY.format(folder=str(tmp_path)))
