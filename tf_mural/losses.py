"""Contrastive losses: pure functions of arrays that use only `keras.ops`."""

from keras import ops

_MASKED_LOGIT = -1e30


def contrastive(
    local, candidates, offset, temperature, margin=0.0, label_smoothing=0.0, ignore=None
):
    """Computes the bidirectional softmax cross-entropy of matching pairs, per example.

    For unit vectors x_i, y_i of N pairs, temperature sigma, margin m and smoothing eps
    (ALIGN, Jia et al. 2021, with the additive margin of Yang et al. 2019):

        logits[i, j] = (x_i . y_j - m [i == j]) / sigma
        target[i, j] = (1 - eps) [i == j] + eps / N
        loss[i]      = - sum_j target[i, j] log softmax_j(logits[i, :])

    The result is the sum of loss[i] over both directions (x against all y, y against all x). The
    mean of the result over the N examples of the global batch is the L_xy of the ETCL paper.

    Args:
        local: pair `(x, y)` of the embeddings of the local batch, each (n, d).
        candidates: pair `(X, Y)` of the embeddings of the global batch, each (N, d).
        offset: scalar int, the position of the first local example in the global batch: example
            i of `x` matches example `offset + i` of `Y`.
        temperature: positive scalar sigma, by which the similarities are divided.
        margin: scalar m that is subtracted from the similarity of the matching pair.
        label_smoothing: eps in [0, 1).
        ignore: optional boolean (n, N). If `ignore[i, j]` is true, candidate j is not a negative of
            example i: the softmax and the smoothed target of example i are computed without
            candidate j. The matching candidate is never excluded.

    Returns:
        Losses (n,), the sum of both directions, in the dtype of the embeddings.
    """
    x, y = local
    all_x, all_y = candidates
    options = (offset, temperature, margin, label_smoothing, ignore)
    return _one_direction(x, all_y, *options) + _one_direction(y, all_x, *options)


def _one_direction(local, candidates, offset, temperature, margin, label_smoothing, ignore):
    n, total = ops.shape(local)[0], ops.shape(candidates)[0]
    positions = ops.arange(n, dtype="int32") + ops.cast(offset, "int32")
    match = ops.equal(ops.expand_dims(positions, 1), ops.arange(total, dtype="int32"))  # (n, N)
    match = ops.cast(match, local.dtype)
    similarity = ops.matmul(local, ops.transpose(candidates))  # (n, N)
    # The margin makes the task harder: the similarity of the matching pair must exceed the
    # similarities of all other pairs by m.
    logits = (similarity - margin * match) / temperature
    positive = ops.sum(logits * match, axis=1)  # (n,)
    if ignore is None:
        log_normalizer = ops.logsumexp(logits, axis=1)
        mean_logit = ops.mean(logits, axis=1)
    else:
        valid = ops.maximum(1.0 - ops.cast(ignore, local.dtype), match)
        log_normalizer = ops.logsumexp(ops.where(valid > 0, logits, _MASKED_LOGIT), axis=1)
        mean_logit = ops.sum(logits * valid, axis=1) / ops.sum(valid, axis=1)
    return log_normalizer - (1.0 - label_smoothing) * positive - label_smoothing * mean_logit


LOSSES = {"contrastive": contrastive}
