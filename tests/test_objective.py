"""Tests terms, weights, masks and logs of the objective, for a whole batch and for its slices."""

import dataclasses

import numpy as np
import pytest

from tf_mural import losses
from tf_mural.objective import Term, objective


def random_fields(n, names, seed=0, languages=2):
    """Creates random embeddings of norm 1, and a batch of n examples without inputs.

    The embeddings are a dict from the name of the field to an array (n, 6). All fields except
    "image" are text fields.
    """
    rng = np.random.default_rng(seed)
    embeddings, batch = {}, {}
    for name in names:
        x = rng.normal(size=(n, 6))
        embeddings[name] = x / np.linalg.norm(x, axis=1, keepdims=True)
        batch[name] = {"id": np.arange(n, dtype=np.int64)}
        if name != "image":
            batch[name]["language"] = rng.integers(0, languages, n).astype(np.int32)
    return embeddings, batch


def evaluate(embeddings, batch, terms, temperatures=None, gather=lambda x: x, offset=0):
    temperatures = temperatures or {"shared": 0.2}
    return objective(embeddings, batch, terms, temperatures, gather, offset, num_languages=2)


ETCL = [
    Term("image_text_a", "image", "text_a", 1 / 3, margin=0.3, label_smoothing=0.1),
    Term("text_a_text_b", "text_a", "text_b", 1 / 3, margin=0.3, label_smoothing=0.1),
    Term("text_b_image", "text_b", "image", 1 / 3, margin=0.3, label_smoothing=0.1),
]


def pair_losses(embeddings, x, y, sigma=0.2, **options):
    pair = (embeddings[x], embeddings[y])
    return np.array(losses.contrastive(pair, pair, 0, sigma, 0.3, 0.1, **options))


def test_total_is_the_weighted_mean_of_the_terms():
    embeddings, batch = random_fields(5, ["image", "text_a", "text_b"])
    total, logs = evaluate(embeddings, batch, ETCL)
    means = [pair_losses(embeddings, t.x, t.y).mean() for t in ETCL]
    assert float(total) == pytest.approx(np.mean(means), rel=1e-6)
    for term, mean in zip(ETCL, means, strict=True):
        assert float(logs[f"loss/{term.name}"]) == pytest.approx(mean, rel=1e-6)


def test_slices_add_up_to_the_whole_batch():
    embeddings, batch = random_fields(6, ["image", "text_a", "text_b"])
    expected, logs = evaluate(embeddings, batch, ETCL)
    total, sums = 0.0, np.zeros(2)
    for offset in (0, 3):
        part = slice(offset, offset + 3)
        local = {f: e[part] for f, e in embeddings.items()}
        local_batch = {f: {k: v[part] for k, v in b.items()} for f, b in batch.items()}
        # `gather` needs no communication: it returns the embeddings of the whole batch.
        fields = {id(local[f]): embeddings[f] for f in local}
        loss, local_logs = evaluate(
            local, local_batch, ETCL, gather=lambda x, fields=fields: fields[id(x)], offset=offset
        )
        total += float(loss)
        sums += np.array(local_logs["language_loss"])
    assert total == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(sums, logs["language_loss"], rtol=1e-6)


def test_losses_by_language_count_each_text_of_an_example():
    embeddings, batch = random_fields(4, ["source", "target"])
    batch["source"]["language"] = np.array([0, 0, 0, 0], np.int32)
    batch["target"]["language"] = np.array([1, 1, 0, 0], np.int32)
    _, logs = evaluate(
        embeddings, batch, [Term("t", "source", "target", 1.0, margin=0.3, label_smoothing=0.1)]
    )
    example_losses = pair_losses(embeddings, "source", "target")
    np.testing.assert_allclose(logs["language_count"], [6, 2])
    np.testing.assert_allclose(
        logs["language_loss"],
        [example_losses.sum() + example_losses[2:].sum(), example_losses[:2].sum()],
        rtol=1e-6,
    )


