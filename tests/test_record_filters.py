"""Filters of single records, language identification, and resizing."""

import subprocess
import sys

import pytest
from conftest import ROOT
from helpers.corpus import CorpusConverter, needs_imagehash
from helpers.images import blurred_noise, encode

from tf_mural.conversion import PAPER, FilterConfig, record_filters
from tf_mural.data.records import Record, Skipped
from tf_mural.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    return CorpusConverter(tmp_path)


def jpeg(width=256, height=256, seed=0):
    return encode(blurred_noise(seed, width, height), "JPEG")


def pair(id, width, height):
    return Record(id, (jpeg(width, height),), (("en", "a few words"),))


def bitext(id, *texts):
    return Record(id, (), tuple(zip(("en", "de", "fr"), texts, strict=False)))


def test_a_recipe_without_filters_does_not_mention_them(corpus):
    manifest = corpus.convert([[bitext("0", "a", "b")]])
    assert "steps" not in manifest["made_by"]


# --- images ---------------------------------------------------------------------------------------


def test_images_are_filtered_by_their_sides(corpus):
    sizes = {"just": (201, 300), "side": (400, 200), "flat": (603, 201), "near": (602, 201)}
    units = [[pair(name, *size) for name, size in sizes.items()]]
    assert corpus.ids(units, short_side_above=200, aspect_below=3) == ["just", "near"]
    assert corpus.dropped() == (
        {"image side of 200 pixels or less": 1, "image sides of 3 to 1 or more": 1},
        {},
    )
    assert corpus.manifest["made_by"]["steps"] == {"aspect_below": 3, "short_side_above": 200}


def test_every_image_of_a_record_must_pass(corpus):
    large, small = jpeg(), jpeg(100, 100)
    units = [[Record("0", (large, small), (("en", "x"),)), Record("1", (large,), (("en", "x"),))]]
    assert corpus.ids(units, short_side_above=100) == ["1"]


def test_only_filters_of_images_drop_images_that_do_not_decode(corpus, monkeypatch):
    from PIL import Image

    broken = Record("broken", (b"no image",), (("en", "x"),))
    assert corpus.ids([[broken]]) == ["broken"]
    large = Record("large", (encode(blurred_noise(0, 300, 300), "PNG"),), (("en", "x"),))
    fine = pair("fine", 100, 100)
    # Pillow refuses images of more than twice `MAX_IMAGE_PIXELS`.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert corpus.ids([[broken, large, fine]], short_side_above=9, overwrite=True) == ["fine"]
    assert corpus.dropped()[0] == {"image does not decode": 1, "image too large": 1}


# --- texts ----------------------------------------------------------------------------------------


def test_texts_are_filtered_by_words_and_characters(corpus):
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


def test_records_without_enough_texts_are_dropped(corpus):
    units = [
        [
            bitext("one left", "x y", "z"),
            bitext("two left", "x y", "y z", "z"),
            Record("only a text", (), (("en", "x y"),)),
            Record("image without text", (b"i",), (("en", "x"),)),
            Record("label", (b"i",), (), label=3),
            Skipped("odd", "1"),
        ]
    ]
    assert corpus.ids(units, min_words=2) == ["two left", "only a text", "label"]
    assert corpus.dropped() == (
        {"no text left": 1, "no translation left": 1, "odd": 1},
        {"text of fewer than 2 words": 3},
    )


def test_words_are_separated_by_spaces_or_are_characters():
    assert record_filters.count_words("  two   words ", "en") == 2
    assert record_filters.count_words("两 字啊", "zh-Hant") == 3
    assert record_filters.count_words("สวัสดี", "th") == 6


def detect(text):
    return {"hallo": "de", "shalom": "iw", "你好": "zh-Latn"}.get(text)


def test_a_detector_may_be_any_function(corpus):
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
from helpers.corpus import CorpusConverter
from helpers.images import plain_image
from tf_mural.data.records import Record

