"""Shares of languages, batches of one language, passes over languages, and texts that are cut."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from helpers.pipeline import assert_batches_equal, make_tokenizer, read_batches

from tf_mural.data import input_pipeline, records, training_data
from tf_mural.data.language_report import LanguageReport
from tf_mural.data.language_sampling import language_shares, make_sampler
from tf_mural.data.records import Record, RecordSet
from tf_mural.data.sampling import IndexSampler
from tf_mural.data.tokenizers import SPECIAL_TOKENS, Tokenizer
from tf_mural.errors import UserError

BATCH = 6
COUNTS = {"de": 20, "en": 40, "fr": 5, "sw": 2}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Returns two record sets of 40 records, whose languages have `COUNTS` records each.

    Records of set 1 have two texts in English and in German.
    """
    root, sets = tmp_path_factory.mktemp("sets"), []
    for name, copies in (("one", 1), ("two", 2)):
        rows = []
        for i in range(40):
            texts = [
                (code, f"{code}{i}{'x' * copy}")
                for code, count in COUNTS.items()
                if i < count
                for copy in range(copies if code in ("de", "en") else 1)
            ]
            rows.append(Record(f"{name}{i}", (), tuple(texts)))
        records.write(root / name, rows, shards=2)
        sets.append(RecordSet.open(root / name))
    return sets


def draw(sampler, start, count):
    """Returns (set indices, records, languages (n, text fields)) of consecutive draws."""
    draws = np.arange(start, start + count, dtype=np.int64)
    set_index, unit = (x.numpy() for x in sampler.sample(draws))
    return set_index, *sampler.resolve(draws, set_index, unit)[:2]


OPTIONS = [
    dict(text_fields=1, language_temperature=2.0),
    dict(text_fields=1, min_language_share=0.2, weights=(1.0, 3.0)),
    dict(text_fields=1, languages_of="same", batch_size=BATCH),
    dict(text_fields=2, language_temperature=5.0),
    dict(text_fields=2, languages_of="same", batch_size=BATCH),
    dict(text_fields=2, languages_of="cross", batch_size=BATCH, temperature=3.0),
    dict(text_fields=2, languages_of="hybrid", alpha=0.25, batch_size=BATCH),
]
IDS = [" ".join(map(str, options.values())) for options in OPTIONS]


# --- shares ---------------------------------------------------------------------------------------


def reference_shares(counts, temperature, minimum):
    """Returns the fixed point of raising shares and scaling the others, in a plain loop."""
    shares = [count ** (1 / temperature) for count in counts]
    raised = set()
    while True:
        free = sum(s for i, s in enumerate(shares) if i not in raised)
        result = [
            minimum if i in raised else s / free * (1 - minimum * len(raised))
            for i, s in enumerate(shares)
        ]
        low = {i for i, value in enumerate(result) if value < minimum - 1e-15 and i not in raised}
        if not low:
            return result
        raised |= low


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_those_of_a_reference_and_are_never_below_the_minimum(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 10 ** rng.integers(1, 7), rng.integers(2, 30))
    temperature, minimum = rng.uniform(0.5, 6), rng.uniform(0, 0.9) / len(counts)
    shares = language_shares(counts, temperature, minimum)
    np.testing.assert_allclose(shares, reference_shares(counts, temperature, minimum), rtol=1e-9)
    assert shares.sum() == pytest.approx(1, abs=1e-12) and shares.min() >= minimum * (1 - 1e-12)


