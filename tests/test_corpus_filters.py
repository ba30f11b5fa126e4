"""Filters that need the whole corpus (duplicates, counts of texts and images), decontamination."""

import sys

import numpy as np
import pytest
from helpers.corpus import CorpusConverter, needs_imagehash, read_files
from helpers.images import blurred_noise, encode
from PIL import Image

from tf_mural.conversion import FilterConfig, corpus_filters, hashes
from tf_mural.conversion.corpus_filters import CORPUS_FILTERS
from tf_mural.conversion.ledger import Ledger
from tf_mural.data import records
from tf_mural.data.records import Record
from tf_mural.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    return CorpusConverter(tmp_path)


def jpeg(seed, size=None, **options):
    image = blurred_noise(seed)
    return encode(image.resize(size) if size else image, "JPEG", **options)


def pair(id, image, *texts, **fields):
    return Record(id, (image,), tuple(("en", text) for text in texts), **fields)


def bitext(id, first, second):
    return Record(id, (), (("en", first), ("de", second)))


# --- exact duplicates -----------------------------------------------------------------------------


def test_the_first_of_exact_duplicates_is_kept(corpus):
    units = [
        [bitext("a", "x", "y"), bitext("b", "x", "z")],
        [bitext("c", "x", "y"), pair("d", b"i", "x"), pair("e", b"j", "x")],
        [pair("f", b"i", "x"), bitext("g", "x", "y"), pair("h", b"i", "x", label=1)],
    ]
    assert corpus.ids(units, deduplicate=("exact",)) == ["a", "b", "d", "e", "h"]
    assert corpus.dropped() == ({"exact duplicate": 3}, {})
    assert corpus.manifest["ledger"]["examples"] == {"exact duplicate": ["c", "f", "g"]}
    assert corpus.manifest["made_by"]["steps"] == {"deduplicate": ["exact"]}


def test_the_first_is_kept_in_any_order_of_the_entries():
    keys, values = np.array([7, 7, 5, 7], np.uint64), np.zeros(4, np.uint64)
    positions = np.array([9, 3, 1, 4], np.uint64)
    select = CORPUS_FILTERS["exact"].select
    dropped, texts = select(keys, values, positions, FilterConfig())
    assert (dropped.tolist(), texts.tolist()) == ([4, 9], [0, 0])


def test_a_record_that_a_record_filter_drops_has_no_duplicates(corpus):
    units = [[pair("a", b"i", "x", "y y"), pair("b", b"i", "x", "y y")]]
    assert corpus.ids(units, deduplicate=("exact",), min_words=2) == ["a"]
    units = [[bitext("a", "x", "y"), bitext("b", "x x", "y y"), bitext("c", "x x", "y y")]]
    assert corpus.ids(units, out="two", deduplicate=("exact",), min_words=2) == ["b"]
    assert corpus.dropped()[0] == {"no text left": 1, "exact duplicate": 1}


# --- near duplicates ------------------------------------------------------------------------------


@needs_imagehash
def test_near_duplicates_are_found_in_any_encoding(corpus):
    units = [
        [pair(str(seed), jpeg(seed), "x") for seed in range(30)],
        [
            pair("smaller", jpeg(3, (100, 70), quality=60), "other text"),
            pair("png", encode(blurred_noise(4), "PNG"), "x"),
            pair("new", jpeg(99), "x"),
            bitext("bitext", "x", "y"),
            pair("broken", b"no image", "x"),
        ],
    ]
    first = [str(seed) for seed in range(30)]
    kept = corpus.ids(units, deduplicate=("near",))
    assert kept == [*first, "new", "bitext", "broken"]
    assert corpus.dropped() == ({"near duplicate": 2}, {})
    filters = {"deduplicate": ["near"], "near_distance": 4}
    assert corpus.manifest["made_by"]["steps"] == filters


@needs_imagehash
def test_perceptual_hashes_of_similar_images_differ_in_few_bits():
    large = encode(blurred_noise(1, 2000, 1500), "JPEG", quality=95)
    phash = hashes.perceptual_hash(large)
    similar = [
        encode(blurred_noise(1, 346, 346), "JPEG"),
        encode(blurred_noise(1, 60, 45), "PNG"),
        encode(blurred_noise(1).convert("P"), "GIF"),
        encode(blurred_noise(1).convert("CMYK"), "JPEG"),
    ]
    assert max((phash ^ hashes.perceptual_hash(data)).bit_count() for data in similar) <= 4
    others = [hashes.perceptual_hash(jpeg(seed)) for seed in range(2, 40)]
    assert min((phash ^ other).bit_count() for other in others) > 8
    for data in (large[:100], b""):
        assert hashes.perceptual_hash(data) == "image does not decode"


@needs_imagehash
def test_transparent_pixels_count_as_white():
    image = blurred_noise(5).convert("RGBA")
    image.putalpha(blurred_noise(6).convert("L"))
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    transparent, flattened, opaque = (
        hashes.perceptual_hash(encode(variant, "PNG"))
        for variant in (image, flat, image.convert("RGB"))
    )
    assert transparent == flattened != opaque


