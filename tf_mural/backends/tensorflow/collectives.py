"""Operations over the replicas of a `tf.distribute.Strategy`.

All functions must be called in replica context.
"""

import tensorflow as tf


def gather(x):
    """Concatenates the arrays of all replicas: (n, ...) to (N, ...).

    Gradients flow back to the replica that contributed the array. The result has a static shape if
    `x` has one.
    """
    # On TPUs, TensorFlow implements `all_gather` of dtypes of at most 32 bits as a sum over
    # replicas: each replica contributes its rows, padded with zeros
    # (`TPUReplicaContext.all_gather`). For 64-bit dtypes, TensorFlow would use an all-to-all
    # exchange instead. To avoid this exchange, int64 arrays are gathered as pairs of int32.
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return x
    shape = [None if x.shape[0] is None else x.shape[0] * replicas, *x.shape[1:]]
    if x.dtype == tf.int64:
        halves = context.all_gather(tf.bitcast(x, tf.int32), axis=0)
        return tf.ensure_shape(tf.bitcast(halves, tf.int64), shape)
    return tf.ensure_shape(context.all_gather(x, axis=0), shape)


def replica_offset(num_examples):
    """Returns the position of this replica's first example in the global batch.

    Args:
        num_examples: number of examples per replica.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.cast(replica, tf.int32) * num_examples


def reduce_sum(tensors):
    """Sums a nested structure of tensors over replicas; every replica gets the sums."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    flat = tf.nest.flatten(tensors)
    return tf.nest.pack_sequence_as(tensors, context.all_reduce(tf.distribute.ReduceOp.SUM, flat))


def all_reduce_mean(tensors):
    """Averages each tensor of a list over replicas; every replica gets the means."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return list(tensors)
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, list(tensors))


def sync_moving_averages(variables):
    """Sets each variable to its mean over replicas, with a single all-reduce for all variables.

    Each replica updates batch norm's moving averages with its own part of the batch. Without
    synchronization, the moving averages of the replicas drift apart, and a checkpoint contains only
    the moving averages of the first replica.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1 or not variables:
        return
    packed = tf.concat([tf.reshape(v.value, [-1]) for v in variables], axis=0)
    packed = context.all_reduce(tf.distribute.ReduceOp.MEAN, packed)
    sizes = [int(tf.TensorShape(v.shape).num_elements()) for v in variables]
    for variable, part in zip(variables, tf.split(packed, sizes), strict=True):
        variable.assign(tf.reshape(part, variable.shape))


def reduce_gradients(gradients, variables):
    """Sums gradients over replicas.

    Args:
        gradients: list with a tensor, `tf.IndexedSlices` or None (no gradient) per variable.
        variables: list of Keras variables.

    Returns:
        List of dense tensors, one per variable.
    """
    # `tf.IndexedSlices` may contain a row several times, and their norm is wrong until these
    # repeated rows are added. All gradients are therefore made dense.
    dense = [
        tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g)
        for g, v in zip(gradients, variables, strict=True)
    ]
    return reduce_sum(dense)


def global_norm(gradients):
    """Returns the global norm of a list of tensors."""
    # Unlike `sum(square(g))`, this function allocates no tensors for the squares.
    return tf.linalg.global_norm(gradients)


def apply_gradients(optimizer, gradients, variables, apply_update=None):
    """Runs one optimizer step with gradients that are already summed over replicas.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        gradients: list of dense tensors, one per variable.
        variables: list of Keras variables.
        apply_update: bool scalar, identical on all replicas. If `apply_update` is false, the
            variables, the slots and the optimizer's counter keep their values, even if gradients
            are not finite. None: the update is always applied.
    """
    # This override prevents Keras from summing the gradients over replicas a second time.
    optimizer._all_reduce_sum_gradients = list
    if apply_update is None:
        optimizer.apply(gradients, variables)
        return
    # Each assignment of the optimizer is made conditional, because a `tf.cond` around the whole
    # update cannot contain Keras' `merge_call`. Restoring the old values after a bad update would
    # need a copy of all weights and slots.
    cls = type(optimizer)

    def assign(variable, value):
        cls.assign(
            optimizer, variable, tf.where(apply_update, value, tf.convert_to_tensor(variable))
        )

    def assign_add(variable, value):
        cls.assign_add(optimizer, variable, tf.where(apply_update, value, tf.zeros_like(value)))

    def assign_sub(variable, value):
        cls.assign_sub(optimizer, variable, tf.where(apply_update, value, tf.zeros_like(value)))

    optimizer.assign, optimizer.assign_add, optimizer.assign_sub = assign, assign_add, assign_sub
    optimizer.apply(gradients, variables)
    count = optimizer.iterations
    count.assign_sub(tf.where(apply_update, tf.zeros((), count.dtype), tf.ones((), count.dtype)))


def set_seeds(generators, seed, step, microbatch=0):
    """Derives the random state of every generator from the step, the replica and the micro-batch.

    By default, Keras' generators draw the same dropout masks on every replica, and checkpoints do
    not contain the states of the generators. If this function is called before each forward pass,
    replicas and micro-batches draw different masks, and a second pass over a micro-batch draws the
    same masks as the first pass.

    Args:
        generators: list of `keras.random.SeedGenerator`; each gets a different state.
        seed: int, the seed of the run.
        step: int scalar, the number of the step.
        microbatch: int scalar, the index of the micro-batch.
    """
    fold_in = tf.random.experimental.stateless_fold_in
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    state = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    state = fold_in(fold_in(state, tf.cast(replica, tf.int64)), tf.cast(microbatch, tf.int64))
    for index, generator in enumerate(generators):
        value = fold_in(state, tf.constant(index, tf.int64))
        # A generator increments its state, whose dtype is unsigned. The right shift makes the
        # initial state so small that the increments cannot overflow.
        generator.state.assign(tf.cast(tf.bitwise.right_shift(value, 34), generator.state.dtype))
