"""Index sampler: order of an epoch, language pairs, and shares of several record sets."""

import collections

import numpy as np
import pytest
from helpers.draws import draw

from tf_mural.data import records
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.sampling import IndexSampler
from tf_mural.errors import UserError


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Returns two record sets.

    Set 0 has 12 records: every third record has four languages, and the other records have only
    English. Set 1 has 5 records in English and German.
    """
    root = tmp_path_factory.mktemp("sets")
    sets = []
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
        sets.append(RecordSet.open(root / name))
    return sets


def test_each_epoch_visits_every_record_once_in_its_own_order(sets):
    sampler = IndexSampler(sets[:1], 1, ["en"], seed=3)
    first, second = ([record for _, record, _ in draw(sampler, start, 12)] for start in (0, 12))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_draw_depends_only_on_its_number(sets):
    sampler = IndexSampler(sets, 1, ["en"], seed=3)
    expected = draw(sampler, 0, 60)
    assert draw(IndexSampler(sets, 1, ["en"], seed=3), 37, 10) == expected[37:47]
    assert draw(sampler, 10**12, 4) == draw(sampler, 10**12, 8)[:4]


def test_seed_and_name_determine_the_order(sets):
    orders = {
        (seed, name): tuple(draw(IndexSampler(sets[:1], 1, ["en"], seed=seed, name=name), 0, 12))
        for seed in (0, 1)
        for name in ("captions", "bitext")
    }
    assert len(set(orders.values())) == 4


def test_epoch_of_combinations_visits_every_pair_of_every_record_once(sets):
    sampler = IndexSampler(sets[:1], 2, ["en", "de", "fr", "ja"], epoch_unit="combinations")
    assert sampler.units_per_epoch == [4 * 6]  # six pairs of languages in each of four records
    epoch = draw(sampler, 0, 24)
    pairs = {(record, frozenset(languages)) for _, record, languages in epoch}
    assert len(pairs) == 24
    assert {record for record, _ in pairs} == {0, 3, 6, 9}
    assert all(len(pair) == 2 for _, pair in pairs)


def test_epoch_of_records_draws_random_pairs_in_both_orders(sets):
    sampler = IndexSampler(sets[:1], 2, ["en", "de", "fr", "ja"])
    assert sampler.units_per_epoch == [4]
    counts = collections.Counter(languages for _, _, languages in draw(sampler, 0, 2400))
    assert len(counts) == 12  # ordered pairs of four languages
    assert all(120 < count < 290 for count in counts.values())


def test_single_text_field_draws_one_of_the_languages(sets):
    sampler = IndexSampler(sets[:1], 1, ["de", "ja"])
    counts = collections.Counter(draw(sampler, 0, 400))
    assert {record for _, record, _ in counts} == {0, 3, 6, 9}
    assert {languages for _, _, languages in counts} == {("de",), ("ja",)}


def test_min_languages_excludes_records(sets):
    assert IndexSampler(sets[:1], 1, ["en", "de"]).units_per_epoch == [12]
    assert IndexSampler(sets[:1], 1, ["en", "de"], min_languages=2).units_per_epoch == [4]


def test_share_of_a_set_follows_size_weight_and_temperature(sets):
    def share(**options):
        sampler = IndexSampler(sets, 1, ["en"], **options)
        return np.mean([set_index for set_index, _, _ in draw(sampler, 0, 1700)])

    assert share() == pytest.approx(5 / 17, abs=1e-9)
    assert share(weights=(1.0, 1.0)) == pytest.approx(1 / 2, abs=0.04)
    assert share(temperature=2.0) == pytest.approx(5**0.5 / (12**0.5 + 5**0.5), abs=0.04)


def test_weighted_set_is_visited_evenly(sets):
    sampler = IndexSampler(sets, 1, ["en"], weights=(1.0, 3.0))
    epoch = sum(sampler.units_per_epoch)
    draws = draw(sampler, 0, 20 * epoch)
    order = [record for set_index, record, _ in draws if set_index == 1]
    visits = np.bincount(order, minlength=5)
    assert visits.sum() == 20 * 13  # each epoch has 17 draws, and 3/4 of 17 is about 13
    # Set 1 has its own epochs, so the numbers of visits of two records differ by one at most.
    assert visits.max() - visits.min() <= 1


def test_invalid_arguments_are_refused(sets):
    with pytest.raises(UserError, match="no record has 2 of the languages de, sw"):
        IndexSampler(sets[:1], 2, ["de", "sw"])
    with pytest.raises(UserError, match="unknown epoch_unit 'record'.*did you mean 'records'"):
        IndexSampler(sets[:1], 1, ["en"], epoch_unit="record")
    with pytest.raises(UserError, match="positive weights"):
        IndexSampler(sets, 1, ["en"], weights=(1.0, 0.0))
    with pytest.raises(UserError, match="'stream' has 2 record sets and weights .1.0,.: expected"):
        IndexSampler(sets, 1, ["en"], weights=(1.0,))