def test_temperature_and_minimum_change_the_shares_as_documented():
    assert language_shares([30, 10]).tolist() == [0.75, 0.25]
    assert language_shares([90, 10], 2.0) == pytest.approx([0.75, 0.25])
    assert language_shares([7, 1, 0], np.inf).tolist() == [0.5, 0.5, 0]
    assert language_shares([98, 1, 1], 1.0, 0.1) == pytest.approx([0.8, 0.1, 0.1])
    assert language_shares([98, 2], 1.0, 0.5).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_a_period_contains_each_group_in_exactly_its_share(sets, options):
    if "batch_size" in options:
        options = {**options, "batch_size": 1}
    sampler = make_sampler(sets, **options)
    period = int(sampler.quotas.sum()) * (sampler.batch_size or 1)
    _, _, language = draw(sampler, 3 * period, period)
    groups = collections.Counter(map(tuple, language.tolist()))
    merged = collections.Counter()
    for group, count in groups.items():
        key = group if sampler.batch_size else tuple(sorted(group))
        merged[key] += count / period
    expected = dict(
        zip(map(tuple, sampler.group_languages.tolist()), sampler.group_shares, strict=True)
    )
    assert merged.keys() == expected.keys()
    assert all(abs(merged[key] - expected[key]) <= 1e-4 for key in expected)


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_drawn_records_have_the_languages_and_counts_are_exact(sets, options):
    sampler = make_sampler(sets, **options, seed=5)
    set_index, record, language = draw(sampler, 0, 2003)
    for number, row, codes in zip(set_index, record, language, strict=True):
        columns = [sets[number].languages.index(sampler.languages[i]) for i in codes]
        assert sets[number].has_language[row, columns].all()
    for count in (0, 1, 700, 2003):
        texts = np.bincount(language[:count].ravel(), minlength=4).tolist()
        assert sampler.language_draws(count) == dict(zip(sampler.languages, texts, strict=True))


def test_a_pass_over_a_language_visits_each_of_its_records_once(sets):
    sampler = make_sampler(sets, 1, language_temperature=4.0)
    set_index, record, language = draw(sampler, 0, 4000)
    for position, code in enumerate(sampler.languages):
        chosen = language[:, 0] == position
        visits = collections.Counter(zip(set_index[chosen], record[chosen], strict=True))
        assert len(visits) == 2 * COUNTS[code]
        assert max(visits.values()) - min(visits.values()) <= 1


def test_draws_of_different_languages_are_independent_of_their_neighbors(sets):
    sampler = make_sampler(sets, 1, languages_of="same", batch_size=1, language_temperature=np.inf)
    language = draw(sampler, 0, 8000)[2][:, 0]
    same = np.mean(language[1:] == language[:-1])
    assert same == pytest.approx(0.25, abs=0.03)


# --- batches of one language ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [o for o in OPTIONS if "batch_size" in o])
def test_all_rows_of_a_batch_have_the_languages_of_the_batch(sets, options):
    sampler = make_sampler(sets, **options)
    _, _, language = draw(sampler, 0, 400 * BATCH)
    batches = language.reshape(400, BATCH, -1)
    assert (batches == batches[:, :1]).all()
    same = (batches[:, 0] == batches[:, 0, :1]).all(axis=1).mean()
    share = {"same": 1.0, "cross": 0.0, "hybrid": 0.25}[options["languages_of"]]
    assert same == pytest.approx(share, abs=0.07 if 0 < share < 1 else 0)
    assert len({tuple(row) for row in batches[:, 0].tolist()}) > 1


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_a_draw_depends_only_on_seed_and_number_and_late_starts_are_cheap(sets, options):
    expected = draw(make_sampler(sets, **options, seed=2), 0, 120)
    later = draw(make_sampler(sets, **options, seed=2), 37, 30)
    assert_batches_equal(later, tuple(part[37:67] for part in expected))
    other = draw(make_sampler(sets, **options, seed=3), 0, 120)
    assert not np.array_equal(expected[1], other[1])
    sampler, start = make_sampler(sets, **options), 10**9 * 32_768
    assert_batches_equal(draw(sampler, start, 4), tuple(x[:4] for x in draw(sampler, start, 9)))
    assert sum(sampler.language_draws(start).values()) == start * sampler.text_fields


def test_a_replacement_stays_in_the_languages_of_its_batch(sets):
    sampler = make_sampler(sets, 2, languages_of="cross", batch_size=BATCH)
    _, record, language = draw(sampler, 0, 200)
    for attempt in (1, 7):
        _, others, same = draw(sampler, attempt * sampler.fallback_distance, 200)
        if attempt == 1:
            assert np.mean(others != record) > 0.5
        np.testing.assert_array_equal(language, same)


