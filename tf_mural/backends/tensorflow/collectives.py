"""Inside of a step: gather, reduction and seeds of replicas."""

import tensorflow as tf


def gather(x):
    """Rows of all replicas, (n, ...) to (N, ...), with gradients and a static shape.

    By `ReplicaContext.all_gather`. On TPUs that is, for the types of 32 bits and less, the form
    that is known to work there: each replica's rows put at their place among zeros, and summed
    (`TPUReplicaContext.all_gather`); elsewhere it is a collective that moves less. Types of 64
    bits take another way there, over an exchange of all with all, and so travel as halves.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return x
    shape = [None if x.shape[0] is None else x.shape[0] * replicas, *x.shape[1:]]
    if x.dtype == tf.int64:
        halves = context.all_gather(tf.bitcast(x, tf.int32), axis=0)
        return tf.ensure_shape(tf.bitcast(halves, tf.int64), shape)
    return tf.ensure_shape(context.all_gather(x, axis=0), shape)


def first_row(rows):
    """Position of this replica's first row among the gathered ones."""
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32) * rows


def reduce_sum(tensors):
    """Sums a nest of tensors over replicas; each replica gets the sums."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    flat = tf.nest.flatten(tensors)
    return tf.nest.pack_sequence_as(tensors, context.all_reduce(tf.distribute.ReduceOp.SUM, flat))


def mean(tensors):
    """Means of tensors over replicas, in a list; each replica gets them."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return list(tensors)
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, list(tensors))


def average(variables):
    """Sets each variable to its mean over replicas, in a single reduction.

    For batch norm's moving averages, which each replica updates by its own share: left alone, the
    replicas drift apart and a checkpoint holds the first one's.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1 or not variables:
        return
    packed = tf.concat([tf.reshape(v.value, [-1]) for v in variables], axis=0)
    packed = context.all_reduce(tf.distribute.ReduceOp.MEAN, packed)
    sizes = [int(tf.TensorShape(v.shape).num_elements()) for v in variables]
    for variable, part in zip(variables, tf.split(packed, sizes), strict=True):
        variable.assign(tf.reshape(part, variable.shape))


def reduce_gradients(gradients):
    """Dense gradients summed over replicas: what norms, clips and finite tests must look at."""
    # Sparse slices may repeat a row, and every norm of them would be wrong until they are added.
    return reduce_sum([tf.convert_to_tensor(gradient) for gradient in gradients])


def apply_gradients(optimizer, gradients, variables, wanted=None):
    """One optimiser step with gradients that are reduced already.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        gradients, variables: of the step.
        wanted: bool scalar, alike on all replicas: whether the step is taken. If not, variables,
            slots and the optimizer's count stay, whatever the gradients are. None: it is.
    """
    # Keras' own reduction would sum them over replicas a second time.
    optimizer._all_reduce_sum_gradients = list
    if wanted is None:
        optimizer.apply(gradients, variables)
        return
    # Each assignment by itself, because Keras' update is a `merge_call`, which no `tf.cond` may
    # hold; and because that needs no copy of weights and slots to go back to.
    kind = type(optimizer)

    def assign(variable, value):
        kind.assign(optimizer, variable, tf.where(wanted, value, tf.convert_to_tensor(variable)))

    def assign_add(variable, value):
        kind.assign_add(optimizer, variable, tf.where(wanted, value, tf.zeros_like(value)))

    def assign_sub(variable, value):
        kind.assign_sub(optimizer, variable, tf.where(wanted, value, tf.zeros_like(value)))

    optimizer.assign, optimizer.assign_add, optimizer.assign_sub = assign, assign_add, assign_sub
    optimizer.apply(gradients, variables)
    count = optimizer.iterations
    count.assign_sub(tf.where(wanted, tf.zeros((), count.dtype), tf.ones((), count.dtype)))


def set_seeds(generators, seed, step, microbatch=0):
    """Makes dropout a function of (seed, layer number, step, replica, micro-batch).

    Keras' generators draw the same masks on every replica and are part of no checkpoint; set
    before each pass they differ where they should, and a replay draws the same.
    """
    fold_in = tf.random.experimental.stateless_fold_in
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    state = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    state = fold_in(fold_in(state, tf.cast(replica, tf.int64)), tf.cast(microbatch, tf.int64))
    for number, generator in enumerate(generators):
        value = fold_in(state, tf.constant(number, tf.int64))
        # Generators count upwards in an unsigned dtype; keep clear of its end.
        generator.state.assign(tf.cast(tf.bitwise.right_shift(value, 34), generator.state.dtype))
