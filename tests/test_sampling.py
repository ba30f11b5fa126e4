"""The order of data: permutations, no repeats, all pairs, the same from any start."""

import collections

import numpy as np
import pytest

from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.sampling import Stream
from tf_mural.errors import UserError


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Set 0: 12 records, of which every third has four languages and the rest English alone.
    Set 1: 5 records in English and German."""
    root = tmp_path_factory.mktemp("sets")
    out = []
    for name, count in (("a", 12), ("b", 5)):
        rows = []
        for i in range(count):
            codes = ["en"]
            if name == "b":
                codes = ["en", "de"]
            elif i % 3 == 0:
                codes = ["en", "de", "fr", "ja"]
            rows.append(Record(f"{name}{i}", (), tuple((c, f"{name}{i} {c}") for c in codes)))
        records.write(root / name, rows, shards=2)
        out.append(RecordSet.open(root / name))
    return out


def drawn(stream, start, count):
    """[(set, record, (languages))] of draws start .. start + count."""
    draws = np.arange(start, start + count, dtype=np.int64)
    which, unit = (x.numpy() for x in stream.draw(draws))
    record, language, _ = stream.locate(draws, which, unit)
    names = [tuple(stream.languages[i] for i in row) for row in language]
    return list(zip(which.tolist(), record.tolist(), names, strict=True))


def test_an_epoch_visits_each_record_once_and_epochs_differ(sets):
    stream = Stream(sets[:1], 1, ["en"], seed=3)
    first, second = ([record for _, record, _ in drawn(stream, start, 12)] for start in (0, 12))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_draw_depends_on_its_number_alone(sets):
    stream = Stream(sets, 1, ["en"], seed=3)
    whole = drawn(stream, 0, 60)
    assert drawn(Stream(sets, 1, ["en"], seed=3), 37, 10) == whole[37:47]
    assert drawn(stream, 10**12, 4) == drawn(stream, 10**12, 8)[:4]


def test_seeds_and_names_give_other_orders(sets):
    orders = {
        (seed, name): tuple(drawn(Stream(sets[:1], 1, ["en"], seed=seed, name=name), 0, 12))
        for seed in (0, 1)
        for name in ("captions", "bitext")
    }
    assert len(set(orders.values())) == 4


def test_combinations_walk_the_product_without_repeats(sets):
    stream = Stream(sets[:1], 2, ["en", "de", "fr", "ja"], walk="combinations")
    assert stream.units == [4 * 6]  # four records with four languages, six pairs each
    epoch = drawn(stream, 0, 24)
    pairs = {(record, frozenset(languages)) for _, record, languages in epoch}
    assert len(pairs) == 24
    assert {record for record, _ in pairs} == {0, 3, 6, 9}
    assert all(len(pair) == 2 for _, pair in pairs)


def test_a_record_walk_draws_pairs_by_chance_in_both_orders(sets):
    stream = Stream(sets[:1], 2, ["en", "de", "fr", "ja"])
    assert stream.units == [4]
    counts = collections.Counter(languages for _, _, languages in drawn(stream, 0, 2400))
    assert len(counts) == 12  # ordered pairs
    assert all(120 < count < 290 for count in counts.values())


def test_one_language_of_several_is_drawn(sets):
    stream = Stream(sets[:1], 1, ["de", "ja"])
    counts = collections.Counter(drawn(stream, 0, 400))
    assert {record for _, record, _ in counts} == {0, 3, 6, 9}
    assert {languages for _, _, languages in counts} == {("de",), ("ja",)}


def test_min_languages_leaves_records_out(sets):
    assert Stream(sets[:1], 1, ["en", "de"]).units == [12]
    assert Stream(sets[:1], 1, ["en", "de"], min_languages=2).units == [4]


def test_sets_are_mixed_by_size_by_weight_and_by_temperature(sets):
    def share(**options):
        stream = Stream(sets, 1, ["en"], **options)
        return np.mean([which for which, _, _ in drawn(stream, 0, 1700)])

    assert share() == pytest.approx(5 / 17, abs=1e-9)
    assert share(weights=(1.0, 1.0)) == pytest.approx(1 / 2, abs=0.04)
    assert share(temperature=2.0) == pytest.approx(5**0.5 / (12**0.5 + 5**0.5), abs=0.04)


def test_each_set_is_visited_evenly_at_any_weight(sets):
    stream = Stream(sets, 1, ["en"], weights=(1.0, 3.0))
    epoch = sum(stream.units)
    order = [record for which, record, _ in drawn(stream, 0, 20 * epoch) if which == 1]
    visits = np.bincount(order, minlength=5)
    assert visits.sum() == 20 * 13  # three quarters of 17, rounded
    # Whole visits of the set by its own count, so that no record is two visits ahead.
    assert visits.max() - visits.min() <= 1


def test_no_record_with_the_languages_is_an_error(sets):
    with pytest.raises(UserError, match="no record has 2 of the languages de, sw"):
        Stream(sets[:1], 2, ["de", "sw"])
    with pytest.raises(UserError, match="unknown walk 'record'.*did you mean 'records'"):
        Stream(sets[:1], 1, ["en"], walk="record")
    with pytest.raises(UserError, match="positive weights"):
        Stream(sets, 1, ["en"], weights=(1.0, 0.0))
    with pytest.raises(UserError, match="'stream' has 2 record sets and weights .1.0,.: expected"):
        Stream(sets, 1, ["en"], weights=(1.0,))
