"""Metrics of the evaluation tasks: ranks, recall, correlation and intervals."""

import math
import tracemalloc

import numpy as np
import pytest
from helpers.embedders import unit_rows

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.metrics import correlation, ranks


def ranks_from_scores(scores, query_groups, item_groups):
    """Returns the ranks for given cosines `scores` (q, m); unit axes are the queries."""
    scores = np.asarray(scores, np.float32)
    return metrics.retrieval_ranks(
        np.eye(len(scores)), scores.T, query_groups, item_groups
    ).tolist()


def naive_ranks(queries, items, query_groups, item_groups):
    """Computes ranks by their definition, one pair at a time, in float64."""
    ranks = []
    for query, group in zip(np.float64(queries), query_groups, strict=True):
        scores = [float(np.dot(query, item)) for item in np.float64(items)]
        best = max(s for s, g in zip(scores, item_groups, strict=True) if g == group)
        wrong = [s for s, g in zip(scores, item_groups, strict=True) if g != group]
        ranks.append(sum(s >= best for s in wrong))
    return ranks


def test_ranks_equal_those_counted_by_hand():
    scores = [
        [0.9, 0.1, 0.5],  # correct item first: no wrong item above
        [0.9, 0.8, 0.7],  # correct item second
        [0.3, 0.2, 0.1],  # correct item last
    ]
    assert ranks_from_scores(scores, [0, 1, 2], [0, 1, 2]) == [0, 1, 2]
    assert metrics.recall_at([0, 1, 2], (1, 2, 3)) == pytest.approx([100 / 3, 200 / 3, 100])


def test_the_best_of_several_correct_items_counts_and_none_counts_as_wrong():
    scores = [
        [0.9, 0.8, 0.7, 0.1],  # items 0 and 1 are correct
        [0.6, 0.9, 0.5, 0.7],  # items 2 and 3 are correct; one wrong item is above item 3
    ]
    assert ranks_from_scores(scores, [7, 8], [7, 7, 8, 8]) == [0, 1]
    # The second correct item, which is below two wrong items, does not matter.
    assert ranks_from_scores([[0.9, 0.5, 0.4, 0.3]], [7], [7, 8, 8, 7]) == [0]
    # A tie between correct items does not count against the query.
    assert ranks_from_scores([[0.9, 0.9, 0.1]], [7], [7, 7, 8]) == [0]


def test_ties_count_as_wrong_items_above():
    assert ranks_from_scores([[0.5, 0.5, 0.5]], [1], [0, 1, 2]) == [2]
    assert ranks_from_scores([[0.5, 0.5 - 1e-4, 0.1]], [0], [0, 1, 2]) == [0]


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_collapsed_encoder_scores_zero(noise):
    # The scores of equal inputs can differ in their last digits.
    images = np.repeat(unit_rows(1, 77), 301, axis=0) + noise * unit_rows(301, 77)
    texts = np.repeat(unit_rows(1, 77), 602, axis=0)
    values = metrics.retrieval_recalls(images, texts, np.repeat(np.arange(301), 2))
    assert set(values.values()) == {0.0}


def test_perfect_and_reversed_encoders_score_100_and_0():
    names = ["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "average_recall"]
    rows = unit_rows(50, 32)
    assert metrics.retrieval_recalls(rows, rows, np.arange(50)) == dict.fromkeys(names, 100.0)
    # The correct text is opposite to its image, so it is the worst candidate.
    assert metrics.retrieval_recalls(rows, -rows, np.arange(50)) == dict.fromkeys(names, 0.0)


def test_one_image_and_one_text_are_always_hits():
    values = metrics.retrieval_recalls(unit_rows(1, 8, 0), unit_rows(1, 8, 1), [0])
    assert set(values.values()) == {100.0}


def test_the_two_directions_equal_values_computed_by_hand():
    # Texts 0 and 1 describe image 0, text 2 describes image 1. Image 1 is nearest to text 1.
    images = np.eye(3)[[0, 1]]
    texts = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.5, 0.0]])
    image_ranks, text_ranks = metrics.image_text_ranks(images, texts, [0, 0, 1])
    assert image_ranks.tolist() == [0, 1]
    assert text_ranks.tolist() == [0, 1, 0]
    values = metrics.recalls(image_ranks, text_ranks)
    assert values["i2t_r1"] == 50.0
    assert values["t2i_r1"] == pytest.approx(200 / 3)
    assert values["i2t_r5"] == values["t2i_r10"] == 100.0
    assert values["average_recall"] == pytest.approx((50 + 200 / 3 + 400) / 6)


