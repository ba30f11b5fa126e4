"""Runs compiled training steps and compiled encoders under a `tf.distribute.Strategy`."""

import tensorflow as tf

from tf_mural.backends.tensorflow.strategy import ProcessGroup

# (callable that starts a TensorBoard profile in a folder, callable that ends the profile).
PROFILER = (tf.profiler.experimental.start, tf.profiler.experimental.stop)


class Runner:
    """Runs training steps for `training.loop.train`, under any `tf.distribute.Strategy`.

    Args:
        trainer: compiled `trainer.Trainer`, created in the scope of the strategy.
        strategy: a `tf.distribute.Strategy`.
        make_dataset: callable (start_step=) that returns the `tf.data.Dataset` of this process. The
            dataset has a batch per replica and step, and starts with the batches of `start_step`.

    Attributes:
        processes: `ProcessGroup` of the strategy.
    """

    def __init__(self, trainer, strategy, make_dataset):
        self._trainer, self._strategy, self._make_dataset = trainer, strategy, make_dataset
        self.processes, self._names = ProcessGroup(strategy), []

    @staticmethod
    def batches_per_step(replicas):
        """Returns the number of batches that a process reads from its dataset per step.

        Args:
            replicas: number of replicas of the process.
        """
        return replicas

    def start(self, step):
        """Starts reading batches, beginning with the batches of step `step`."""
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
            Logs {name: values (count,)} on the device. Reading the values waits for the steps.
        """
        if count == 1 or not self._names:
            values = _first_local(self._strategy, self._run_one(next(self._batches)))
            self._names[:] = sorted(values)
            return {k: v[tf.newaxis] for k, v in values.items()}
        return self._run_several(self._batches, tf.constant(count))


def _first_local(strategy, values):
    """Returns {name: value on the first replica of this process} from values per replica."""
    return {k: strategy.experimental_local_results(v)[0] for k, v in values.items()}


def _step_functions(trainer, strategy, names):
    """Returns the tf.functions `run_one(batch)` and `run_several(iterator, number of steps)`.

    The functions must not hold a reference to the runner. With such a cyclic reference, only
    garbage collection would destroy the iterator of the runner, and garbage collection may run in a
    reader thread of another iterator. Destroying an iterator waits for the threads of this
    iterator, which may be waiting for the reader thread: a deadlock.
    """

    # AutoGraph is disabled, as in Keras' `fit`: AutoGraph takes seconds, and no condition in a step
    # depends on a tensor.
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


def encoder_functions(encoder, towers=("image", "text"), strategy=None):
    """Returns compiled functions that encode with the weights of the encoder at call time.

    Args:
        encoder: `models.DualEncoder`.
        towers: names of the towers to compile.
        strategy: a `tf.distribute.Strategy` of this process. Each replica encodes an equal part of
            the rows of a batch. None: one device encodes all rows.

    Returns:
        {tower: callable from a batch (n, ...) to embeddings (n, d)}.
    """
    replicas = strategy.num_replicas_in_sync if strategy else 1

    def make_function(tower):
        def encode(batch):
            return encoder.encode(tower, batch, training=False)

        def encode_on_replicas(batch):
            rows = tf.shape(batch)[0] // replicas

            def encode_part():
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                return encode(batch[replica * rows : (replica + 1) * rows])

            parts = strategy.experimental_local_results(strategy.run(encode_part))
            return tf.concat(parts, axis=0)

        return tf.function(encode if replicas == 1 else encode_on_replicas, autograph=False)

    return {tower: make_function(tower) for tower in towers}


def snapshot(variables):
    """Returns the values of variables, {name: Keras variable}, as {name: tensor on the CPU}.

    Variables on the CPU are not copied here: TensorFlow copies the value of a variable when the
    variable is assigned while the value is in use. Variables on other devices are copied to the
    CPU.
    """
    with tf.device("CPU:0"):
        return {name: tf.identity(_read(v.value)) for name, v in variables.items()}


def _read(variable):
    """Returns a variable's value on the first replica of this process, without communication."""
    return getattr(variable, "values", (variable,))[0].read_value()