def test_missing_imagehash_is_a_user_error(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="pip install ImageHash"):
        corpus.convert([[pair("a", b"i", "x")]], deduplicate=("near",))


def near_by_brute_force(phashes, distance):
    bits = np.bitwise_count(phashes[:, None] ^ phashes[None])
    return [j for j in range(len(phashes)) if (bits[j, :j] <= distance).any()]


@pytest.mark.parametrize("distance", [0, 1, 4, 7])
def test_near_duplicates_are_those_of_comparing_all_pairs(distance, monkeypatch):
    random = np.random.default_rng(distance)
    phashes = random.integers(0, 2**64, 300, np.uint64)
    for number in range(150):  # Hash 150 + i is hash i with a few flipped bits.
        flipped = random.choice(64, random.integers(0, distance + 3), replace=False)
        phashes[150 + number] = phashes[random.integers(150)] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0)
        )
    monkeypatch.setattr(hashes, "perceptual_hash", lambda image: int.from_bytes(image, "little"))
    filters = FilterConfig(deduplicate=("near",), near_distance=distance)
    near = CORPUS_FILTERS["near"]
    entries = np.array(
        [
            (*entry, position)
            for position, phash in enumerate(phashes)
            for entry in near.keys(pair("", phash.tobytes()), filters)
        ],
        np.uint64,
    )
    assert len(entries) == 300 * (distance + 1)
    dropped, texts = near.select(*entries.T, filters)
    expected = near_by_brute_force(phashes, distance)
    assert dropped.tolist() == expected and 40 < len(expected) < 150
    assert not texts.any()


@needs_imagehash
def test_images_of_one_record_are_not_duplicates_of_each_other(corpus):
    frames = Record("frames", (jpeg(0), jpeg(0), jpeg(0, quality=50)), (("en", "x"),))
    units = [[frames, pair("again", jpeg(0), "y")]]
    assert corpus.ids(units, deduplicate=("near",)) == ["frames"]


@needs_imagehash
def test_keys_are_spread_over_64_bits():
    filters = FilterConfig(deduplicate=("near",))
    keys = [
        key
        for seed in range(40)
        for key, _ in CORPUS_FILTERS["near"].keys(pair("", jpeg(seed)), filters)
    ]
    counts = np.histogram(np.array(keys, float), bins=4, range=(0, 2.0**64))[0]
    assert counts.min() > 20 and counts.sum() == 200


# --- texts per image, images per text -------------------------------------------------------------


def test_images_with_too_many_texts_are_dropped(corpus):
    units = [
        [pair("a", b"i", "1", "2"), pair("b", b"j", "1", "2")],
        [pair("c", b"i", "2"), pair("d", b"i", "3"), pair("e", b"j", "1"), pair("f", b"k", "1")],
    ]
    # The image j is kept, because it has only two different texts.
    assert corpus.ids(units, texts_per_image=2) == ["b", "e", "f"]
    assert corpus.dropped() == ({"image of more than 2 texts": 3}, {})


def test_texts_with_too_many_images_are_dropped(corpus):
    units = [
        [pair("a", b"i", "image", "x"), pair("b", b"j", "image"), pair("c", b"k", "rare")],
        [pair("d", b"k", "image"), pair("e", b"i", "rare"), pair("f", b"i", "rare")],
        [bitext("g", "image", "y")],
    ]
    assert corpus.ids(units, images_per_text=2) == ["a", "c", "e", "f", "g"]
    assert corpus.records()[0].texts == (("en", "x"),)
    assert corpus.records()[4].texts == (("en", "image"), ("de", "y"))  # has no image
    assert corpus.dropped() == ({"no text left": 2}, {"text of more than 2 images": 3})


def test_corpus_filters_see_all_records_that_pass_the_record_filters(corpus):
    # The first copy is dropped because its image has too many texts; the second copy is dropped as
    # a duplicate nevertheless.
    units = [
        [pair("a", b"i", "1"), pair("b", b"i", "2"), pair("c", b"i", "1"), pair("d", b"k", "1")]
    ]
    assert corpus.ids(units, texts_per_image=1, deduplicate=("exact",)) == ["d"]
    assert corpus.dropped()[0] == {"image of more than 1 texts": 3}


# --- passes and spill files -----------------------------------------------------------------------


