"""The loss and its gradients at the embeddings, for all local examples at once or in chunks.

With chunks of c examples, only c x N logits are in memory at a time, in the forward and in the
backward pass. Without chunks, n x N logits are in memory.
"""

import jax
import jax.numpy as jnp

from tf_mural.backends.jax.grad_cache import split_rows
from tf_mural.objective import gather_candidates


def objective_and_gradients(
    embeddings, batch, terms, scalars, gather, offset, compute_objective, chunk=None
):
    """Computes the logs of the local batch, and the gradients of its loss.

    Args:
        embeddings, batch, terms, scalars, gather, offset: see `objective.objective`.
        compute_objective: callable (embeddings, batch, candidates, scalars, offset) that returns
            the loss and the logs of a part of the local batch, see `objective.objective_for_rows`.
        chunk: number of local examples whose logits are computed at a time; must divide n. None:
            all examples.

    Returns:
        The logs, and the gradients of the loss with respect to `embeddings` and `scalars`.
    """
    labels = {
        field: {key: value[key] for key in ("id", "language") if key in value}
        for field, value in batch.items()
    }
    total = next(iter(batch.values()))["id"].shape[0]

    # The logits need float32 precision, but by default TPUs multiply float32 matrices in bfloat16,
    # and GPUs in TF32.
    @jax.default_matmul_precision("float32")
    def loss_and_logs(embeddings, scalars):
        candidates = gather_candidates(embeddings, batch, terms, gather)

        def evaluate_part(candidates, scalars, part, offset):
            local, labels = part
            return compute_objective(local, labels, candidates, scalars, offset)

        if chunk in (None, total):
            return evaluate_part(candidates, scalars, (embeddings, labels), offset)
        # Only the inputs of a chunk are kept for the backward pass, which recomputes the logits.
        evaluate_chunk = jax.checkpoint(evaluate_part)

        def add_chunk(totals, indexed):
            index, part = indexed
            results = evaluate_chunk(candidates, scalars, part, offset + index * chunk)
            return jax.tree.map(jnp.add, totals, results), None

        parts, count = split_rows((embeddings, labels), chunk)
        first_part = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(evaluate_part, candidates, scalars, first_part, offset)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add_chunk, zeros, (jnp.arange(count), parts))[0]

    gradients, logs = jax.grad(loss_and_logs, argnums=(0, 1), has_aux=True)(embeddings, scalars)
    return logs, *gradients