def test_a_term_can_have_its_own_temperature():
    embeddings, batch = random_fields(4, ["source", "target"])
    terms = [
        Term("t", "source", "target", 1.0, margin=0.3, label_smoothing=0.1, temperature="text")
    ]
    total, _ = evaluate(embeddings, batch, terms, {"shared": 0.2, "text": 0.7})
    expected = pair_losses(embeddings, "source", "target", 0.7).mean()
    assert float(total) == pytest.approx(expected, rel=1e-6)


def test_duplicates_are_masked_by_the_id_of_either_field():
    embeddings, batch = random_fields(4, ["image", "caption"])
    batch["image"]["id"] = np.array([7, 7, 2, 3])
    batch["caption"]["id"] = np.array([1, 2, 3, 1])
    term = Term("t", "image", "caption", 1.0, margin=0.3, label_smoothing=0.1, mask_duplicates=True)
    total, _ = evaluate(embeddings, batch, [term])
    ignore = np.eye(4, dtype=bool)
    ignore[0, 1] = ignore[1, 0] = True  # examples 0 and 1 have the same image
    ignore[0, 3] = ignore[3, 0] = True  # examples 0 and 3 have the same caption
    expected = pair_losses(embeddings, "image", "caption", ignore=ignore).mean()
    assert float(total) == pytest.approx(expected, rel=1e-6)


def masked_loss(names, ids, x, y, sibling_fields=()):
    """Computes the loss of a term that masks duplicates.

    Args:
        names: names of the fields.
        ids: list of ids per field.
        x, y, sibling_fields: see `Term`.

    Returns:
        The loss, and a callable (pairs of duplicate examples) -> expected loss if these pairs are
        masked.
    """
    embeddings, batch = random_fields(len(ids[0]), names)
    for name, values in zip(names, ids, strict=True):
        batch[name]["id"] = np.array(values)
    options = dict(margin=0.3, label_smoothing=0.1)
    term = Term("t", x, y, 1.0, mask_duplicates=True, sibling_fields=sibling_fields, **options)
    total, _ = evaluate(embeddings, batch, [term])

    def expected(*duplicates):
        ignore = np.eye(len(ids[0]), dtype=bool)
        for i, j in duplicates:
            ignore[i, j] = ignore[j, i] = True
        return pytest.approx(pair_losses(embeddings, x, y, ignore=ignore).mean(), rel=1e-6)

    return float(total), expected


def test_a_text_is_not_a_negative_of_itself_in_the_other_field():
    # A batch may contain an image twice, once with its texts (en, de) and once with (fr, en). The
    # English text is then in both text fields.
    total, expected = masked_loss(["text_a", "text_b"], ([1, 5, 6], [2, 1, 7]), "text_a", "text_b")
    assert total == expected((0, 1)) and total != expected()


def test_captions_of_one_image_are_not_negatives_of_each_other():
    names, ids = ["image", "text_a", "text_b"], ([9, 9, 8], [1, 3, 5], [2, 4, 6])
    total, expected = masked_loss(names, ids, "text_a", "text_b", sibling_fields=("image",))
    assert total == expected((0, 1)) and total != expected()
    # An image and a text with equal ids are not duplicates.
    ids = ([1, 2, 3], [2, 4, 5], [6, 7, 1])
    total, expected = masked_loss(names, ids, *names[:2], sibling_fields=names[2:])
    assert total == expected()


def test_terms_that_do_not_mask_gather_no_ids():
    embeddings, batch = random_fields(4, ["image", "text_a", "text_b"])
    gathered = []

    def gather(x):
        gathered.append(x)
        return x

    terms = [dataclasses.replace(term, sibling_fields=("text_a",)) for term in ETCL]
    evaluate(embeddings, batch, terms, gather=gather)
    assert len(gathered) == 3  # one call per field, for the embeddings
