"""Contrastive losses: pure functions of arrays, nothing but `keras.ops`."""

from keras import ops

_MASKED = -1e30


def contrastive(
    rows, all_rows, first_row, temperature, margin=0.0, label_smoothing=0.0, ignore=None
):
    """Bidirectional softmax cross-entropy of matching pairs, per row.

    For unit vectors x_i, y_i of N pairs, temperature sigma, margin m and smoothing eps
    (ALIGN, Jia et al. 2021, with the additive margin of Yang et al. 2019):

        logits[i, j] = (x_i . y_j - m [i == j]) / sigma
        target[i, j] = (1 - eps) [i == j] + eps / N
        loss[i]      = - sum_j target[i, j] log softmax_j(logits[i, :])

    summed over both directions (x against all y, y against all x). The mean of the result over
    the N global rows is the L_xy of the ETCL paper.

    Args:
        rows: pair `(x, y)` of this replica's own rows, each (n, d).
        all_rows: pair `(X, Y)` of the rows of all replicas, each (N, d).
        first_row: scalar int, the position of `rows[0]` in `all_rows`; row i of `x` matches
            row `first_row + i` of `Y`.
        temperature: positive scalar, divides the logits.
        margin: scalar, taken from the similarity of the matching pair only.
        label_smoothing: eps in [0, 1).
        ignore: optional boolean (n, N). Column j is no negative of row i where it is true: it
            leaves the denominator and the smoothed target, which is then spread over the columns
            that remain. The matching column always stays.

    Returns:
        (n,) losses, the two directions summed, in the dtype of the rows.
    """
    x, y = rows
    all_x, all_y = all_rows
    options = (first_row, temperature, margin, label_smoothing, ignore)
    return _one_direction(x, all_y, *options) + _one_direction(y, all_x, *options)


def _one_direction(rows, columns, first_row, temperature, margin, label_smoothing, ignore):
    n, total = ops.shape(rows)[0], ops.shape(columns)[0]
    own_column = ops.arange(n, dtype="int32") + ops.cast(first_row, "int32")
    match = ops.equal(ops.expand_dims(own_column, 1), ops.arange(total, dtype="int32"))  # (n, N)
    match = ops.cast(match, rows.dtype)
    similarity = ops.matmul(rows, ops.transpose(columns))  # (n, N)
    # The margin makes the matching pair harder: it must win by m.
    logits = (similarity - margin * match) / temperature
    positive = ops.sum(logits * match, axis=1)  # (n,)
    if ignore is None:
        normaliser = ops.logsumexp(logits, axis=1)
        spread = ops.mean(logits, axis=1)
    else:
        kept = ops.maximum(1.0 - ops.cast(ignore, rows.dtype), match)
        normaliser = ops.logsumexp(ops.where(kept > 0, logits, _MASKED), axis=1)
        spread = ops.sum(logits * kept, axis=1) / ops.sum(kept, axis=1)
    return normaliser - (1.0 - label_smoothing) * positive - label_smoothing * spread


LOSSES = {"contrastive": contrastive}