texts = (
    ("en", "The quick brown fox jumps over the lazy dog near the river."),
    ("en", "Der schnelle braune Fuchs springt über den faulen Hund."),
    ("de", "Der schnelle braune Fuchs springt über den faulen Hund."),
    ("ja", "素早い茶色の狐がのろまな犬を飛び越える。"),
)
corpus, image = CorpusConverter(Path({folder!r})), plain_image()
units = [[Record("0", (image,), texts)], [Record("1", (image,), texts[1:2])]]
assert corpus.ids(units, language_detector="cld3", resize=32) == ["0"]
assert corpus.records()[0].texts == (texts[0], *texts[2:])
assert corpus.dropped() == ({{"no text left": 1}}, {{"another language by cld3": 2}})
"""


def run_without_tensorflow(code):
    """Runs code in a process that has not imported TensorFlow."""
    paths = f"import sys; sys.path[:0] = [{ROOT!r}, {ROOT + '/tests'!r}]\n"
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_cld3_and_resizing_run_in_one_process(tmp_path):
    pytest.importorskip("gcld3", reason="the detector is an optional package, cld3-py")
    run_without_tensorflow(CLD3.format(folder=str(tmp_path)))


def test_cld3_after_tensorflow_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    monkeypatch.delitem(sys.modules, "gcld3", raising=False)
    record_filters.load_language_detector.cache_clear()
    with pytest.raises(UserError, match="cld3 must be loaded before TensorFlow"):
        record_filters.load_language_detector("cld3")


def test_unknown_and_missing_detectors_are_refused(monkeypatch):
    load = record_filters.load_language_detector
    with pytest.raises(UserError, match="unknown language detector 'cld4'; known: cld3"):
        load("cld4")
    with pytest.raises(UserError, match="no language detector 'nowhere:f'"):
        load("nowhere:f")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setitem(sys.modules, "gcld3", None)
    load.cache_clear()
    with pytest.raises(UserError, match="pip install cld3-py"):
        load("cld3")


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_words": 0}, "expected min_words of 1 or more, got 0"),
        ({"resize_quality": 101}, "resize_quality of 1 to 100"),
        ({"near_distance": -1}, "near_distance of 0 to 15"),
        ({"deduplicate": ("exakt",)}, "unknown kind of duplicates 'exakt'; known: exact, near"),
        ({"shard_records": 0}, "shard_records of 1 or more"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FilterConfig(**options)


def test_paper_filters_have_the_numbers_of_the_paper():
    filters = FilterConfig(**PAPER)
    assert (filters.short_side_above, filters.aspect_below) == (200, 3)
    assert (filters.texts_per_image, filters.images_per_text) == (100, 10)
    assert (filters.min_words, filters.max_words, filters.max_characters) == (3, 100, 1000)
    assert filters.language_detector == "cld3"
    assert filters.corpus_filters == ("texts per image", "images per text")


# --- resizing -------------------------------------------------------------------------------------


def test_resizing_gives_the_pixels_of_the_input_pipeline(corpus):
    import tensorflow as tf

    from tf_mural.data import image_ops

    original = jpeg(500, 300, seed=1)
    exact = encode(blurred_noise(2, 200, 200), "PNG")
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
    assert tf.reduce_mean(tf.cast(difference, tf.float32)) < 2  # JPEG is lossy.
    assert (
        first.images[0] == tf.io.encode_jpeg(late, quality=100, chroma_downsampling=False).numpy()
    )
    assert second.images == (exact,)  # An image of 200 x 200 pixels keeps its bytes.
    assert third == units[0][3]
    assert corpus.manifest["made_by"]["steps"] == {"resize": 200, "resize_quality": 100}


def test_resize_quality_changes_the_size_of_files(corpus):
    units = [[pair("0", 500, 500)]]
    corpus.convert(units, resize=200, resize_quality=30)
    small = len(corpus.records()[0].images[0])
    corpus.convert(units, resize=200, overwrite=True)
    assert small < len(corpus.records()[0].images[0]) / 2


OTHER_FILTERS = """
from pathlib import Path
from helpers.corpus import CorpusConverter
from helpers.images import blurred_noise, encode
from tf_mural.data.records import Record

unit = [Record("0", (encode(blurred_noise(0), "JPEG"),), (("en", "a few words"),))]
filters = dict(deduplicate=("exact", "near"), short_side_above=200, min_words=1)
assert CorpusConverter(Path({folder!r})).ids([unit], **filters) == ["0"]
assert "tensorflow" not in sys.modules
"""


@needs_imagehash
def test_only_resizing_imports_tensorflow(tmp_path):
    run_without_tensorflow(OTHER_FILTERS.format(folder=str(tmp_path)))
