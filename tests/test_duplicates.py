"""Duplicates, texts per image, images per text, and sets that are kept out."""

import sys

import numpy as np
import pytest
from corpora import Corpus, encoded, needs_imagehash, picture
from PIL import Image

from tf_mural.conversion import Steps, corpus_filters, hashes, sorted_spill
from tf_mural.conversion.ledger import Books
from tf_mural.data import records
from tf_mural.data.records import Record
from tf_mural.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def pair(id, image, *texts, **known):
    return Record(id, (image,), tuple(("en", text) for text in texts), **known)


def bitext(id, first, second):
    return Record(id, (), (("en", first), ("de", second)))


def test_exact_duplicates_go_and_the_first_stays(corpus):
    units = [
        [bitext("a", "x", "y"), bitext("b", "x", "z")],
        [bitext("c", "x", "y"), pair("d", b"i", "x"), pair("e", b"j", "x")],
        [pair("f", b"i", "x"), bitext("g", "x", "y"), pair("h", b"i", "x", label=1)],
    ]
    assert corpus.ids(units, deduplicate=("exact",)) == ["a", "b", "d", "e", "h"]
    assert corpus.dropped() == ({"exact duplicate": 3}, {})
    assert corpus.manifest["ledger"]["examples"] == {"exact duplicate": ["c", "f", "g"]}
    assert corpus.manifest["made_by"]["steps"] == {"deduplicate": ["exact"]}


def test_the_first_stays_whatever_the_order_of_the_rows():
    key, other = np.array([7, 7, 5, 7], np.uint64), np.zeros(4, np.uint64)
    position = np.array([9, 3, 1, 4], np.uint64)
    dropped, texts = corpus_filters.QUESTIONS["exact"].drops(key, other, position, Steps())
    assert (dropped.tolist(), texts.tolist()) == ([4, 9], [0, 0])


def test_a_record_that_a_filter_drops_is_no_original(corpus):
    units = [[pair("a", b"i", "x", "y y"), pair("b", b"i", "x", "y y")]]
    assert corpus.ids(units, deduplicate=("exact",), min_words=2) == ["a"]
    units = [[bitext("a", "x", "y"), bitext("b", "x x", "y y"), bitext("c", "x x", "y y")]]
    assert corpus.ids(units, out="two", deduplicate=("exact",), min_words=2) == ["b"]
    assert corpus.dropped()[0] == {"no text left": 1, "exact duplicate": 1}


@needs_imagehash
def test_near_duplicates_are_found_however_they_are_encoded(corpus):
    units = [
        [pair(str(seed), encoded(picture(seed)), "x") for seed in range(30)],
        [
            pair("smaller", encoded(picture(3).resize((100, 70)), quality=60), "other text"),
            pair("png", encoded(picture(4), "PNG"), "x"),
            pair("new", encoded(picture(99)), "x"),
            bitext("bitext", "x", "y"),
            pair("broken", b"no image", "x"),
        ],
    ]
    first = [str(seed) for seed in range(30)]
    kept = corpus.ids(units, deduplicate=("near",))
    assert kept == [*first, "new", "bitext", "broken"]
    assert corpus.dropped() == ({"near duplicate": 2}, {})
    steps = {"deduplicate": ["near"], "near_distance": 4}
    assert corpus.manifest["made_by"]["steps"] == steps


@needs_imagehash
def test_what_images_look_like():
    large = encoded(picture(1, 2000, 1500), quality=95)
    looks = hashes.perceptual(large)
    alike = [
        encoded(picture(1, 346, 346)),
        encoded(picture(1, 60, 45), "PNG"),
        encoded(picture(1).convert("P"), "GIF"),
        encoded(picture(1).convert("CMYK")),
    ]
    assert max((looks ^ hashes.perceptual(data)).bit_count() for data in alike) <= 4
    others = [hashes.perceptual(encoded(picture(seed))) for seed in range(2, 40)]
    assert min((looks ^ other).bit_count() for other in others) > 8
    assert hashes.perceptual(large[:100]) == hashes.perceptual(b"") == "image does not decode"


@needs_imagehash
def test_what_is_transparent_is_white():
    image = picture(5).convert("RGBA")
    image.putalpha(picture(6).convert("L"))
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    with_alpha, without = (hashes.perceptual(encoded(one, "PNG")) for one in (image, flat))
    assert with_alpha == without != hashes.perceptual(encoded(image.convert("RGB"), "PNG"))


def test_imagehash_that_is_missing(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="pip install ImageHash"):
        corpus.convert([[pair("a", b"i", "x")]], deduplicate=("near",))


def brute_force(looks, distance):
    bits = np.bitwise_count(looks[:, None] ^ looks[None])
    return [j for j in range(len(looks)) if (bits[j, :j] <= distance).any()]


