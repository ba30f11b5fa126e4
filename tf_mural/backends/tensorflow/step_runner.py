"""Runs the compiled steps and encoders of a model under a strategy."""

import tensorflow as tf

from tf_mural.backends.tensorflow.strategy import ProcessGroup

# (callable that starts a profile for TensorBoard in a folder, callable that ends it).
PROFILER = (tf.profiler.experimental.start, tf.profiler.experimental.stop)


class Runner:
    """Runs training steps for `training.loop.train`, under any `tf.distribute.Strategy`.

    Args:
        trainer: compiled `trainer.Trainer`, created in the scope of the strategy.
        strategy: a `tf.distribute.Strategy`.
        make_dataset: callable (start_step=) that returns the `tf.data.Dataset` of this process,
            with a batch per replica and step.

    Attributes:
        processes: `ProcessGroup` of the strategy.
    """

    def __init__(self, trainer, strategy, make_dataset):
        self._trainer, self._strategy, self._make_dataset = trainer, strategy, make_dataset
        self.processes, self._names = ProcessGroup(strategy), []

    @staticmethod
    def batches_per_step(replicas):
        """Number of batches per step of the dataset of a process.

        Args:
            replicas: number of replicas of the process.
        """
        return replicas

    def start(self, step):
        """Starts reading the batches, from those of a step."""
        make_dataset = self._make_dataset
        self._batches = iter(
            self._strategy.distribute_datasets_from_function(
                lambda _: make_dataset(start_step=step)
            )
        )
        self._run_one, self._run_several = _step_functions(
            self._trainer, self._strategy, self._names
        )

    def run(self, count):
        """Runs `count` steps.

        Returns:
            {name: values (count,)} on the device. Reading them waits for the steps.
        """
        if count == 1 or not self._names:
            values = _first_local(self._strategy, self._run_one(next(self._batches)))
            self._names[:] = sorted(values)
            return {k: v[tf.newaxis] for k, v in values.items()}
        return self._run_several(self._batches, tf.constant(count))


def _first_local(strategy, values):
    """{name: value of the first replica of this process}."""
    return {k: strategy.experimental_local_results(v)[0] for k, v in values.items()}


def _step_functions(trainer, strategy, names):
    """Two tf.functions: one step of a batch, and several steps of an iterator.

    They have no reference to the runner, so that its iterator is destroyed together with it.
    Otherwise garbage collection might destroy it in a reader thread of another iterator, which
    would then wait for threads that may be waiting for it.
    """

    # Without AutoGraph, as in Keras' `fit`: it takes seconds, and no condition depends on a tensor.
    @tf.function(jit_compile=trainer.jit_compile is True, autograph=False)
    def run_one(batch):
        return strategy.run(trainer.train_step, args=(batch,))

    @tf.function(autograph=False)
    def run_several(batches, count):
        logs = {k: tf.TensorArray(tf.float32, count, element_shape=()) for k in names}

        def body(i, logs):
            values = _first_local(strategy, run_one(next(batches)))
            return i + 1, {k: logs[k].write(i, tf.cast(v, tf.float32)) for k, v in values.items()}

        _, logs = tf.while_loop(lambda i, _: i < count, body, (0, logs), parallel_iterations=1)
        return {k: array.stack() for k, array in logs.items()}

    return run_one, run_several


def encoder_functions(encoder, modalities=("image", "text"), strategy=None):
    """Returns compiled encoders that use the current weights.

    Args:
        encoder: `models.DualEncoder`.
        modalities: of its towers.
        strategy: a `tf.distribute.Strategy` of this process. Its replicas each encode an equal part
            of the rows of a batch. None: one device.

    Returns:
        {modality: callable from a batch (n, ...) to embeddings (n, d)}.
    """
    replicas = strategy.num_replicas_in_sync if strategy else 1

    def make_function(modality):
        def encode(batch):
            return encoder.encode(modality, batch, training=False)

        def encode_on_replicas(batch):
            rows = tf.shape(batch)[0] // replicas

            def encode_part():
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                return encode(batch[replica * rows : (replica + 1) * rows])

            parts = strategy.experimental_local_results(strategy.run(encode_part))
            return tf.concat(parts, axis=0)

        return tf.function(encode if replicas == 1 else encode_on_replicas, autograph=False)

    return {modality: make_function(modality) for modality in modalities}


def snapshot(variables):
    """Returns {name: tensor} of {name: Keras variable}, the values that the variables have now.

    On a CPU nothing is copied: TensorFlow copies a variable when it changes while its value is in
    use. From other devices the values are fetched.
    """
    with tf.device("CPU:0"):
        return {name: tf.identity(_read(v.value)) for name, v in variables.items()}


def _read(variable):
    """The current value on the first replica of this process; needs no communication."""
    return getattr(variable, "values", (variable,))[0].read_value()
