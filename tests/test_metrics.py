import math
import tracemalloc

import numpy as np
import pytest

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.metrics import correlation, ranks


def unit_rows(count, width, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ranks_of(scores, query_groups, item_groups):
    """Ranks where `scores` (q, m) are the cosines themselves: queries are the unit axes."""
    scores = np.asarray(scores, np.float32)
    return metrics.retrieval_ranks(
        np.eye(len(scores)), scores.T, query_groups, item_groups
    ).tolist()


def slow_ranks(queries, items, query_groups, item_groups):
    """The definition, one pair at a time, in float64."""
    ranks = []
    for query, group in zip(np.float64(queries), query_groups, strict=True):
        scores = [float(np.dot(query, item)) for item in np.float64(items)]
        best = max(s for s, g in zip(scores, item_groups, strict=True) if g == group)
        wrong = [s for s, g in zip(scores, item_groups, strict=True) if g != group]
        ranks.append(sum(s >= best for s in wrong))
    return ranks


def test_ranks_by_eye():
    scores = [
        [0.9, 0.1, 0.5],  # own first: nothing wrong above
        [0.9, 0.8, 0.7],  # own second
        [0.3, 0.2, 0.1],  # own last
    ]
    assert ranks_of(scores, [0, 1, 2], [0, 1, 2]) == [0, 1, 2]
    assert metrics.recall_at([0, 1, 2], (1, 2, 3)) == pytest.approx([100 / 3, 200 / 3, 100])


def test_several_right_items_count_by_the_best_and_never_as_wrong():
    scores = [
        [0.9, 0.8, 0.7, 0.1],  # right ones 0 and 1
        [0.6, 0.9, 0.5, 0.7],  # right ones 2 and 3: the better has one wrong item above
    ]
    assert ranks_of(scores, [7, 8], [7, 7, 8, 8]) == [0, 1]
    # The second right item is below two wrong ones and above none: it does not matter.
    assert ranks_of([[0.9, 0.5, 0.4, 0.3]], [7], [7, 8, 8, 7]) == [0]
    # The right items tie with each other: neither counts against the query.
    assert ranks_of([[0.9, 0.9, 0.1]], [7], [7, 7, 8]) == [0]


def test_ties_count_against_us():
    assert ranks_of([[0.5, 0.5, 0.5]], [1], [0, 1, 2]) == [2]
    assert ranks_of([[0.5, 0.5 - 1e-4, 0.1]], [0], [0, 1, 2]) == [0]


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_collapsed_encoder_scores_zero(noise):
    # Real collapses are not exact: the products of equal inputs differ in their last digits.
    images = np.repeat(unit_rows(1, 77), 301, axis=0) + noise * unit_rows(301, 77)
    texts = np.repeat(unit_rows(1, 77), 602, axis=0)
    values = metrics.retrieval(images, texts, np.repeat(np.arange(301), 2))
    assert set(values.values()) == {0.0}


def test_perfect_and_reversed_encoders():
    names = ["i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "average_recall"]
    rows = unit_rows(50, 32)
    assert metrics.retrieval(rows, rows, np.arange(50)) == dict.fromkeys(names, 100.0)
    # The right text lies opposite to its image: the worst of all.
    assert metrics.retrieval(rows, -rows, np.arange(50)) == dict.fromkeys(names, 0.0)


def test_one_image_and_one_text_are_always_found():
    values = metrics.retrieval(unit_rows(1, 8, 0), unit_rows(1, 8, 1), [0])
    assert set(values.values()) == {100.0}


def test_the_two_directions_differ_as_by_eye():
    # Text 0 and 1 describe image 0, text 2 image 1. Image 1 lies nearest to text 1.
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


@pytest.mark.parametrize("chunk", [1, 100, 1 << 22])
def test_equals_the_slow_version_whatever_the_chunk(chunk, monkeypatch):
    monkeypatch.setattr(ranks, "_CHUNK", chunk)
    queries, items = unit_rows(31, 6, 1), unit_rows(60, 6, 2)
    item_groups = np.random.default_rng(3).permutation(np.arange(60) % 20)
    query_groups = np.arange(31) % 20
    fast = metrics.retrieval_ranks(queries, items, query_groups, item_groups)
    assert fast.dtype == np.int64
    assert fast.tolist() == slow_ranks(queries, items, query_groups, item_groups)
    assert fast.max() > 10  # the case is not trivial


@pytest.mark.parametrize("chunk", [1, 400, 1 << 22])
def test_both_directions_at_once_equal_one_by_one_whatever_the_chunk(chunk, monkeypatch):
    monkeypatch.setattr(ranks, "_CHUNK", chunk)
    random = np.random.default_rng(3)
    images, text_images = unit_rows(300, 6, 1), random.permutation(np.arange(700) % 300)
    texts = images[text_images] + 0.3 * unit_rows(700, 6, 2)
    texts[:40] = texts[40:80]  # ties, with right and wrong ones
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    image_ranks, text_ranks = metrics.image_text_ranks(images, texts, text_images)
    names = np.arange(300)
    both = image_ranks.tolist(), text_ranks.tolist()
    assert both[0] == metrics.retrieval_ranks(images, texts, names, text_images).tolist()
    assert both[1] == metrics.retrieval_ranks(texts, images, text_images, names).tolist()
    assert image_ranks.dtype == text_ranks.dtype == np.int64
    assert max(both[0]) > 50 and max(both[1]) > 50 and 0 in both[0] and 0 in both[1]


def test_counts_above_a_byte_are_right():
    # 700 wrong images above the right one, and as many texts.
    images = np.zeros((701, 2), np.float32)
    images[:, 0], images[700] = 1, (0, 1)
    image_ranks, text_ranks = metrics.image_text_ranks(images, images[:, ::-1], np.arange(701))
    assert image_ranks.tolist() == text_ranks.tolist()
    # Images 0 to 699 have one text above theirs; 701 - 1 texts lie on image 700.
    assert image_ranks[:700].tolist() == [700] * 700 and image_ranks[700] == 700
    low, high = metrics.rank_bounds(images, images[:, ::-1], np.arange(701))
    assert low.tolist() == [1] * 700 + [700] and high.tolist() == [700] * 701


def test_memory_does_not_hold_all_scores(monkeypatch):
    monkeypatch.setattr(ranks, "_CHUNK", 1 << 18)
    images, texts = unit_rows(2000, 8, 1), unit_rows(6000, 8, 2)
    tracemalloc.start()
    metrics.image_text_ranks(images, texts, np.arange(6000) % 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # of 48 MB


def test_bounds_of_a_rank():
    # Text 0: image 1 above, 2 and 3 level. Text 1: all level. Text 2: its image alone on top.
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
def test_values_that_are_not_finite_are_refused_by_side(bad):
    good, broken = unit_rows(4, 8), unit_rows(4, 8)
    broken[2, 3] = bad
    with pytest.raises(UserError, match="1 of 4 image embeddings .* row 2"):
        metrics.retrieval(broken, good, range(4))
    with pytest.raises(UserError, match="1 of 4 text embeddings .* row 2"):
        metrics.retrieval(good, broken, range(4))
    with pytest.raises(UserError, match="queries"):
        metrics.retrieval_ranks(broken, good, range(4), range(4))


def test_input_that_does_not_fit_is_refused():
    rows = unit_rows(3, 8)
    with pytest.raises(UserError, match="8 wide and items 4"):
        metrics.retrieval_ranks(rows, rows[:, :4], range(3), range(3))
    with pytest.raises(UserError, match="item_groups"):
        metrics.retrieval_ranks(rows, rows, range(3), range(2))
    with pytest.raises(UserError, match="1 of 3 queries have no right item, the first is query 1"):
        metrics.retrieval_ranks(rows, rows, [0, 9, 2], range(3))
    with pytest.raises(UserError, match="texts are 4 wide and images 8"):
        metrics.retrieval(rows, rows[:, :4], range(3))
    with pytest.raises(UserError, match=r"text_images has shape \(2,\): expected .*\(3,\)"):
        metrics.rank_bounds(rows, rows, [0, 1])
    with pytest.raises(UserError, match="1 of 3 images have no text, the first is image 1"):
        metrics.retrieval(rows, rows, [0, 2, 2])
    with pytest.raises(UserError, match="text 1 belongs to image 3"):
        metrics.retrieval(rows, rows, [0, 3, 1])
    with pytest.raises(UserError, match="expected \\(rows, width\\)"):
        metrics.retrieval(rows[0], rows, [0, 1, 2])
    with pytest.raises(UserError, match="no queries"):
        metrics.recall_at([])


def exact_chance(images, texts_per_image):
    """By binomial coefficients, in integers."""
    texts = images * texts_per_image
    total = 0.0
    for k in (1, 5, 10):
        k = min(k, texts)
        miss = math.comb(texts - texts_per_image, k) / math.comb(texts, k)
        total += 1 - miss + min(1, k / images)
    return 100 * total / 6


@pytest.mark.parametrize("images, texts", [(512, 1), (100, 5), (20, 2), (4, 1), (1, 3)])
def test_chance_by_formula(images, texts):
    assert metrics.chance_average_recall(images, texts) == pytest.approx(
        exact_chance(images, texts)
    )


def test_chance_by_hand():
    # One caption each: k / n both ways, so (1 + 5 + 10) / 3 / 512.
    assert metrics.chance_average_recall(512) == pytest.approx(100 * 16 / 3 / 512)
    assert metrics.chance_average_recall(1) == 100.0


@pytest.mark.parametrize("texts_per_image", [1, 3, [1, 1, 2, 6] * 5])
def test_chance_by_simulation(texts_per_image):
    images, rounds = 20, 2000
    own = np.broadcast_to(texts_per_image, (images,))
    text_images = np.repeat(np.arange(images), own)
    random = np.random.default_rng(0)
    found = []
    for _ in range(rounds):
        scores = random.random((images, len(text_images)))
        right = np.arange(images)[:, None] == text_images
        best = np.where(right, scores, -1).max(1, keepdims=True)
        image_ranks = np.sum((scores > best) & ~right, axis=1)
        own_score = scores[text_images, np.arange(len(text_images))]
        text_ranks = np.sum(scores > own_score, axis=0)
        found.append(metrics.recalls(image_ranks, text_ranks)["average_recall"])
    spread = 4 * np.std(found) / math.sqrt(rounds)
    expected = metrics.chance_average_recall(images, texts_per_image)
    assert np.mean(found) == pytest.approx(expected, abs=spread)


def test_intervals_of_certain_results_are_points():
    one_each = np.arange(40)
    firsts, sevenths, lasts = np.zeros(40, int), np.full(40, 6), np.full(40, 39)
    for same, value in ((firsts, 100.0), (lasts, 0.0)):
        found = metrics.recall_intervals(same, same, one_each)
        assert found == dict.fromkeys(metrics.recalls(same, same), (value, value))
    found = metrics.recall_intervals(sevenths, lasts, one_each)
    points = {name: low for name, (low, high) in found.items() if low == high}
    assert points == pytest.approx(metrics.recalls(sevenths, lasts))
    assert points["i2t_r10"] == 100.0 and points["i2t_r5"] == points["t2i_r10"] == 0.0


def test_intervals_match_the_normal_one_and_repeat():
    # Half of the images are found at rank 0 both ways, the others never: a fair coin per image.
    ranks = np.array([0, 99] * 200)
    found = metrics.recall_intervals(ranks, ranks, np.arange(400))
    half = 100 * 1.96 * math.sqrt(0.25 / 400)
    for bounds in found.values():
        assert bounds == pytest.approx((50 - half, 50 + half), abs=0.6)
    assert found == metrics.recall_intervals(ranks, ranks, np.arange(400))
    assert found != metrics.recall_intervals(ranks, ranks, np.arange(400), seed=1)


def test_intervals_resample_images_with_all_their_texts():
    # 100 images of 4 texts that hit or miss together: texts drawn one by one would look
    # four times as many, and the interval half as wide.
    image_ranks = np.array([0, 99] * 50)
    text_images = np.repeat(np.arange(100), 4)
    found = metrics.recall_intervals(image_ranks, image_ranks[text_images], text_images)
    half = 100 * 1.96 * math.sqrt(0.25 / 100)
    for name in ("t2i_r1", "t2i_r10", "average_recall"):
        assert found[name] == pytest.approx((50 - half, 50 + half), abs=1.5)


def test_intervals_of_a_recall_are_its_own():
    # Half of the images at rank 0, half at rank 7: at 10 all hit, at 5 a fair coin.
    ranks = np.array([0, 7] * 200)
    found = metrics.recall_intervals(ranks, np.full(400, 99), np.arange(400))
    half = 100 * 1.96 * math.sqrt(0.25 / 400)
    assert found["i2t_r10"] == (100.0, 100.0) and found["t2i_r10"] == (0.0, 0.0)
    assert found["i2t_r5"] == pytest.approx((50 - half, 50 + half), abs=0.6)
    # (50 + 50 + 100 + 0 + 0 + 0) / 6, of which two move together by the coin.
    assert found["average_recall"] == pytest.approx(
        (100 - half) / 3 + np.array([0, 2 * half / 3]), abs=0.4
    )


def test_group_means():
    values = {"en": 60.0, "de": 30.0, "ko": 10.0}
    groups = {"trained": ["en", "de"], "unseen": ["ko"]}
    assert metrics.group_means(values, groups) == {"trained": 45.0, "unseen": 10.0}
    with pytest.raises(UserError, match="group 'unseen': no value for it, tr"):
        metrics.group_means(values, {"unseen": ["it", "ko", "tr"]})
    with pytest.raises(UserError, match="group 'none': empty"):
        metrics.group_means(values, {"none": []})


# --- correlation ----------------------------------------------------------------------------------


def test_spearman_by_hand():
    assert metrics.spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert metrics.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert metrics.spearman([1, 2, 3, 4], [4, 1, 2, 3]) == pytest.approx(1 - 6 * 12 / 60)
    # Ranks 1 2.5 2.5 4 and 1 2 3 4: covariance 4.5, variances 4.5 and 5.
    assert metrics.spearman([0, 5, 5, 9], [0, 1, 2, 3]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert metrics.spearman([7, 7, 7], [1, 2, 3]) == metrics.spearman([1, 2], [0, 0]) == 0


@pytest.mark.parametrize("different", [2, 5, 1000])
@pytest.mark.parametrize("count", [2, 3, 250])
def test_spearman_is_scipys(count, different):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    random = np.random.default_rng(count + different)
    for _ in range(20):
        a, b = random.integers(0, different, (2, count)) / 7
        wanted = stats.spearmanr(a, b).statistic if a.std() and b.std() else 0
        assert metrics.spearman(a, b) == pytest.approx(wanted, abs=1e-12)


def test_resamples_are_those_of_pairs_written_out():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, (2, 40))
    weights = random.multinomial(40, np.full(40, 1 / 40), 30)
    found = correlation._correlations(a, b, weights.astype(float))
    for times, value in zip(weights, found, strict=True):
        written = metrics.spearman(np.repeat(a, times), np.repeat(b, times))
        assert value == pytest.approx(written, abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_resampled_spearman_spreads_as_the_theory_says(chunk, monkeypatch):
    monkeypatch.setattr(correlation, "_CHUNK", chunk)
    # Independent values: a standard deviation of 1 / sqrt(n - 1).
    a, b = np.random.default_rng(0).normal(size=(2, 400))
    drawn = metrics.resampled_spearman(a, b)
    assert drawn.shape == (1000,) and drawn.std() == pytest.approx(1 / math.sqrt(399), rel=0.12)
    assert drawn.mean() == pytest.approx(metrics.spearman(a, b), abs=0.01)
    assert (drawn == metrics.resampled_spearman(a, b)).all()
    assert (drawn != metrics.resampled_spearman(a, b, seed=1)).any()


def test_what_has_no_correlation_is_refused():
    with pytest.raises(UserError, match="1 pairs: expected 2 or more"):
        metrics.spearman([1], [2])
    with pytest.raises(UserError, match=r"shapes \(2,\) and \(3,\)"):
        metrics.spearman([1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="1 of 3 pairs are not finite, the first is pair 1: 2.0 an"):
        metrics.resampled_spearman([1, 2, 3], [1, np.nan, 3])


# --- intervals of means ---------------------------------------------------------------------------


def test_interval_of_a_mean_matches_the_normal_one_and_repeats():
    random = np.random.default_rng(0)
    # Two values, drawn by how often each comes, and many, drawn one by one.
    for values in (np.array([0, 1] * 200), random.normal(size=400)):
        half = 1.96 * values.std() / 20
        found = metrics.mean_interval(values)
        assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
        assert found == metrics.mean_interval(values) != metrics.mean_interval(values, seed=1)


def test_interval_of_certain_values_is_a_point():
    assert metrics.mean_interval([0.1] * 7) == pytest.approx((0.1, 0.1))
    assert metrics.mean_interval([3]) == (3.0, 3.0)
    assert metrics.interval(np.arange(1001)) == (25.0, 975.0)


@pytest.mark.parametrize("bad", [[], [1, np.nan]])
def test_intervals_of_nothing_or_nan_are_refused(bad):
    with pytest.raises(UserError, match=f"{len(bad)} values, {len(bad) // 2} of them finite"):
        metrics.mean_interval(bad)
