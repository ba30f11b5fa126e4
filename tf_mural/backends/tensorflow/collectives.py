"""Operations over the replicas of a `tf.distribute.Strategy`, called in replica context."""

import tensorflow as tf


def gather(x):
    """Concatenates the arrays of all replicas: (n, ...) to (N, ...).

    Gradients flow back to the replicas, and the result has a static shape.
    """
    # On TPUs, `all_gather` of types of at most 32 bits writes the local rows into zeros and sums
    # over replicas (`TPUReplicaContext.all_gather`). Types of 64 bits would take an all-to-all
    # exchange there, so they are gathered as 32-bit halves. Elsewhere it is a collective operation.
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
    """Position of this replica's first example in the global batch.

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
    """Sets each variable to its mean over replicas, with a single reduction.

    Each replica updates batch norm's moving averages with its own part of the batch. Without
    synchronization the replicas drift apart, and a checkpoint contains those of the first one.
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
    """Sums gradients over replicas, so that norm, clipping and finite check see the sums.

    Args:
        gradients: a tensor, `tf.IndexedSlices` or None (no gradient) per variable.
        variables: Keras variables.

    Returns:
        Dense tensors.
    """
    # Slices may contain a row several times, so that their norm is wrong until they are added up.
    dense = [
        tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g)
        for g, v in zip(gradients, variables, strict=True)
    ]
    return reduce_sum(dense)


def global_norm(gradients):
    """Global norm of a list of tensors."""
    return tf.linalg.global_norm(gradients)  # needs no memory for the squares


def apply_gradients(optimizer, gradients, variables, apply_update=None):
    """Runs one optimizer step with gradients that are already summed over replicas.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        gradients, variables: lists.
        apply_update: bool scalar, identical on all replicas. If it is false, the variables, the
            slots and the optimizer's counter keep their values, whatever the gradients are. None:
            the update is always applied.
    """
    # Keras would sum the gradients over replicas a second time.
    optimizer._all_reduce_sum_gradients = list
    if apply_update is None:
        optimizer.apply(gradients, variables)
        return
    # Each assignment is made conditional. A `tf.cond` around the update cannot contain Keras'
    # `merge_call`, and restoring the old values would need a copy of weights and slots.
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

    Keras' generators draw the same masks on every replica and are not part of a checkpoint. With
    their states set before each forward pass, replicas and micro-batches draw different masks, and
    a second pass of the same micro-batch draws the same ones.

    Args:
        generators: `keras.random.SeedGenerator`s; each gets a state of its own.
        seed: int.
        step, microbatch: int scalars.
    """
    fold_in = tf.random.experimental.stateless_fold_in
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    state = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    state = fold_in(fold_in(state, tf.cast(replica, tf.int64)), tf.cast(microbatch, tf.int64))
    for index, generator in enumerate(generators):
        value = fold_in(state, tf.constant(index, tf.int64))
        # Generators count upwards in an unsigned dtype; the shift keeps clear of an overflow.
        generator.state.assign(tf.cast(tf.bitwise.right_shift(value, 34), generator.state.dtype))
