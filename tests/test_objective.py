"""Tests terms, weights, masks and logs of the objective, for a whole batch and for its slices."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from tf_mural import losses
from tf_mural.backends.tensorflow.chunked_loss import objective_and_gradients
from tf_mural.errors import UserError
from tf_mural.objective import Term, objective, objective_for_rows


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
    scalars = {"temperature": temperatures or {"shared": 0.2}}
    return objective(embeddings, batch, terms, scalars, gather, offset, num_languages=2)


PAPER = {"margin": 0.3, "label_smoothing": 0.1}
ETCL = [
    Term("image_text_a", "image", "text_a", 1 / 3, options=PAPER),
    Term("text_a_text_b", "text_a", "text_b", 1 / 3, options=PAPER),
    Term("text_b_image", "text_b", "image", 1 / 3, options=PAPER),
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
    _, logs = evaluate(embeddings, batch, [Term("t", "source", "target", 1.0, options=PAPER)])
    example_losses = pair_losses(embeddings, "source", "target")
    np.testing.assert_allclose(logs["language_count"], [6, 2])
    np.testing.assert_allclose(
        logs["language_loss"],
        [example_losses.sum() + example_losses[2:].sum(), example_losses[:2].sum()],
        rtol=1e-6,
    )


def test_a_term_can_have_its_own_temperature():
    embeddings, batch = random_fields(4, ["source", "target"])
    terms = [Term("t", "source", "target", 1.0, options=PAPER, scalars={"temperature": "text"})]
    total, _ = evaluate(embeddings, batch, terms, {"shared": 0.2, "text": 0.7})
    expected = pair_losses(embeddings, "source", "target", 0.7).mean()
    assert float(total) == pytest.approx(expected, rel=1e-6)


def test_duplicates_are_masked_by_the_id_of_either_field():
    embeddings, batch = random_fields(4, ["image", "caption"])
    batch["image"]["id"] = np.array([7, 7, 2, 3])
    batch["caption"]["id"] = np.array([1, 2, 3, 1])
    term = Term("t", "image", "caption", 1.0, options=PAPER, mask_duplicates=True)
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
    options = dict(options=PAPER)
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


# --- options, scalars and candidates of other losses ----------------------------------------------


def test_terms_complete_and_check_the_options_of_their_loss():
    term = Term("t", "image", "caption", 1.0, options={"margin": 1})
    assert term.options == {"margin": 1, "label_smoothing": 0.0}
    assert term.scalars == {"temperature": "shared"}
    for options, message in (
        (
            {"margn": 0.3},
            "unknown option of the loss 'contrastive': 'margn'; known: margin, ",
        ),
        ({"margin": "0.3"}, "margin is '0.3', but this option .* is of type float"),
        ({"margin": True}, "margin is True, but this option .* is of type float"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected a number from 0 to below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1, expected a number from 0 to below 1"),
    ):
        with pytest.raises(UserError, match=message):
            Term("t", "image", "caption", 1.0, options=options)
    with pytest.raises(UserError, match="unknown scalar of the loss 'contrastive': 'bias'; known"):
        Term("t", "image", "caption", 1.0, scalars={"bias": "shared"})
    with pytest.raises(UserError, match="unknown loss .of the term 't'. 'contrast'; known: contr"):
        Term("t", "image", "caption", 1.0, loss="contrast")


def scaled_distance(local, candidates, offset, power=2, ignore=None):
    """Computes |x - y|^power of each pair, a loss that needs neither negatives nor scalars."""
    assert candidates is None
    return ops.sum(ops.abs(local[0] - local[1]) ** power, axis=1)


@pytest.fixture
def distance(monkeypatch):
    """Registers the loss "distance", which takes an option and no candidates."""
    loss = losses.Loss(
        scaled_distance, options={"power": losses.Option(int, 2)}, needs_candidates=False
    )
    monkeypatch.setitem(losses.LOSSES, "distance", loss)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_loss_without_candidates_gathers_no_embeddings(distance, chunk):
    """Computes the loss on one of two replicas, which have the same examples."""
    embeddings, batch = random_fields(4, ["image", "caption"])
    embeddings, batch = keras.tree.map_structure(ops.convert_to_tensor, (embeddings, batch))
    gathered = []

    def gather(x):
        gathered.append(x)
        return ops.concatenate([x, x], axis=0)

    term = Term("t", "image", "caption", 0.5, "distance", {"power": 4})
    logs, gradients, scalar_gradients = objective_and_gradients(
        embeddings,
        batch,
        [term],
        {"temperature": {"shared": ops.convert_to_tensor(0.2)}},
        gather,
        4,
        lambda *arguments: objective_for_rows(*arguments[:3], [term], *arguments[3:], 2),
        chunk=chunk,
    )
    # Only the ids of one field are gathered. The number of ids is the size of the global batch.
    assert [x.dtype for x in gathered] == ["int64"]
    difference = np.asarray(embeddings["image"] - embeddings["caption"])
    assert float(logs["loss/t"]) == pytest.approx((difference**4).sum() / 8, rel=1e-6)
    np.testing.assert_allclose(gradients["image"], 0.5 * 4 * difference**3 / 8, rtol=1e-6)
    np.testing.assert_allclose(gradients["caption"], -gradients["image"], rtol=1e-6)
    assert float(scalar_gradients["temperature"]["shared"]) == 0.0


def test_losses_with_and_without_candidates_in_one_objective(distance):
    embeddings, batch = random_fields(5, ["image", "text_a", "text_b"])
    terms = [ETCL[0], Term("d", "text_a", "text_b", 2.0, "distance")]
    total, logs = evaluate(embeddings, batch, terms)
    expected = ((embeddings["text_a"] - embeddings["text_b"]) ** 2).sum(axis=1).mean()
    assert float(logs["loss/d"]) == pytest.approx(expected, rel=1e-6)
    mean = pair_losses(embeddings, "image", "text_a").mean()
    assert float(total) == pytest.approx(mean / 3 + 2 * expected, rel=1e-6)


def test_a_loss_of_tokens_is_refused(monkeypatch):
    loss = losses.Loss(scaled_distance, inputs="tokens")
    monkeypatch.setitem(losses.LOSSES, "tokens", loss)
    with pytest.raises(UserError, match="takes tokens, but the towers return one row per example"):
        Term("t", "image", "caption", 1.0, "tokens")