@pytest.fixture(scope="module")
def tokenizer():
    words = [f"{c}{i}{'x' * k}" for c, n in COUNTS.items() for i in range(n) for k in (0, 1)]
    return Tokenizer([*SPECIAL_TOKENS, *words], max_tokens=4)


def make_dataset(sets, tokenizer, **options):
    sampler = make_sampler(
        sets, 2, languages_of="hybrid", batch_size=BATCH, language_temperature=3.0
    )
    source = input_pipeline.Source(sampler, {"source": "text", "target": "text"})
    languages = ("sw", "fr", "en", "de")
    return input_pipeline.training_dataset(
        [source], tokenizer, None, languages, options.pop("global_batch", BATCH), **options
    )


def test_two_workers_and_a_later_start_read_the_same_batches(sets, tokenizer):
    expected = read_batches(make_dataset(sets, tokenizer), 5)
    later = read_batches(make_dataset(sets, tokenizer, start_step=4), 1)
    assert_batches_equal(later, expected[4:])
    halves = [read_batches(make_dataset(sets, tokenizer, workers=(i, 2)), 5) for i in (0, 1)]
    joined = tf.nest.map_structure(lambda *x: np.concatenate(x), *halves)
    assert_batches_equal(joined, expected)
    kinds = {len(np.unique([b[f]["language"] for f in b])) for b in expected}
    assert kinds == {1, 2}


def test_a_pair_in_one_language_has_two_different_texts(sets, tokenizer):
    sampler = make_sampler(sets, 2, languages_of="same", batch_size=BATCH)
    # Only set 1 has records with two texts in a language, and only in English and German.
    assert set(draw(sampler, 0, 60)[0]) == {1}
    assert {sampler.languages[i] for i in draw(sampler, 0, 600)[2].ravel()} == {"de", "en"}
    source = input_pipeline.Source(sampler, {"source": "text", "target": "text"})
    dataset = input_pipeline.training_dataset([source], tokenizer, None, sampler.languages, BATCH)
    orders = set()
    for batch in read_batches(dataset, 12):
        first, second = (batch[f]["tokens"][:, 1] for f in ("source", "target"))
        assert (np.abs(first - second) == 1).all()
        orders |= set((first < second).tolist())
    assert orders == {False, True}


@pytest.mark.parametrize("modality", ["text", "vectors"])
def test_a_record_with_one_text_is_named_when_a_pair_needs_two(tmp_path, tokenizer, modality):
    rows = [Record("a", (), (("en", "en0"), ("en", "en0x")))]
    rows += [Record(str(i), (), (("en", f"en{i}"),)) for i in range(1, 9)]
    for row in rows:
        row.vectors["bert"] = np.zeros((len(row.texts), 2), np.float16)
    records.write(tmp_path / "set", rows, vectors={"bert": records.describe_vectors("texts", 2)})
    fields = dict.fromkeys(("source", "target"), modality)
    vectors = dict.fromkeys(fields, ("bert", None, "text")) if modality == "vectors" else {}
    options = dict(languages_of="same", batch_size=4, vectors=vectors)
    sampler = training_data.make_sampler("s", [RecordSet.open(tmp_path / "set")], fields, **options)
    source = training_data.make_source(sampler, fields, False, vectors)
    skipped = input_pipeline.SkippedRecords()
    dataset = input_pipeline.training_dataset(
        [source], tokenizer, None, ("en",), 4, skipped_records=skipped
    )
    with pytest.raises(tf.errors.OpError):
        read_batches(dataset, 40)
    assert "the record has only one text in 'en', a pair needs 2" in str(skipped.error)


# --- defaults and errors --------------------------------------------------------------------------