@pytest.mark.parametrize("distance", [0, 1, 4, 7])
def test_near_finds_what_comparing_all_finds(distance, monkeypatch):
    random = np.random.default_rng(distance)
    looks = random.integers(0, 2**64, 300, np.uint64)
    for number in range(150):  # Half are others with a few bits turned.
        turned = random.choice(64, random.integers(0, distance + 3), replace=False)
        looks[150 + number] = looks[random.integers(150)] ^ np.bitwise_or.reduce(
            np.uint64(1) << turned.astype(np.uint64), initial=np.uint64(0)
        )
    monkeypatch.setattr(hashes, "perceptual", lambda image: int.from_bytes(image, "little"))
    steps = Steps(deduplicate=("near",), near_distance=distance)
    found = np.array(
        [
            (*row, position)
            for position, one in enumerate(looks)
            for row in corpus_filters.QUESTIONS["near"].rows(pair("", one.tobytes()), steps)
        ],
        np.uint64,
    )
    assert len(found) == 300 * (distance + 1)
    dropped, texts = corpus_filters.QUESTIONS["near"].drops(*found.T, steps)
    expected = brute_force(looks, distance)
    assert dropped.tolist() == expected and 40 < len(expected) < 150
    assert not texts.any()


@needs_imagehash
def test_images_of_one_record_are_no_duplicates_of_each_other(corpus):
    image = encoded(picture(0))
    frames = Record("frames", (image, image, encoded(picture(0), quality=50)), (("en", "x"),))
    assert corpus.ids([[frames, pair("again", image, "y")]], deduplicate=("near",)) == ["frames"]


@needs_imagehash
def test_keys_are_spread():
    steps = Steps(deduplicate=("near",))
    keys = [
        key
        for seed in range(40)
        for key, _ in corpus_filters.QUESTIONS["near"].rows(pair("", encoded(picture(seed))), steps)
    ]
    counts = np.histogram(np.array(keys, float), bins=4, range=(0, 2.0**64))[0]
    assert counts.min() > 20 and counts.sum() == 200


def test_images_of_too_many_texts(corpus):
    units = [
        [pair("a", b"i", "1", "2"), pair("b", b"j", "1", "2")],
        [pair("c", b"i", "2"), pair("d", b"i", "3"), pair("e", b"j", "1"), pair("f", b"k", "1")],
    ]
    assert corpus.ids(units, texts_per_image=2) == ["b", "e", "f"]  # j has two different ones
    assert corpus.dropped() == ({"image of more than 2 texts": 3}, {})


def test_texts_of_too_many_images(corpus):
    units = [
        [pair("a", b"i", "image", "x"), pair("b", b"j", "image"), pair("c", b"k", "rare")],
        [pair("d", b"k", "image"), pair("e", b"i", "rare"), pair("f", b"i", "rare")],
        [bitext("g", "image", "y")],
    ]
    assert corpus.ids(units, images_per_text=2) == ["a", "c", "e", "f", "g"]
    assert corpus.records()[0].texts == (("en", "x"),)
    assert corpus.records()[4].texts == (("en", "image"), ("de", "y"))  # counted with images alone
    assert corpus.dropped() == ({"no text left": 2}, {"text of more than 2 images": 3})


def test_questions_are_asked_of_all_that_the_filters_leave(corpus):
    # The original goes for its many texts; its duplicate goes all the same.
    units = [
        [pair("a", b"i", "1"), pair("b", b"i", "2"), pair("c", b"i", "1"), pair("d", b"k", "1")]
    ]
    assert corpus.ids(units, texts_per_image=1, deduplicate=("exact",)) == ["d"]
    assert corpus.dropped()[0] == {"image of more than 1 texts": 3}


