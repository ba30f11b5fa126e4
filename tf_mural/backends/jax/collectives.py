"""Operations over replicas; each device along the mesh axis `AXIS` is a replica.

All functions except `global_norm` and `apply_gradients` must be called inside `jax.shard_map`.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from keras import ops

AXIS = "data"


def gather(x):
    """Concatenates the arrays of all replicas: (n, ...) to (N, ...).

    Gradients flow back to the replica that contributed the array.
    """
    return jax.lax.all_gather(x, AXIS, axis=0, tiled=True)


def replica_offset(num_examples):
    """Returns the position of this replica's first example in the global batch.

    Args:
        num_examples: number of examples per replica.
    """
    return jax.lax.axis_index(AXIS) * num_examples


def reduce_sum(tensors):
    """Sums a nested structure of arrays over replicas; every replica gets the sums."""
    return jax.lax.psum(tensors, AXIS)


def all_reduce_mean(tensors):
    """Averages each array of a list over replicas; every replica gets the means."""
    return jax.lax.pmean(list(tensors), AXIS)


def sync_moving_averages(variables):
    """Sets each variable to its mean over replicas, with a single all-reduce for all variables.

    Each replica updates batch norm's moving averages with its own part of the batch.
    """
    if not variables:
        return
    means = all_reduce_mean([v.value for v in variables])
    for variable, mean in zip(variables, means, strict=True):
        variable.assign(mean)


def reduce_gradients(gradients, specs):
    """Sums gradients over replicas.

    Args:
        gradients: list of arrays.
        specs: list with a `PartitionSpec` per gradient. If the `PartitionSpec` is empty, every
            replica gets the whole sum, otherwise each replica gets only its part of the sum.

    Returns:
        List of arrays, one per gradient.
    """

    def reduce(gradient, spec):
        if spec == P():
            return reduce_sum(gradient)
        axis = len(spec) - 1
        return jax.lax.psum_scatter(gradient, AXIS, scatter_dimension=axis, tiled=True)

    return [reduce(g, spec) for g, spec in zip(gradients, specs, strict=True)]


def unshard(value, spec):
    """Returns the whole array from the parts on all replicas.

    Args:
        value: the part on this replica.
        spec: `PartitionSpec` of the array. An empty `PartitionSpec` means that `value` is already
            the whole array.
    """
    if spec == P():
        return value
    return jax.lax.all_gather(value, AXIS, axis=len(spec) - 1, tiled=True)


def global_norm(gradients):
    """Returns the global norm of a list of arrays."""
    return ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))


def apply_gradients(optimizer, gradients, variables, apply_update=None):
    """Runs one optimizer step with gradients that are already summed over replicas.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        gradients: list of arrays, one per variable.
        variables: list of Keras variables.
        apply_update: bool scalar. If `apply_update` is false, the variables, the slots and the
            optimizer's counter keep their values, even if gradients are not finite. None: the
            update is always applied.
    """
    changed = [*variables, *optimizer.variables]
    before = [ops.convert_to_tensor(v) for v in changed]
    optimizer.apply(gradients, variables)
    if apply_update is not None:
        for variable, value in zip(changed, before, strict=True):
            variable.assign(ops.where(apply_update, ops.convert_to_tensor(variable), value))


def set_seeds(generators, seed, step, microbatch=0):
    """Derives the random state of every generator from the step, the replica and the micro-batch.

    If this function is called before each forward pass, replicas and micro-batches draw different
    dropout masks, and a second pass over a micro-batch draws the same masks as the first pass.

    Args:
        generators: list of `keras.random.SeedGenerator`; each gets a different state.
        seed: int, the seed of the run.
        step: int scalar, the number of the step.
        microbatch: int scalar, the index of the micro-batch.
    """
    if not generators:
        return
    key = jax.random.PRNGKey(seed)
    for number in (step, jax.lax.axis_index(AXIS), microbatch):
        key = jax.random.fold_in(key, number)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(generators)))
    for generator, state in zip(generators, keys, strict=True):
        generator.state.assign(state.astype(generator.state.dtype))