@pytest.mark.parametrize("max_scores", [1, 100, 1 << 22])
def test_ranks_equal_a_naive_implementation_for_any_chunk_size(max_scores, monkeypatch):
    monkeypatch.setattr(ranks, "_MAX_SCORES", max_scores)
    queries, items = unit_rows(31, 6, 1), unit_rows(60, 6, 2)
    item_groups = np.random.default_rng(3).permutation(np.arange(60) % 20)
    query_groups = np.arange(31) % 20
    fast = metrics.retrieval_ranks(queries, items, query_groups, item_groups)
    assert fast.dtype == np.int64
    assert fast.tolist() == naive_ranks(queries, items, query_groups, item_groups)
    assert fast.max() > 10


@pytest.mark.parametrize("max_scores", [1, 400, 1 << 22])
def test_joint_ranks_equal_those_of_each_direction_for_any_chunk_size(max_scores, monkeypatch):
    monkeypatch.setattr(ranks, "_MAX_SCORES", max_scores)
    random = np.random.default_rng(3)
    images, text_images = unit_rows(300, 6, 1), random.permutation(np.arange(700) % 300)
    texts = images[text_images] + 0.3 * unit_rows(700, 6, 2)
    texts[:40] = texts[40:80]  # equal texts tie with each other
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    image_ranks, text_ranks = metrics.image_text_ranks(images, texts, text_images)
    image_ids = np.arange(300)
    both = image_ranks.tolist(), text_ranks.tolist()
    assert both[0] == metrics.retrieval_ranks(images, texts, image_ids, text_images).tolist()
    assert both[1] == metrics.retrieval_ranks(texts, images, text_images, image_ids).tolist()
    assert image_ranks.dtype == text_ranks.dtype == np.int64
    assert max(both[0]) > 50 and max(both[1]) > 50 and 0 in both[0] and 0 in both[1]


def test_ranks_above_255_are_correct():
    # For each query, 700 wrong candidates score at least as high as the correct candidate.
    images = np.zeros((701, 2), np.float32)
    images[:, 0], images[700] = 1, (0, 1)
    image_ranks, text_ranks = metrics.image_text_ranks(images, images[:, ::-1], np.arange(701))
    assert image_ranks.tolist() == text_ranks.tolist()
    # For images 0 to 699, one text scores higher than their own text and 699 texts tie with it. For
    # image 700, 700 texts score higher.
    assert image_ranks[:700].tolist() == [700] * 700 and image_ranks[700] == 700
    low, high = metrics.rank_bounds(images, images[:, ::-1], np.arange(701))
    assert low.tolist() == [1] * 700 + [700] and high.tolist() == [700] * 701