def test_ranges_and_files_do_not_change_a_byte(corpus, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    units = [
        [pair(f"{u}.{i}", b"%d" % random.integers(60), str(random.integers(30))) for i in range(50)]
        for u in range(4)
    ]
    how = dict(deduplicate=("exact",), texts_per_image=3, images_per_text=6)
    corpus.convert(units, "one", **how)
    monkeypatch.setattr(sorted_spill, "_ROWS", 7)
    monkeypatch.setattr(sorted_spill, "ROWS_AT_ONCE", 20)
    assert 0 < corpus.convert(units, out="two", **how)["records"] < 150
    assert any("of 10 ranges" in line or "of 30 ranges" in line for line in corpus.said)
    for path in (tmp_path / "one/train").iterdir():
        assert path.read_bytes() == (tmp_path / "two/train" / path.name).read_bytes()


def test_ranges_of_keys_cover_all(monkeypatch, tmp_path):
    monkeypatch.setattr(sorted_spill, "ROWS_AT_ONCE", 2)
    collected = sorted_spill.Rows(str(tmp_path / "rows"))
    keys = [0, 5, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 1]
    for number, key in enumerate(keys):
        collected.add(key, 0, number)
    collected.spill()
    found = [
        sorted_spill.between(collected.files, *ends, width=3)
        for ends in sorted_spill.key_ranges(len(keys))
    ]
    assert [part[:, 2].tolist() for part in found] == [[0, 1], [2, 3], [4], [5, 6]]


def test_input_that_changes_between_the_passes(corpus):
    unit = [bitext("a", "x", "y"), bitext("b", "x", "z")]

    def read(number):
        yield from unit
        unit.pop()

    corpus.module.read = read
    with pytest.raises(UserError, match="2 records were read in the first pass, 1 in the second"):
        corpus.convert([unit], deduplicate=("exact",))


def test_a_lost_record_is_a_fault():
    books = Books(read=3)
    books.dropped["odd"] = 1
    with pytest.raises(RuntimeError, match="read 3, but kept 1 and dropped 1"):
        books.close(1)


# --- excluded sets --------------------------------------------------------------------------------


@pytest.fixture
def held_out(tmp_path):
    images = [pair(f"t{seed}", encoded(picture(seed)), "a test text") for seed in range(3)]
    records.write(tmp_path / "coco/test", images, "coco", "test")
    bitexts = [bitext("s0", "The cat  sleeps", "Die Katze schläft")]
    records.write(tmp_path / "sts/test", bitexts, "sts", "test")
    return str(tmp_path / "coco/test"), str(tmp_path / "sts/test")


@needs_imagehash
def test_records_of_excluded_sets_go(corpus, held_out):
    units = [
        [
            pair("same", encoded(picture(0)), "x"),
            pair("other", encoded(picture(7)), "a test text"),
            pair("re-encoded", encoded(picture(1).resize((120, 90)), quality=70), "x"),
            bitext("turned", "DIE KATZE schläft", "the cat sleeps"),
            bitext("half", "The cat sleeps", "Le chat dort"),
            pair("broken", b"no image", "x"),
            pair("with image", encoded(picture(8)), "Die Katze schläft", "The cat sleeps"),
        ]
    ]
    assert corpus.ids(units, exclude=held_out) == ["other", "half"]
    assert corpus.dropped()[0] == {
        "image of coco/test": 1,
        "image that looks like one of coco/test": 1,
        "texts of sts/test": 2,
        "image does not decode": 1,
    }
    examples = corpus.manifest["ledger"]["examples"]
    assert examples["image of coco/test"] == ["same is t0"]
    assert examples["image that looks like one of coco/test"] == ["re-encoded looks like t1"]
    assert examples["texts of sts/test"] == ["turned is s0", "with image is s0"]
    steps = corpus.manifest["made_by"]["steps"]
    digests = [records.RecordSet.open(folder).digest for folder in held_out]
    assert steps["exclude"] == dict(zip(["coco/test", "sts/test"], digests, strict=True))


@needs_imagehash
def test_distance_of_excluded_images_can_be_set(corpus, held_out, monkeypatch):
    looks = {b"far": 0b11111, b"near": 0b111}
    known = hashes.perceptual
    zero = known(encoded(picture(2)))
    monkeypatch.setattr(
        hashes, "perceptual", lambda data: looks[data] ^ zero if data in looks else known(data)
    )
    units = [[pair("far", b"far", "x"), pair("near", b"near", "x")]]
    assert corpus.ids(units, exclude=held_out) == ["far"]
    assert corpus.ids(units, out="two", exclude=held_out, near_distance=2) == ["far", "near"]
    units = [[*units[0], bitext("bitext", "x", "y")]]
    assert corpus.ids(units, out="three", exclude=held_out, near_distance=5) == ["bitext"]


@needs_imagehash
def test_another_excluded_set_is_another_recipe(corpus, held_out, tmp_path):
    units = [[bitext("a", "x", "y")]]
    corpus.convert(units, exclude=held_out)
    corpus.convert(units, exclude=held_out)
    assert "already there" in corpus.said[0]
    records.write(tmp_path / "sts/test", [bitext("s1", "new", "neu")], "sts", "test")
    with pytest.raises(UserError, match="exclude was "):
        corpus.convert(units, exclude=held_out)


def test_an_excluded_set_that_is_missing(corpus, tmp_path):
    with pytest.raises(UserError, match="no record set in .*nowhere"):
        corpus.convert([[bitext("a", "x", "y")]], exclude=(str(tmp_path / "nowhere"),))
    assert not (tmp_path / "out").exists()
