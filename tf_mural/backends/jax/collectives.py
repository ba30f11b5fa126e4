"""Inside of a step: gather, reduction and seeds of replicas, each a device of the axis `AXIS`."""

import jax
import jax.numpy as jnp

AXIS = "data"


def gather(x):
    """Rows of all replicas, (n, ...) to (N, ...), with gradients."""
    return jax.lax.all_gather(x, AXIS, axis=0, tiled=True)


def first_row(rows):
    """Position of this replica's first row among the gathered ones."""
    return jax.lax.axis_index(AXIS) * rows


def reduce_sum(tensors):
    """Sums a nest of arrays over replicas; each replica gets the sums."""
    return jax.lax.psum(tensors, AXIS)


def mean(tensors):
    """Means of arrays over replicas, in a list; each replica gets them."""
    return jax.lax.pmean(list(tensors), AXIS)


def set_seeds(generators, seed, step, microbatch=0):
    """Makes dropout a function of (seed, layer number, step, replica, micro-batch)."""
    if not generators:
        return
    key = jax.random.PRNGKey(seed)
    for number in (step, jax.lax.axis_index(AXIS), microbatch):
        key = jax.random.fold_in(key, number)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(generators)))
    for generator, state in zip(generators, keys, strict=True):
        generator.state.assign(state.astype(generator.state.dtype))
