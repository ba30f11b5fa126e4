"""Runs steps with non-finite gradients on two replicas: python nonfinite_script.py OUT

Runs a good step, a bad step and another good step, in float32 and in mixed_float16. The gradients
of the bad step are infinite on the last replica only. The script writes the state of each replica
before the first step and after every step. The script also writes the gradients and moving averages
of two steps, one with and one without gradient checkpointing. The module test_nonfinite runs this
script in a separate process.
"""

import dataclasses
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from helpers import replicas, trainers  # noqa: E402

from tf_mural.nonfinite import BadStepPolicy  # noqa: E402

MICROBATCH = 2  # examples
CASES = {
    "skip": dict(bad_step_policy=BadStepPolicy(skip=True), microbatch=MICROBATCH, loss_chunk=2),
    "float16": dict(precision="mixed_float16", loss_scale=2.0**10, remat=True),
}


def multiply_last_replica(trainer):
    """Makes the last replica multiply its gradient of one weight by the returned variable."""
    factor = tf.Variable(1.0, trainable=False)
    functions = trainer.core.backend

    def reduce_gradients(gradients, variables):
        context = tf.distribute.get_replica_context()
        is_last = context.replica_id_in_sync_group == context.num_replicas_in_sync - 1
        first, *others = gradients
        first *= tf.where(is_last, tf.cast(factor, first.dtype), 1)
        return functions.reduce_gradients([first, *others], variables)

    trainer.core.backend = dataclasses.replace(functions, reduce_gradients=reduce_gradients)
    return factor


def state(strategy, trainer):
    """Returns {"<replica>/<path>": array} of weights, moving averages, slots and counters."""
    optimizer = [v for v in trainer.optimizer.variables if "learning_rate" not in v.path]
    arrays = {}
    for variable in [*trainer.encoder.variables, *optimizer]:
        if "seed_generator" not in variable.path:
            for i, x in enumerate(strategy.experimental_local_results(variable.value)):
                arrays[f"{i}/{variable.path}"] = x.numpy()
    return arrays


def run_steps(strategy, **options):
    """Runs a good, a bad and a good step; returns the states and logs.

    The names of the returned arrays start with "start", "good", "bad" and "again".
    """
    with strategy.scope():
        trainer = trainers.make_trainer("etcl", 0.3, **options)
        factor = multiply_last_replica(trainer)
    batch = replicas.split_batch(strategy, trainers.make_batch("etcl"))

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(trainer.train_step, args=(batch,))

    arrays = {f"start/{name}": value for name, value in state(strategy, trainer).items()}
    for when, value in (("good", 1.0), ("bad", np.inf), ("again", 1.0)):
        factor.assign(value)
        logs = step(batch)
        arrays |= {f"{when}/{name}": x for name, x in state(strategy, trainer).items()}
        for name, value in logs.items():
            for i, x in enumerate(strategy.experimental_local_results(value)):
                arrays[f"{when}/{i}/log {name}"] = x.numpy()
        arrays[f"{when}/0/step"] = trainer.step.numpy()
    return arrays


def gradients(strategy, **options):
    """Returns gradients, and the moving averages of each replica, of a step in micro-batches."""
    with strategy.scope():
        trainer = trainers.make_trainer("etcl", 0.3, microbatch=MICROBATCH, **options)
    arrays = replicas.compute_gradients(strategy, trainer, trainers.make_batch("etcl"))
    return {name: x for name, x in arrays.items() if not name.startswith("log/")}


def main(path):
    strategy, arrays = replicas.make_strategy(2), {}
    for name, options in CASES.items():
        arrays |= {f"{name}/{k}": v for k, v in run_steps(strategy, **options).items()}
    trainers.set_precision("float64")
    for name, remat in (("plain", False), ("remat", True)):
        arrays |= {f"{name}/{k}": v for k, v in gradients(strategy, remat=remat).items()}
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