def test_memory_is_smaller_than_the_score_matrix(monkeypatch):
    monkeypatch.setattr(ranks, "_MAX_SCORES", 1 << 18)
    images, texts = unit_rows(2000, 8, 1), unit_rows(6000, 8, 2)
    tracemalloc.start()
    metrics.image_text_ranks(images, texts, np.arange(6000) % 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # the full score matrix would take 48 MB


def test_rank_bounds_differ_by_the_ties():
    # For text 0, image 1 scores higher than the correct image, and images 2 and 3 tie with it. For
    # text 1, all images tie. For text 2, the correct image scores highest.
    texts = np.eye(3)
    images = np.array([[0.5, 0.2, 0.1], [0.9, 0.2, 0.9], [0.5, 0.2, 0.1], [0.5, 0.2, 0.1]])
    low, high = metrics.rank_bounds(images, texts, [0, 3, 1])
    assert (low.tolist(), high.tolist()) == ([1, 0, 0], [3, 3, 0])
    low, high = metrics.rank_bounds(unit_rows(50, 8, 1), unit_rows(70, 8, 2), np.arange(70) % 50)
    text_ranks = metrics.image_text_ranks(
        unit_rows(50, 8, 1), unit_rows(70, 8, 2), np.arange(70) % 50
    )[1]
    assert low.tolist() == high.tolist() == text_ranks.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_rejected(bad):
    valid, invalid = unit_rows(4, 8), unit_rows(4, 8)
    invalid[2, 3] = bad
    with pytest.raises(UserError, match="1 of 4 image embeddings .* row 2"):
        metrics.retrieval_recalls(invalid, valid, range(4))
    with pytest.raises(UserError, match="1 of 4 text embeddings .* row 2"):
        metrics.retrieval_recalls(valid, invalid, range(4))
    with pytest.raises(UserError, match="queries"):
        metrics.retrieval_ranks(invalid, valid, range(4), range(4))


def test_inputs_that_do_not_match_are_rejected():
    rows = unit_rows(3, 8)
    with pytest.raises(UserError, match="8 wide and items 4"):
        metrics.retrieval_ranks(rows, rows[:, :4], range(3), range(3))
    with pytest.raises(UserError, match="item_groups"):
        metrics.retrieval_ranks(rows, rows, range(3), range(2))
    with pytest.raises(
        UserError, match="1 of 3 queries have no correct item, the first is query 1"
    ):
        metrics.retrieval_ranks(rows, rows, [0, 9, 2], range(3))
    with pytest.raises(UserError, match="texts are 4 wide and images 8"):
        metrics.retrieval_recalls(rows, rows[:, :4], range(3))
    with pytest.raises(UserError, match=r"text_images has shape \(2,\): expected .*\(3,\)"):
        metrics.rank_bounds(rows, rows, [0, 1])
    with pytest.raises(UserError, match="1 of 3 images have no text, the first is image 1"):
        metrics.retrieval_recalls(rows, rows, [0, 2, 2])
    with pytest.raises(UserError, match="text 1 belongs to image 3"):
        metrics.retrieval_recalls(rows, rows, [0, 3, 1])
    with pytest.raises(UserError, match="expected \\(rows, width\\)"):
        metrics.retrieval_recalls(rows[0], rows, [0, 1, 2])
    with pytest.raises(UserError, match="no queries"):
        metrics.recall_at([])


def exact_chance(images, texts_per_image):
    """Returns the chance average recall from binomial coefficients of integers."""
    texts = images * texts_per_image
    total = 0.0
    for k in (1, 5, 10):
        k = min(k, texts)
        miss = math.comb(texts - texts_per_image, k) / math.comb(texts, k)
        total += 1 - miss + min(1, k / images)
    return 100 * total / 6


@pytest.mark.parametrize("images, texts", [(512, 1), (100, 5), (20, 2), (4, 1), (1, 3)])
def test_chance_equals_the_formula(images, texts):
    assert metrics.chance_average_recall(images, texts) == pytest.approx(
        exact_chance(images, texts)
    )


def test_chance_equals_values_computed_by_hand():
    # With one caption per image, the chance at k is k / n in both directions. The mean chance at 1,
    # 5 and 10 is (1 + 5 + 10) / 3 / 512.
    assert metrics.chance_average_recall(512) == pytest.approx(100 * 16 / 3 / 512)
    assert metrics.chance_average_recall(1) == 100.0


@pytest.mark.parametrize("texts_per_image", [1, 3, [1, 1, 2, 6] * 5])
def test_chance_equals_a_simulation(texts_per_image):
    images, rounds = 20, 2000
    num_texts = np.broadcast_to(texts_per_image, (images,))
    text_images = np.repeat(np.arange(images), num_texts)
    random = np.random.default_rng(0)
    simulated = []
    for _ in range(rounds):
        scores = random.random((images, len(text_images)))
        is_correct = np.arange(images)[:, None] == text_images
        best = np.where(is_correct, scores, -1).max(1, keepdims=True)
        image_ranks = np.sum((scores > best) & ~is_correct, axis=1)
        pair_scores = scores[text_images, np.arange(len(text_images))]
        text_ranks = np.sum(scores > pair_scores, axis=0)
        simulated.append(metrics.recalls(image_ranks, text_ranks)["average_recall"])
    tolerance = 4 * np.std(simulated) / math.sqrt(rounds)
    expected = metrics.chance_average_recall(images, texts_per_image)
    assert np.mean(simulated) == pytest.approx(expected, abs=tolerance)


def test_intervals_of_constant_results_are_points():
    text_images = np.arange(40)
    first, seventh, last = np.zeros(40, int), np.full(40, 6), np.full(40, 39)
    for all_ranks, value in ((first, 100.0), (last, 0.0)):
        intervals = metrics.recall_intervals(all_ranks, all_ranks, text_images)
        assert intervals == dict.fromkeys(metrics.recalls(all_ranks, all_ranks), (value, value))
    intervals = metrics.recall_intervals(seventh, last, text_images)
    points = {name: low for name, (low, high) in intervals.items() if low == high}
    assert points == pytest.approx(metrics.recalls(seventh, last))
    assert points["i2t_r10"] == 100.0 and points["i2t_r5"] == points["t2i_r10"] == 0.0


def test_intervals_match_the_normal_approximation_and_are_reproducible():
    # Half of the images have rank 0 in both directions, the other images are misses at every k.
    ranks = np.array([0, 99] * 200)
    intervals = metrics.recall_intervals(ranks, ranks, np.arange(400))
    half_width = 100 * 1.96 * math.sqrt(0.25 / 400)
    for bounds in intervals.values():
        assert bounds == pytest.approx((50 - half_width, 50 + half_width), abs=0.6)
    assert intervals == metrics.recall_intervals(ranks, ranks, np.arange(400))
    assert intervals != metrics.recall_intervals(ranks, ranks, np.arange(400), seed=1)


def test_intervals_resample_images_with_all_their_texts():
    # Each of 100 images has 4 texts, which are either all hits or all misses. If texts were
    # resampled independently, the intervals would be half as wide.
    image_ranks = np.array([0, 99] * 50)
    text_images = np.repeat(np.arange(100), 4)
    intervals = metrics.recall_intervals(image_ranks, image_ranks[text_images], text_images)
    half_width = 100 * 1.96 * math.sqrt(0.25 / 100)
    for name in ("t2i_r1", "t2i_r10", "average_recall"):
        assert intervals[name] == pytest.approx((50 - half_width, 50 + half_width), abs=1.5)


def test_each_recall_has_its_own_interval():
    # Half of the images have rank 0, the other half rank 7: all images are hits at 10, half at 5.
    ranks = np.array([0, 7] * 200)
    intervals = metrics.recall_intervals(ranks, np.full(400, 99), np.arange(400))
    half_width = 100 * 1.96 * math.sqrt(0.25 / 400)
    assert intervals["i2t_r10"] == (100.0, 100.0) and intervals["t2i_r10"] == (0.0, 0.0)
    assert intervals["i2t_r5"] == pytest.approx((50 - half_width, 50 + half_width), abs=0.6)
    # The average recall is (50 + 50 + 100 + 0 + 0 + 0) / 6. The two recalls of 50 % have the same
    # hits, and are therefore equal in each resampling.
    assert intervals["average_recall"] == pytest.approx(
        (100 - half_width) / 3 + np.array([0, 2 * half_width / 3]), abs=0.4
    )


def test_group_means_need_a_value_of_each_language():
    values = {"en": 60.0, "de": 30.0, "ko": 10.0}
    groups = {"trained": ["en", "de"], "unseen": ["ko"]}
    assert metrics.group_means(values, groups) == {"trained": 45.0, "unseen": 10.0}
    with pytest.raises(UserError, match="group 'unseen': no value for it, tr"):
        metrics.group_means(values, {"unseen": ["it", "ko", "tr"]})
    with pytest.raises(UserError, match="group 'none': empty"):
        metrics.group_means(values, {"none": []})


# --- correlation ----------------------------------------------------------------------------------


def test_spearman_equals_values_computed_by_hand():
    assert metrics.spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert metrics.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert metrics.spearman([1, 2, 3, 4], [4, 1, 2, 3]) == pytest.approx(1 - 6 * 12 / 60)
    # The ranks are 1, 2.5, 2.5, 4 and 1, 2, 3, 4. The sum of products of their deviations is 4.5;
    # the sums of squared deviations are 4.5 and 5.
    assert metrics.spearman([0, 5, 5, 9], [0, 1, 2, 3]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert metrics.spearman([7, 7, 7], [1, 2, 3]) == metrics.spearman([1, 2], [0, 0]) == 0


@pytest.mark.parametrize("num_unique", [2, 5, 1000])
@pytest.mark.parametrize("count", [2, 3, 250])
def test_spearman_equals_scipy(count, num_unique):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    random = np.random.default_rng(count + num_unique)
    for _ in range(20):
        a, b = random.integers(0, num_unique, (2, count)) / 7
        expected = stats.spearmanr(a, b).statistic if a.std() and b.std() else 0
        assert metrics.spearman(a, b) == pytest.approx(expected, abs=1e-12)


def test_weighted_correlations_equal_those_of_repeated_pairs():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, (2, 40))
    weights = random.multinomial(40, np.full(40, 1 / 40), 30)
    correlations = correlation._correlations(a, b, weights.astype(float))
    for counts, value in zip(weights, correlations, strict=True):
        expected = metrics.spearman(np.repeat(a, counts), np.repeat(b, counts))
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("max_weights", [1, 1 << 22])
def test_bootstrap_spearman_has_the_theoretical_deviation(max_weights, monkeypatch):
    monkeypatch.setattr(correlation, "_MAX_WEIGHTS", max_weights)
    # The correlation of n independent pairs has the standard deviation 1 / sqrt(n - 1).
    a, b = np.random.default_rng(0).normal(size=(2, 400))
    resampled = metrics.bootstrap_spearman(a, b)
    assert resampled.shape == (1000,) and resampled.std() == pytest.approx(
        1 / math.sqrt(399), rel=0.12
    )
    assert resampled.mean() == pytest.approx(metrics.spearman(a, b), abs=0.01)
    assert (resampled == metrics.bootstrap_spearman(a, b)).all()
    assert (resampled != metrics.bootstrap_spearman(a, b, seed=1)).any()


def test_values_without_a_correlation_are_rejected():
    with pytest.raises(UserError, match="1 pairs: expected at least 2"):
        metrics.spearman([1], [2])
    with pytest.raises(UserError, match=r"shapes \(2,\) and \(3,\)"):
        metrics.spearman([1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="1 of 3 pairs are not finite, the first is pair 1: 2.0 an"):
        metrics.bootstrap_spearman([1, 2, 3], [1, np.nan, 3])


# --- intervals of means ---------------------------------------------------------------------------


def test_interval_of_a_mean_matches_the_normal_approximation_and_is_reproducible():
    random = np.random.default_rng(0)
    # Two unique values are drawn as counts; many unique values are drawn one by one.
    for values in (np.array([0, 1] * 200), random.normal(size=400)):
        mean, half_width = values.mean(), 1.96 * values.std() / 20
        interval = metrics.mean_interval(values)
        expected = (mean - half_width, mean + half_width)
        assert interval == pytest.approx(expected, abs=0.15 * half_width)
        assert interval == metrics.mean_interval(values) != metrics.mean_interval(values, seed=1)


def test_interval_of_constant_values_is_a_point():
    assert metrics.mean_interval([0.1] * 7) == pytest.approx((0.1, 0.1))
    assert metrics.mean_interval([3]) == (3.0, 3.0)
    assert metrics.percentile_interval(np.arange(1001)) == (25.0, 975.0)


@pytest.mark.parametrize("values", [[], [1, np.nan]])
def test_intervals_of_no_values_or_nan_are_rejected(values):
    with pytest.raises(UserError, match=f"{len(values)} values, {len(values) // 2} of them finite"):
        metrics.mean_interval(values)


def test_interval_over_seeds_is_that_of_students_t_test():
    # Table of quantiles: t(0.975, 4) = 2.776. The values have the variance 2.5.
    low, high = metrics.seeds_interval([1, 2, 3, 4, 5])
    assert (low, high) == pytest.approx((3 - 2.776 * 0.5**0.5, 3 + 2.776 * 0.5**0.5))
    random = np.random.default_rng(0).normal(size=(4000, 3))
    covered = [low <= 0 <= high for low, high in map(metrics.seeds_interval, random)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("values", [[1], [1] * 32, [1, np.nan]])
def test_interval_over_seeds_needs_a_few_finite_values(values):
    with pytest.raises(UserError, match=f"{len(values)} values, .* 2 to 31 finite values"):
        metrics.seeds_interval(values)
