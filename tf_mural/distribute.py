"""Everything that knows of replicas: strategies, gather, reduction, seeds."""

import keras
import tensorflow as tf

from tf_mural.base import pick


def _one():
    return tf.distribute.get_strategy()


def _mirrored():
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _auto():
    return _mirrored() if len(tf.config.list_logical_devices("GPU")) > 1 else _one()


STRATEGIES = {"auto": _auto, "one": _one, "mirrored": _mirrored}


def make_strategy(name="auto"):
    """The `tf.distribute.Strategy` of this name.

    "one" is TensorFlow's default: the first GPU, or the CPU. "mirrored" takes all GPUs (without
    any, all logical CPUs). "auto" is "mirrored" with two or more GPUs, else "one". Make one
    MirroredStrategy a process: a second one of another size aborts TensorFlow.
    """
    return pick(STRATEGIES, name, "strategy")()


def gather(x):
    """Rows of all replicas, (n, ...) to (N, ...), with gradients and a static shape."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return x
    shape = [None if x.shape[0] is None else x.shape[0] * replicas, *x.shape[1:]]
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


def apply_gradients(optimizer, gradients, variables):
    """One optimiser step with gradients that are reduced already."""
    # Keras' own reduction would sum them over replicas a second time.
    optimizer._all_reduce_sum_gradients = list
    optimizer.apply(gradients, variables)


def seed_generators(model):
    """The `keras.random.SeedGenerator` of every layer that draws, in the order of the layers."""
    found = {}
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            if isinstance(value, keras.random.SeedGenerator):
                found[id(value)] = value
    return list(found.values())


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
