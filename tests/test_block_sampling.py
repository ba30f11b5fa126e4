"""Block sampler: order of an epoch, windows, filters, mixtures, and damaged records."""

import collections
import os

import numpy as np
import pytest
from helpers.draws import draw, draw_records

from tf_mural.data import language_sampling, records
from tf_mural.data.block_sampling import BlockSampler
from tf_mural.data.language_report import LanguageReport
from tf_mural.data.records import Record, RecordSet, tfrecord
from tf_mural.data.sampling import IndexSampler
from tf_mural.errors import UserError

COUNT, BLOCK, WINDOW = 230, 8, 4


def make_record(number, rare="sw"):
    """Returns a record in English and, for every third one, German and French.

    Every fifth record has an image. Record 100 also has a text in a rare language.
    """
    codes = ["en"] + ["de", "fr"] * (number % 3 == 0) + [rare] * (number == 100)
    images = (b"image",) if number % 5 == 0 else ()
    return Record(str(number), images, tuple((c, f"{number} {c}") for c in codes))


def write(folder, count=COUNT, block=BLOCK, **options):
    examples = [make_record(i) for i in range(count)]
    records.write(folder, examples, shards=3, block_records=block, **options)
    return RecordSet.open(folder, max_indexed=0)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small"), count=12)


def make_sampler(sets, text_fields=1, languages=("en",), **options):
    options = {"shuffle_limit": 100, "window_blocks": WINDOW, "seed": 3, **options}
    return BlockSampler(sets, text_fields, languages, **options)


def block_numbers(record_set, numbers):
    return set(record_set.blocks.block_of(numbers).tolist())


