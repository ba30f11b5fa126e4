"""Runs the steps of a trainer under a strategy."""

import tensorflow as tf

from tf_mural.backends.tensorflow.processes import Processes

# (function of a folder to begin a profile for TensorBoard, function to end it).
PROFILER = (tf.profiler.experimental.start, tf.profiler.experimental.stop)


class Runner:
    """What `loop.train` runs steps by, under any `tf.distribute.Strategy`.

    Args:
        trainer: compiled `training.Trainer`, built under the strategy.
        strategy: a `tf.distribute.Strategy`.
        make_dataset: function of (start_step=) to a `tf.data.Dataset` of the batches of this
            process, one a replica and step.

    Attributes:
        processes: `Processes` of the strategy.
    """

    def __init__(self, trainer, strategy, make_dataset):
        self._trainer, self._strategy, self._make_dataset = trainer, strategy, make_dataset
        self.processes, self._names = Processes(strategy), []

    @staticmethod
    def batches_of(replicas):
        """In how many batches the share of a process comes that has so many replicas."""
        return replicas

    def start(self, step):
        """Begins to read the batches from that of a step on."""
        make = self._make_dataset
        self._batches = iter(
            self._strategy.distribute_datasets_from_function(lambda _: make(start_step=step))
        )
        self._one, self._several = _functions(self._trainer, self._strategy, self._names)

    def run(self, count):
        """Takes so many steps.

        Returns:
            {name: values (count,)}, on the device: who looks at them waits for the steps.
        """
        if count == 1 or not self._names:
            values = _own(self._strategy, self._one(next(self._batches)))
            self._names[:] = sorted(values)
            return {k: v[tf.newaxis] for k, v in values.items()}
        return self._several(self._batches, tf.constant(count))


def _own(strategy, values):
    """{name: value of the first replica of this process}."""
    return {k: strategy.experimental_local_results(v)[0] for k, v in values.items()}


def _functions(trainer, strategy, names):
    """One step of a batch, and several of an iterator: tf.functions.

    They do not refer to the runner, so that its iterator dies with it. If garbage collection found
    it later, that could be in a thread that reads for another: it would wait there for threads that
    may be waiting for this one.
    """

    # Without AutoGraph, as in Keras' own fit: it costs seconds, and no tensor is branched on.
    @tf.function(jit_compile=trainer.jit_compile is True, autograph=False)
    def one(batch):
        return strategy.run(trainer.train_step, args=(batch,))

    @tf.function(autograph=False)
    def several(batches, count):
        logs = {k: tf.TensorArray(tf.float32, count, element_shape=()) for k in names}

        def body(i, logs):
            values = _own(strategy, one(next(batches)))
            found = {k: tf.cast(v, tf.float32) for k, v in values.items()}
            return i + 1, {k: logs[k].write(i, v) for k, v in found.items()}

        _, logs = tf.while_loop(lambda i, _: i < count, body, (0, logs), parallel_iterations=1)
        return {k: array.stack() for k, array in logs.items()}

    return one, several


def encoder_functions(encoder, kinds=("image", "text"), strategy=None):
    """{kind: function of a batch (n, ...) to (n, d)}, with the weights of the moment.

    Args:
        encoder: `models.DualEncoder`.
        kinds: of its towers.
        strategy: a `tf.distribute.Strategy` of this process, among whose replicas the rows of a
            batch are parted evenly; None is one device.
    """
    replicas = strategy.num_replicas_in_sync if strategy else 1

    def function(kind):
        def encode(batch):
            return encoder.encode(kind, batch, training=False)

        def parted(batch):
            rows = tf.shape(batch)[0] // replicas

            def of_replica():
                number = tf.distribute.get_replica_context().replica_id_in_sync_group
                return encode(batch[number * rows : (number + 1) * rows])

            parts = strategy.experimental_local_results(strategy.run(of_replica))
            return tf.concat(parts, axis=0)

        return tf.function(encode if replicas == 1 else parted, autograph=False)

    return {kind: function(kind) for kind in kinds}


def snapshot(variables):
    """{name: tensor} of {name: Keras variable}, whatever becomes of the variables afterwards.

    On a CPU nothing is copied: TensorFlow copies a variable when it changes and somebody still
    holds its value. From other devices values are fetched.
    """
    with tf.device("CPU:0"):
        return {name: tf.identity(_read(v.value)) for name, v in variables.items()}


def _read(variable):
    """A variable's value now, of the first replica of this process: it needs no others for it."""
    return getattr(variable, "values", (variable,))[0].read_value()
