"""Runs training steps on several replicas, and runs scripts in separate processes.

A process can create only one `MirroredStrategy`. Therefore, tests run a script in a separate
process for each number of replicas.
"""

import os
import subprocess
import sys

import numpy as np
import tensorflow as tf

from tf_mural.backends import tensorflow as tf_backend

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def make_strategy(num_replicas):
    """Creates a strategy with `num_replicas` logical CPUs."""
    if num_replicas == 1:
        return tf_backend.make_strategy("one")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_replicas
    )
    return tf_backend.make_strategy("mirrored")


def split_batch(strategy, batch):
    """Divides the rows of a global batch of arrays among the replicas of a strategy."""

    def local_batch(context):
        replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync

        def part(x):
            rows = len(x) // replicas
            return tf.constant(x[replica * rows : (replica + 1) * rows])

        return tf.nest.map_structure(part, batch)

    return strategy.experimental_distribute_values_from_function(local_batch)


def compute_gradients(strategy, trainer, batch, graph=False):
    """Computes the gradients and logs of a global batch, summed over replicas.

    Args:
        strategy: the strategy in whose scope the trainer was created.
        trainer: a trainer on TensorFlow.
        batch: nested structure of arrays, the global batch.
        graph: whether the step runs as a graph, as in training, instead of eagerly. Tracing a graph
            takes longer than an eager step.

    Returns:
        {name: array}: "gradient/<path>", "log/<name>", and "average of <replica>/<path>", the
        moving averages of every replica.
    """

    def run(batch):
        return strategy.run(trainer.core.compute_gradients, args=(batch,))

    run = tf.function(run, autograph=False) if graph else run
    gradients, logs = run(split_batch(strategy, batch))
    local_values, arrays = strategy.experimental_local_results, {}
    for variable, gradient in zip(trainer.encoder.trainable_variables, gradients, strict=True):
        values = [x.numpy() for x in local_values(gradient)]
        assert all((x == values[0]).all() for x in values), f"replicas differ in {variable.path}"
        assert f"gradient/{variable.path}" not in arrays, f"two variables {variable.path}"
        arrays[f"gradient/{variable.path}"] = values[0]
    for name, value in logs.items():
        arrays[f"log/{name}"] = local_values(value)[-1].numpy()
    for variable in trainer.core.moving_averages:
        for replica, value in enumerate(local_values(variable.value)):
            arrays[f"average of {replica}/{variable.path}"] = value.numpy()
    return arrays


def run_script(script, *arguments, out):
    """Runs a script of the folder tests in a separate process.

    Args:
        script: file name of the script.
        *arguments: command-line arguments of the script.
        out: path of the .npz file that the script writes; passed as its last argument.

    Returns:
        {name: array}, the contents of `out`.
    """
    command = [sys.executable, os.path.join(TESTS, script), *map(str, arguments), str(out)]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-2000:]
    with np.load(out) as file:
        return {name: file[name] for name in file.files}