def windows_of(sampler, epoch=0):
    """Returns a list with the set of blocks of each window, read from the order of a sampler."""
    (record_set,) = sampler.sets
    windows, start = [], epoch * COUNT
    num_windows = -(-len(record_set.blocks) // WINDOW)
    order = draw_records(sampler, start, COUNT)
    for number in range(num_windows):
        bounds = [len(record_set.blocks) * n // num_windows for n in (number, number + 1)]
        # A window ends when all records of its blocks are drawn.
        seen, end = set(), 0
        while len(seen) < bounds[1] - bounds[0] or end < sizes(record_set, seen):
            seen |= block_numbers(record_set, order[end : end + 1])
            end += 1
        windows.append(seen)
        order = order[end:]
    assert not len(order)
    return windows


def sizes(record_set, numbers):
    return int(record_set.blocks.rows["records"][sorted(numbers)].sum())


@pytest.mark.parametrize("window_blocks", [1, 4, 7, 1000])
def test_each_epoch_visits_every_record_once_in_its_own_order(large, window_blocks):
    sampler = make_sampler([large], window_blocks=window_blocks)
    first, second = (draw_records(sampler, start, COUNT) for start in (0, COUNT))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert (first == second).mean() < 0.05 and (first == np.arange(COUNT)).mean() < 0.05


def test_each_epoch_visits_every_block_in_one_window(large):
    epochs = [windows_of(make_sampler([large]), epoch) for epoch in (0, 1)]
    for windows in epochs:
        assert sum(map(len, windows)) == len(set().union(*windows)) == len(large.blocks)
        assert all(WINDOW - 1 <= len(window) <= WINDOW for window in windows)
    assert epochs[0] != epochs[1]


def test_draw_depends_only_on_its_number(large, small):
    sets = [large, small]
    sampler = make_sampler(sets, 2, None)
    expected = draw(sampler, 0, 400)
    assert draw(make_sampler(sets, 2, None), 137, 50) == expected[137:187]
    backwards = [draw(sampler, number, 1)[0] for number in range(99, -1, -7)]
    assert backwards == expected[99::-7]
    assert draw(sampler, 10**15, 4) == draw(sampler, 10**15, 8)[:4]


def test_seed_and_name_determine_the_order(large):
    orders = {
        tuple(draw_records(make_sampler([large], seed=seed, name=name), 0, COUNT))
        for seed in (0, 1)
        for name in ("captions", "bitext")
    }
    assert len(orders) == 4


@pytest.mark.parametrize("text_fields", [1, 2])
def test_records_that_do_not_fit_are_replaced_in_their_window_and_counted(large, text_fields):
    every = windows_of(make_sampler([large]))
    sampler = make_sampler([large], text_fields, ("de", "fr"), with_image=text_fields == 1)
    fits = np.arange(COUNT) % (15 if text_fields == 1 else 3) == 0
    number_of_replaced, start = 0, 0
    for window in every:
        count = sizes(large, window)
        order = draw_records(sampler, start, count)
        in_window = np.isin(large.blocks.block_of(np.arange(COUNT)), sorted(window))
        if fits[in_window].any():  # otherwise the records are those of another window
            assert block_numbers(large, order) <= window
            assert set(np.flatnonzero(in_window & fits)) <= set(order)
        number_of_replaced += int((~fits[in_window]).sum())
        assert fits[order].all()
        start += count
    draws = np.arange(COUNT, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    assert sampler.replaced_slots(draws, set_index, unit) == number_of_replaced == (~fits).sum()
    assert make_sampler([large]).replaced_slots(draws, set_index, unit) == 0


def test_window_without_a_fitting_record_takes_those_of_another_window(large):
    sampler = make_sampler([large], 1, ("sw",))
    assert set(draw_records(sampler, 0, 2 * COUNT)) == {100}
    assert draw(sampler, 50, 10) == [(0, 100, ("sw",))] * 10


def test_min_languages_and_vectors_are_filters(tmp_path):
    description = {"of": "steps", "width": 2, "dtype": "float32"}
    examples = [
        Record(str(i), (), (("en", "x"), ("de", "y"))[: 1 + i % 2],
               vectors={"t": np.ones((1 + i % 2, 2), np.float32)} if i % 3 else {})
        for i in range(120)
    ]  # fmt: skip
    records.write(tmp_path, examples, block_records=8, vectors={"t": description})
    opened = RecordSet.open(tmp_path, max_indexed=0)
    drawn = draw_records(make_sampler([opened], 1, ("en", "de"), min_languages=2), 0, 500)
    assert set(drawn) == set(range(1, 120, 2))
    drawn = draw_records(make_sampler([opened], with_vectors=("t",)), 0, 500)
    assert set(drawn) == {i for i in range(120) if i % 3}


def test_pairs_are_drawn_in_both_orders_and_combinations_in_turn(large):
    codes = ("en", "de", "fr")
    counts = collections.Counter(c for _, _, c in draw(make_sampler([large], 2, codes), 0, 1500))
    assert len(counts) == 6 and min(counts.values()) > 170
    sampler = make_sampler([large], 2, codes, epoch_unit="combinations")
    seen = collections.defaultdict(list)
    fits = np.arange(COUNT) % 3 == 0
    for epoch in range(3):
        draws = np.arange(epoch * COUNT, (epoch + 1) * COUNT, dtype=np.int64)
        set_index, unit = (x.numpy() for x in sampler.sample(draws))
        record, language, _ = sampler.resolve(draws, set_index, unit)
        window_order = draw_records(make_sampler([large]), epoch * COUNT, COUNT)
        for plain, number, pair in zip(window_order, record, language, strict=True):
            if fits[plain]:
                assert plain == number
                seen[number].append(frozenset(pair.tolist()))
    assert all(len(pairs) == len(set(pairs)) == 3 for pairs in seen.values())


def test_set_up_to_the_limit_is_shuffled_as_before(large, small):
    for sets, limit in (([small], 12), ([small, large], COUNT)):
        options = dict(seed=5, name="bitext", temperature=2.0)
        sampler = language_sampling.make_sampler(sets, 2, shuffle_limit=limit, **options)
        assert type(sampler) is IndexSampler
        assert draw(sampler, 0, 300) == draw(IndexSampler(sets, 2, **options), 0, 300)
    sampler = language_sampling.make_sampler([small, large], 1, shuffle_limit=COUNT - 1)
    assert type(sampler) is BlockSampler and list(sampler.layouts) == [large.folder]
    assert type(language_sampling.make_sampler([large], 1)) is IndexSampler  # default: 5,000,000


@pytest.mark.parametrize(
    "options, share",
    [({}, 12 / 242), ({"weights": (1.0, 3.0)}, 3 / 4), ({"temperature": 2.0}, 0.1859)],
)
def test_share_of_a_set_follows_size_weight_and_temperature(large, small, options, share):
    sampler = make_sampler([large, small], **options)
    draws = draw(sampler, 0, 4000)
    assert np.mean([s for s, _, _ in draws]) == pytest.approx(share, abs=0.02)
    order = [record for s, record, _ in draws if s == 1]
    assert all(sorted(order[i : i + 12]) == list(range(12)) for i in range(0, len(order) - 12, 12))
    order = [record for s, record, _ in draws if s == 0]
    for start in range(0, len(order) - COUNT, COUNT):
        assert sorted(order[start : start + COUNT]) == list(range(COUNT))


def test_shares_are_exact_in_each_period(large, small):
    sampler = make_sampler([large, small], weights=(2.0, 1.0))
    draws = np.arange(1 << 20, dtype=np.int64) + (7 << 20)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    assert (set_index == 1).sum() == pytest.approx((1 << 20) / 3, abs=1)
    assert (np.diff(unit[set_index == 0]) == 1).all()  # the windows are drawn in their order


def flip_bit(record_set, number):
    _, start, length = record_set._locate(number)
    with open(record_set.shard_path(number), "r+b") as file:
        file.seek(start + length // 2)
        byte = file.read(1)[0]
        file.seek(start + length // 2)
        file.write(bytes([byte ^ 4]))


def test_damaged_record_is_drawn_and_its_replacement_is_in_the_window(tmp_path):
    opened = write(tmp_path)
    expected = draw_records(make_sampler([opened]), 0, COUNT)
    window = next(w for w in windows_of(make_sampler([opened])) if 5 // BLOCK in w)
    for number in range(0, 60, 3):
        flip_bit(opened, number)
    sampler = make_sampler([RecordSet.open(tmp_path, max_indexed=0)])
    np.testing.assert_array_equal(draw_records(sampler, 0, COUNT), expected)
    bad = int(np.flatnonzero(expected == 6)[0])
    others = {
        int(draw_records(sampler, bad + attempt * sampler.fallback_distance, 1)[0])
        for attempt in range(1, 20)
    }
    assert len(others) > 5 and block_numbers(opened, sorted(others)) <= window
    assert not others & set(range(0, 60, 3))


def test_set_without_what_the_source_needs_is_refused(large, tmp_path):
    with pytest.raises(UserError, match="no record has 2 of the languages de, ja; it has de, en"):
        make_sampler([large], 2, ("de", "ja"))
    with pytest.raises(UserError, match="window_blocks=0: expected a number from 1"):
        make_sampler([large], window_blocks=0)
    without = [Record(str(i), (), (("en", "x"),)) for i in range(110)]
    without[3] = Record("3", (b"image",), (("en", "x"),))
    records.write(tmp_path, without, block_records=8)
    opened = RecordSet.open(tmp_path, max_indexed=0)
    assert set(draw_records(make_sampler([opened], with_image=True), 0, 50)) == {3}
    records.write(tmp_path, [r for r in without if not r.images], block_records=8)
    opened = RecordSet.open(tmp_path, max_indexed=0)
    with pytest.raises(UserError, match="no record with the languages en has an image"):
        make_sampler([opened], with_image=True)


def test_set_whose_records_never_fit_stops_with_one_line(tmp_path):
    """The index has images and texts in every block, but no record has both."""
    part = [Record(str(i), (b"image",) if i % 2 else (), (("en", "x"),) * (1 - i % 2))
            for i in range(110)]  # fmt: skip
    records.write(tmp_path, part, block_records=8)
    sampler = make_sampler([RecordSet.open(tmp_path, max_indexed=0)], with_image=True)
    message = "no usable record in 64 windows fits the source, which needs 1 of the languages en"
    with pytest.raises(UserError, match=f"{message} and an image: convert a record set"):
        draw(sampler, 0, 1)


def test_language_report_of_windows(large):
    sampler = make_sampler([large], 2, None)
    report = LanguageReport({"bitext": sampler}, COUNT)
    expected = dict(zip(large.languages, large.has_language.sum(axis=0).tolist(), strict=True))
    assert sampler.language_records == expected
    counts = sampler.language_draws(1000)
    assert sum(counts.values()) == pytest.approx(2000, abs=2)
    assert counts["en"] > counts["de"] == counts["fr"] > counts["sw"]
    assert set(report.passes(2)["bitext"]) == {"de", "en", "fr", "sw"}
    window = windows_of(make_sampler([large]))[0]
    chosen = sampler.records_with(0, "de")
    assert block_numbers(large, chosen) <= window and len(chosen)
    assert set(chosen % 3) == {0}


def test_only_two_windows_are_in_memory(tmp_path):
    opened = write(tmp_path, block=2)
    sampler = make_sampler([opened])
    draw(sampler, 0, COUNT)
    loaded = [n for n in range(len(opened.blocks)) if opened._block_reader.loaded(n)]
    assert len(loaded) == 2 * WINDOW


def test_records_of_tensorflow_cannot_differ_from_the_blocks(tmp_path):
    """`tf.data.TFRecordDataset` reads the shards, whatever their blocks are."""
    import tensorflow as tf

    opened = write(tmp_path)
    paths = [os.path.join(tmp_path, shard["file"]) for shard in opened.manifest["shards"]]
    payloads = [p.numpy() for p in tf.data.TFRecordDataset(paths)]
    loaded = opened.load_blocks(range(len(opened.blocks)))
    assert payloads == [payload for block in loaded for payload in block.payloads]
    assert tfrecord.frames(payloads) == b"".join(open(p, "rb").read() for p in paths)
