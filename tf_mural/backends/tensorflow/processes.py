"""Between the steps: how TensorFlow moves arrays between the processes of a run."""

import functools

import tensorflow as tf

from tf_mural import distributed


class Processes(distributed.Processes):
    """The processes of a `tf.distribute.Strategy`; of all strategies but one there is a single one.

    Args:
        strategy: a `tf.distribute.Strategy`.
    """

    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
    )

    def __init__(self, strategy):
        self._strategy, number, count = strategy, 0, 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            number, count = resolver.task_id, resolver.cluster_spec().num_tasks("worker")
        super().__init__(number, count)

    def _gathered(self, part):
        rows = self._strategy.experimental_local_results(self._all(tf.constant(part)))[0].numpy()
        # Each replica of a process brings the same rows.
        return rows.reshape(self.count, -1, *part.shape)[:, 0]

    @functools.cached_property
    def _all(self):
        def one(x):
            # A copy, made on the replica's device: what is handed in has none.
            return tf.distribute.get_replica_context().all_gather(tf.identity(x), axis=0)

        def of_all(x):
            return self._strategy.run(one, args=(x,))

        return tf.function(of_all, autograph=False, reduce_retracing=True)