def test_ranges_of_keys_and_spill_files_do_not_change_a_byte(corpus, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    units = [
        [pair(f"{u}.{i}", b"%d" % random.integers(60), str(random.integers(30))) for i in range(50)]
        for u in range(4)
    ]
    filters = dict(deduplicate=("exact",), texts_per_image=3, images_per_text=6)
    corpus.convert(units, "one", **filters)
    monkeypatch.setattr(corpus_filters, "_ENTRIES_PER_FILE", 7)
    monkeypatch.setattr(corpus_filters, "ENTRIES_PER_RANGE", 20)
    assert 0 < corpus.convert(units, out="two", **filters)["records"] < 150
    assert any("of 10 ranges" in line or "of 30 ranges" in line for line in corpus.lines)
    assert read_files(tmp_path / "one/train") == read_files(tmp_path / "two/train")


def test_ranges_cover_all_keys(monkeypatch, tmp_path):
    monkeypatch.setattr(corpus_filters, "ENTRIES_PER_RANGE", 2)
    spill = corpus_filters.SpillWriter(str(tmp_path / "spill"))
    keys = [0, 5, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 1]
    for number, key in enumerate(keys):
        spill.add(key, 0, number)
    spill.flush()
    entries = [
        corpus_filters.read_range(spill.files, *ends, width=3)
        for ends in corpus_filters.key_ranges(len(keys))
    ]
    assert [part[:, 2].tolist() for part in entries] == [[0, 1], [2, 3], [4], [5, 6]]


def test_input_that_changes_between_the_passes_is_an_error(corpus):
    unit = [bitext("a", "x", "y"), bitext("b", "x", "z")]

    def read(number):
        yield from unit
        unit.pop()

    corpus.module.read = read
    with pytest.raises(UserError, match="2 records were read in the first pass, 1 in the second"):
        corpus.convert([unit], deduplicate=("exact",))


def test_a_lost_record_is_a_runtime_error():
    ledger = Ledger(read=3)
    ledger.dropped["odd"] = 1
    with pytest.raises(RuntimeError, match="read 3, but kept 1 and dropped 1"):
        ledger.close(1)


# --- decontamination ------------------------------------------------------------------------------


@pytest.fixture
def excluded_sets(tmp_path):
    """Folders of two test sets: one of images and one of sentence pairs."""
    images = [pair(f"t{seed}", jpeg(seed), "a test text") for seed in range(3)]
    records.write(tmp_path / "coco/test", images, "coco", "test")
    bitexts = [bitext("s0", "The cat  sleeps", "Die Katze schläft")]
    records.write(tmp_path / "sts/test", bitexts, "sts", "test")
    return str(tmp_path / "coco/test"), str(tmp_path / "sts/test")


@needs_imagehash
def test_records_of_excluded_sets_are_dropped(corpus, excluded_sets):
    units = [
        [
            pair("same", jpeg(0), "x"),
            pair("other", jpeg(7), "a test text"),
            pair("re-encoded", jpeg(1, (120, 90), quality=70), "x"),
            bitext("swapped", "DIE KATZE schläft", "the cat sleeps"),
            bitext("half", "The cat sleeps", "Le chat dort"),
            pair("broken", b"no image", "x"),
            pair("with image", jpeg(8), "Die Katze schläft", "The cat sleeps"),
        ]
    ]
    assert corpus.ids(units, exclude=excluded_sets) == ["other", "half"]
    assert corpus.dropped()[0] == {
        "image of coco/test": 1,
        "image that looks like one of coco/test": 1,
        "texts of sts/test": 2,
        "image does not decode": 1,
    }
    examples = corpus.manifest["ledger"]["examples"]
    assert examples["image of coco/test"] == ["same is t0"]
    assert examples["image that looks like one of coco/test"] == ["re-encoded looks like t1"]
    assert examples["texts of sts/test"] == ["swapped is s0", "with image is s0"]
    filters = corpus.manifest["made_by"]["steps"]
    digests = [records.RecordSet.open(folder).digest for folder in excluded_sets]
    assert filters["exclude"] == dict(zip(["coco/test", "sts/test"], digests, strict=True))


@needs_imagehash
def test_near_distance_applies_to_excluded_images(corpus, excluded_sets, monkeypatch):
    flipped = {b"far": 0b11111, b"near": 0b111}
    perceptual_hash = hashes.perceptual_hash
    excluded = perceptual_hash(jpeg(2))
    monkeypatch.setattr(
        hashes,
        "perceptual_hash",
        lambda data: flipped[data] ^ excluded if data in flipped else perceptual_hash(data),
    )
    units = [[pair("far", b"far", "x"), pair("near", b"near", "x")]]
    assert corpus.ids(units, exclude=excluded_sets) == ["far"]
    assert corpus.ids(units, out="two", exclude=excluded_sets, near_distance=2) == ["far", "near"]
    units = [[*units[0], bitext("bitext", "x", "y")]]
    assert corpus.ids(units, out="three", exclude=excluded_sets, near_distance=5) == ["bitext"]


@needs_imagehash
def test_another_excluded_set_is_another_recipe(corpus, excluded_sets, tmp_path):
    units = [[bitext("a", "x", "y")]]
    corpus.convert(units, exclude=excluded_sets)
    corpus.convert(units, exclude=excluded_sets)
    assert "already there" in corpus.lines[0]
    records.write(tmp_path / "sts/test", [bitext("s1", "new", "neu")], "sts", "test")
    with pytest.raises(UserError, match="exclude was "):
        corpus.convert(units, exclude=excluded_sets)


def test_a_missing_excluded_set_is_a_user_error(corpus, tmp_path):
    with pytest.raises(UserError, match="no record set in .*nowhere"):
        corpus.convert([[bitext("a", "x", "y")]], exclude=(str(tmp_path / "nowhere"),))
    assert not (tmp_path / "out").exists()
