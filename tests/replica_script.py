"""Runs training steps on several replicas: python replica_script.py REPLICAS OUT

Writes the gradients (summed over replicas), logs and moving averages of a step on one global batch,
in float64 and float32. With two replicas, the script also writes the gradients, logs and moving
averages of each faulty step in `MUTATIONS`. Further outputs are the dropout masks of each replica,
and the weights after a run on records that is interrupted and resumed. The module test_replicas
runs this script in a separate process per number of replicas.
"""

import dataclasses
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from helpers import replicas, trainers  # noqa: E402
from helpers.color_records import color_dataset  # noqa: E402

from tf_mural import models  # noqa: E402
from tf_mural.backends import tensorflow as tf_backend  # noqa: E402
from tf_mural.backends.tensorflow import collectives  # noqa: E402
from tf_mural.training import checkpoints, loop, metric_writer  # noqa: E402


def gather_without_gradient(functions):
    def gather(x):
        return tf.stop_gradient(functions.gather(x))

    return dataclasses.replace(functions, gather=gather)


def mean_over_local_batch(functions):
    """Makes the loss a mean over the local batch of a replica instead of the global batch."""

    def objective_and_gradients(*arguments):
        count = tf.distribute.get_replica_context().num_replicas_in_sync
        logs, *gradients = functions.objective_and_gradients(*arguments)
        return logs, *tf.nest.map_structure(lambda g: count * g, gradients)

    return dataclasses.replace(functions, objective_and_gradients=objective_and_gradients)


def scatter_and_sum(functions):
    """Replaces `gather` by a sum over replicas of rows that are padded with zeros, as in SimCLR."""

    def gather(x):
        context = tf.distribute.get_replica_context()
        count, replica = context.num_replicas_in_sync, context.replica_id_in_sync_group
        rows = tf.scatter_nd([[replica]], x[tf.newaxis], (count, *x.shape))
        rows = context.all_reduce(tf.distribute.ReduceOp.SUM, rows)
        return tf.reshape(rows, (count * x.shape[0], *x.shape[1:]))

    return dataclasses.replace(functions, gather=gather)


def without_sync(functions):
    """Disables the averaging of the moving averages over replicas."""
    return dataclasses.replace(functions, sync_moving_averages=lambda variables: None)


MUTATIONS = {
    "gather without gradient": gather_without_gradient,
    "no division by the replicas": mean_over_local_batch,
}


def mean_in_forward_pass_only(tensors):
    # Batch norm averages one tensor over replicas in the forward pass, and two tensors in the
    # backward pass.
    return collectives.all_reduce_mean(tensors) if len(tensors) == 1 else list(tensors)


def gradients(strategy, stage, change=without_sync, graph=False, **options):
    """Returns gradients, logs and moving averages, see `helpers.replicas.compute_gradients`.

    Args:
        strategy: the strategy under which the trainer is created and the step runs.
        stage: "mural" or "etcl".
        change: callable that maps the `BackendFunctions` of the trainer to their replacement.
        graph: see `helpers.replicas.compute_gradients`.
        **options: further arguments of `trainers.make_trainer`.
    """
    with strategy.scope():
        trainer = trainers.make_trainer(stage, **options)
    trainer.core.backend = change(trainer.core.backend)
    return replicas.compute_gradients(strategy, trainer, trainers.make_batch(stage), graph)


def dropout_masks(strategy, trainer, step):
    """Returns the dropout masks of all replicas at a step, an array (replicas, draws)."""
    generators, seed = trainer.core.generators, trainer.core.seed

    @tf.function
    def draw():
        def draw_on_replica():
            collectives.set_seeds(generators, seed, step)
            return keras.random.dropout(tf.ones((64,)), 0.5, seed=generators[0])

        return strategy.run(draw_on_replica)

    return np.stack([x.numpy() for x in strategy.experimental_local_results(draw())])


def train_in_two_parts(strategy, folder):
    """Trains ETCL on records for two steps, resumes for two steps, and returns the weights."""
    make_dataset = color_dataset(folder, strategy.num_replicas_in_sync)
    workdir = os.path.join(folder, f"run{strategy.num_replicas_in_sync}")
    for last_step in (2, 4):
        with strategy.scope():
            trainer = trainers.make_trainer("etcl")
            # The optimizer is SGD. With LAMB, the trust ratio would hide an error such as summing
            # the gradients over replicas twice.
            trainer.compile(optimizer=keras.optimizers.SGD(0.1))
        manager = checkpoints.CheckpointManager(workdir, trainer)
        assert manager.restore({"vocabulary_hash": "x"}) == (last_step == 4)
        log = metric_writer.MetricWriter(
            os.path.join(workdir, "tensorboard"), trainers.BATCH_SIZE, print_fn=lambda line: None
        )
        runner = tf_backend.Runner(trainer, strategy, make_dataset)
        loop.train(trainer, runner, last_step, manager, log)
    return trainers.weights_of(trainer)


def main(num_replicas, path):
    strategy, arrays = replicas.make_strategy(num_replicas), {}

    def keep(prefix, values):
        arrays.update({f"{prefix}/{name}": value for name, value in values.items()})

    synchronized = {"virtual_batch_size": models.ALL_REPLICAS}
    trainers.set_precision("float64")
    for stage in trainers.MODALITIES:
        keep(f"float64/{stage}", gradients(strategy, stage, graph=stage == "etcl"))
    keep("float64/sigmoid", gradients(strategy, "etcl", loss="sigmoid"))
    keep("float64/mixture", gradients(strategy, "etcl", terms=trainers.MIXTURE))
    keep("synchronized", gradients(strategy, "etcl", **synchronized))
    if num_replicas == 2:
        options = {**synchronized, "all_reduce_mean": mean_in_forward_pass_only}
        keep("synchronized forward only", gradients(strategy, "etcl", **options))
        keep("scattered", gradients(strategy, "etcl", scatter_and_sum))
    trainers.set_precision("float32")
    if num_replicas <= 2:
        keep("float32/etcl", gradients(strategy, "etcl"))
    for name, change in MUTATIONS.items() if num_replicas == 2 else ():
        keep(name, gradients(strategy, "etcl", change))
    with strategy.scope():
        trainer = trainers.make_trainer("etcl", dropout=0.5)
    steps = (3, 4, 3)
    arrays["masks"] = np.stack([dropout_masks(strategy, trainer, step) for step in steps])
    if num_replicas <= 2:
        keep("loop", train_in_two_parts(strategy, path.removesuffix(".npz")))
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