def test_without_options_the_order_is_that_of_the_index_sampler(sets):
    for options in ({}, {"epoch_unit": "combinations", "temperature": 2.0}):
        sampler = make_sampler(sets, 2, batch_size=BATCH, alpha=0.3, **options)
        assert type(sampler) is IndexSampler and sampler.batch_size is None
        assert_batches_equal(draw(sampler, 5, 90), draw(IndexSampler(sets, 2, **options), 5, 90))
    # Recorded before the options of languages existed.
    recorded = [16, 4, 7, 2, 5, 11]
    assert draw(make_sampler(sets, 2, seed=1), 10**9, 6)[1].tolist() == recorded


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(languages_of="one"), "unknown languages_of 'one'"),
        (dict(language_temperature=0.0), "language_temperature=0.0: expected a number above 0"),
        (dict(min_language_share=0.3), "min_language_share=0.3: expected a number from 0 to 0.25"),
        (dict(min_language_share=-0.1), "min_language_share=-0.1: expected"),
        (dict(languages_of="same"), "languages_of='same', which needs batch_size"),
        (dict(languages_of="cross", batch_size=2), "has 1 text field, but languages_of='cross'"),
        (dict(text_fields=0, language_temperature=2.0), "has no text field: remove"),
        (
            dict(text_fields=2, languages_of="hybrid", alpha=1.0, batch_size=2),
            "alpha=1.0, expected a number between 0 and 1",
        ),
        (
            dict(text_fields=2, languages_of="same", batch_size=2, languages=("fr", "sw")),
            "no record has two texts in one language: use 'draw' or 'cross'",
        ),
        (
            dict(text_fields=2, languages_of="cross", batch_size=2, languages=("fr",)),
            "no record has 2 of the languages fr",
        ),
    ],
)
def test_invalid_options_are_refused(sets, options, message):
    with pytest.raises(UserError, match=message):
        make_sampler(sets, **{"text_fields": 1, **options})


def test_batches_of_another_size_are_refused(sets, tokenizer):
    with pytest.raises(UserError, match="batches of 6 draws, but the batches have 8 rows"):
        make_dataset(sets, tokenizer, global_batch=8)


# --- report ---------------------------------------------------------------------------------------


def test_passes_are_drawn_texts_per_record(sets):
    uniform = make_sampler(sets, 1, language_temperature=np.inf)
    report = LanguageReport({"texts": uniform, "default": IndexSampler(sets, 2)}, BATCH)
    passes = report.passes(2_000)["texts"]
    for code, count in COUNTS.items():
        assert passes[code] == pytest.approx(2_000 * BATCH / 4 / (2 * count), rel=0.02)
    assert report.metrics(2_000)["passes/texts/sw"] == passes["sw"]
    (first, second) = report.warnings(2_000)
    assert "source texts, after 2000 steps: most passes over the texts sw 7" in first
    assert "fewest texts sw 4, fr 10, de 40, en 80" in first and "source default" in second


@pytest.mark.parametrize("unit", ["records", "combinations"])
@pytest.mark.parametrize("text_fields", [1, 2])
def test_passes_of_long_runs_are_expected_values(sets, unit, text_fields, monkeypatch):
    sampler = IndexSampler(sets, text_fields, epoch_unit=unit)
    exact = sampler.language_draws(10_000)
    assert sum(exact.values()) == 10_000 * text_fields
    monkeypatch.setattr("tf_mural.data.sampling._MAX_COUNTED", 2_000)
    estimated = IndexSampler(sets, text_fields, epoch_unit=unit).language_draws(10_000)
    for code, count in exact.items():
        assert estimated[code] == pytest.approx(count, abs=5 * count**0.5)


def test_share_of_cut_texts_is_reported_for_each_language(tmp_path):
    rows = [
        Record(str(i), (), (("de", "en0 " * 3 if i < 25 else "en0 en0"), ("en", "en0 en0")))
        for i in range(100)
    ]
    records.write(tmp_path / "set", rows)
    sampler = IndexSampler([RecordSet.open(tmp_path / "set")], 2)
    report = LanguageReport({"texts": sampler, "images": IndexSampler(sampler.sets, 0)}, BATCH)
    tokenizer = make_tokenizer()  # 4 tokens, two of which are [CLS] and [SEP]
    assert report.cut_texts(tokenizer) == {"de": (0.25, 100), "en": (0.0, 100)}
    line = report.cut_texts_line(tokenizer)
    assert line.startswith("texts that max_tokens=4 cuts: de 25.0% (languages")
    assert "sample of 200 texts in 2 languages" in line
