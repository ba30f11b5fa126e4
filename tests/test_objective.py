"""Terms, weights, masks and logs of the objective, on one replica and on slices of a batch."""

import dataclasses

import numpy as np
import pytest

from tf_mural import losses
from tf_mural.objective import Term, objective


def fields(n, names, seed=0, languages=2):
    rng = np.random.default_rng(seed)
    embeddings, batch = {}, {}
    for name in names:
        x = rng.normal(size=(n, 6))
        embeddings[name] = x / np.linalg.norm(x, axis=1, keepdims=True)
        batch[name] = {"id": np.arange(n, dtype=np.int64)}
        if name != "image":
            batch[name]["language"] = rng.integers(0, languages, n).astype(np.int32)
    return embeddings, batch


def run(embeddings, batch, terms, temperatures=None, gather=lambda x: x, first_row=0):
    return objective(
        embeddings, batch, terms, temperatures or {"shared": 0.2}, gather, first_row, 2
    )


ETCL = [
    Term("image_text_a", "image", "text_a", 1 / 3, margin=0.3, label_smoothing=0.1),
    Term("text_a_text_b", "text_a", "text_b", 1 / 3, margin=0.3, label_smoothing=0.1),
    Term("text_b_image", "text_b", "image", 1 / 3, margin=0.3, label_smoothing=0.1),
]


def pair(embeddings, x, y, sigma=0.2, **options):
    rows = (embeddings[x], embeddings[y])
    return np.array(losses.contrastive(rows, rows, 0, sigma, 0.3, 0.1, **options))


def test_total_is_the_weighted_mean_of_the_terms():
    embeddings, batch = fields(5, ["image", "text_a", "text_b"])
    total, logs = run(embeddings, batch, ETCL)
    means = [pair(embeddings, t.x, t.y).mean() for t in ETCL]
    assert float(total) == pytest.approx(np.mean(means), rel=1e-6)
    for term, mean in zip(ETCL, means, strict=True):
        assert float(logs[f"loss/{term.name}"]) == pytest.approx(mean, rel=1e-6)


def test_slices_add_up_to_the_whole():
    embeddings, batch = fields(6, ["image", "text_a", "text_b"])
    whole, logs = run(embeddings, batch, ETCL)
    total, sums = 0.0, np.zeros(2)
    for first in (0, 3):
        part = slice(first, first + 3)
        rows = {f: e[part] for f, e in embeddings.items()}
        own = {f: {k: v[part] for k, v in b.items()} for f, b in batch.items()}
        # The stand-in for a collective: looks up the whole field by its slice.
        everyone = {id(rows[f]): embeddings[f] for f in rows}
        loss, parts = run(rows, own, ETCL, gather=lambda x, e=everyone: e[id(x)], first_row=first)
        total += float(loss)
        sums += np.array(parts["language_loss"])
    assert total == pytest.approx(float(whole), rel=1e-6)
    np.testing.assert_allclose(sums, logs["language_loss"], rtol=1e-6)


def test_losses_by_language_count_each_text_of_a_row():
    embeddings, batch = fields(4, ["source", "target"])
    batch["source"]["language"] = np.array([0, 0, 0, 0], np.int32)
    batch["target"]["language"] = np.array([1, 1, 0, 0], np.int32)
    _, logs = run(
        embeddings, batch, [Term("t", "source", "target", 1.0, margin=0.3, label_smoothing=0.1)]
    )
    rows = pair(embeddings, "source", "target")
    np.testing.assert_allclose(logs["language_rows"], [6, 2])
    np.testing.assert_allclose(
        logs["language_loss"], [rows.sum() + rows[2:].sum(), rows[:2].sum()], rtol=1e-6
    )


def test_terms_may_have_temperatures_of_their_own():
    embeddings, batch = fields(4, ["source", "target"])
    terms = [
        Term("t", "source", "target", 1.0, margin=0.3, label_smoothing=0.1, temperature="text")
    ]
    total, _ = run(embeddings, batch, terms, {"shared": 0.2, "text": 0.7})
    expected = pair(embeddings, "source", "target", 0.7).mean()
    assert float(total) == pytest.approx(expected, rel=1e-6)


def test_duplicates_are_masked_by_either_id():
    embeddings, batch = fields(4, ["image", "caption"])
    batch["image"]["id"] = np.array([7, 7, 2, 3])
    batch["caption"]["id"] = np.array([1, 2, 3, 1])
    term = Term("t", "image", "caption", 1.0, margin=0.3, label_smoothing=0.1, mask_duplicates=True)
    total, _ = run(embeddings, batch, [term])
    ignore = np.eye(4, dtype=bool)
    ignore[0, 1] = ignore[1, 0] = True  # the same image
    ignore[0, 3] = ignore[3, 0] = True  # the same caption
    expected = pair(embeddings, "image", "caption", ignore=ignore).mean()
    assert float(total) == pytest.approx(expected, rel=1e-6)


def masked(names, ids, x, y, beside=()):
    """Loss of one term that masks duplicates, and what it is with a mask (n, n) of one's own."""
    embeddings, batch = fields(len(ids[0]), names)
    for name, values in zip(names, ids, strict=True):
        batch[name]["id"] = np.array(values)
    options = dict(margin=0.3, label_smoothing=0.1)
    term = Term("t", x, y, 1.0, mask_duplicates=True, beside=beside, **options)
    total, _ = run(embeddings, batch, [term])

    def expected(*same):
        ignore = np.eye(len(ids[0]), dtype=bool)
        for i, j in same:
            ignore[i, j] = ignore[j, i] = True
        return pytest.approx(pair(embeddings, x, y, ignore=ignore).mean(), rel=1e-6)

    return float(total), expected


def test_a_text_is_no_negative_of_itself_in_the_other_field():
    # The walk over pairs of languages gives (en, de) of an image, and later its (fr, en).
    total, expected = masked(["text_a", "text_b"], ([1, 5, 6], [2, 1, 7]), "text_a", "text_b")
    assert total == expected((0, 1)) and total != expected()


def test_captions_of_one_image_are_no_negatives_of_each_other():
    names, ids = ["image", "text_a", "text_b"], ([9, 9, 8], [1, 3, 5], [2, 4, 6])
    total, expected = masked(names, ids, "text_a", "text_b", beside=("image",))
    assert total == expected((0, 1)) and total != expected()
    # The ids of images and texts are of two kinds: equal ones tell nothing.
    total, expected = masked(names, ([1, 2, 3], [2, 4, 5], [6, 7, 1]), *names[:2], beside=names[2:])
    assert total == expected()


def test_terms_that_do_not_mask_gather_no_ids():
    embeddings, batch = fields(4, ["image", "text_a", "text_b"])
    asked = []

    def gather(x):
        asked.append(x)
        return x

    run(embeddings, batch, [dataclasses.replace(t, beside=("text_a",)) for t in ETCL], None, gather)
    assert len(asked) == 3  # each field once
