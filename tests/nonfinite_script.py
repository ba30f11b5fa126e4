"""Run by test_guard in a process of its own: python guards.py OUT

Two replicas. Writes the state of each before and after a good step, and after one whose gradients
are not finite on the last replica alone, in float32 and in mixed_float16; and the reduced gradients
and moving averages of rematerialised steps beside those of plain ones.
"""

import sys

import numpy as np
import replicas
import tensorflow as tf

from tf_mural.backends import tensorflow as tf_backend
from tf_mural.nonfinite import Limits

ROWS = 2  # of a micro-batch
CASES = {
    "skip": dict(limits=Limits(skip=True), microbatch=ROWS, loss_chunk=2),
    "float16": dict(precision="mixed_float16", loss_scale=2.0**10, rematerialised=True),
}


def poisoned(trainer):
    """Makes the last replica's gradients of one weight infinite where the returned variable is."""
    factor = tf.Variable(1.0, trainable=False)
    encoded = trainer._encoded

    def encode(batch, weights):
        embeddings, back = encoded(batch, weights)

        def worse(at_embeddings):
            context = tf.distribute.get_replica_context()
            last = context.replica_id_in_sync_group == context.num_replicas_in_sync - 1
            first, *rest = back(at_embeddings)
            return [first * tf.where(last, tf.cast(factor, first.dtype), 1), *rest]

        return embeddings, worse

    trainer._encoded = encode
    return factor


def state(strategy, trainer):
    """{"replica/path": array} of weights, averages, slots and counts."""
    optimizer = [v for v in trainer.optimizer.variables if "learning_rate" not in v.path]
    found = {}
    for variable in [*trainer.encoder.variables, *optimizer]:
        if "seed_generator" not in variable.path:
            for i, x in enumerate(strategy.experimental_local_results(variable.value)):
                found[f"{i}/{variable.path}"] = x.numpy()
    return found


def steps(strategy, **options):
    """State and logs at the start, after a good step, a bad one, and a good one again."""
    with strategy.scope():
        trainer, kinds = replicas.trainer_of("etcl", 0.3, **options)
        factor = poisoned(trainer)
    batch = replicas.shares(strategy, replicas.global_batch(kinds))

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(trainer.train_step, args=(batch,))

    out = {f"start/{name}": value for name, value in state(strategy, trainer).items()}
    for when, value in (("good", 1.0), ("bad", np.inf), ("again", 1.0)):
        factor.assign(value)
        logs = step(batch)
        out |= {f"{when}/{name}": x for name, x in state(strategy, trainer).items()}
        for name, value in logs.items():
            for i, x in enumerate(strategy.experimental_local_results(value)):
                out[f"{when}/{i}/log {name}"] = x.numpy()
        out[f"{when}/0/step"] = trainer.step.numpy()
    return out


def gradients(strategy, **options):
    """Reduced gradients, and each replica's moving averages, averaged."""
    with strategy.scope():
        trainer, kinds = replicas.trainer_of("etcl", 0.3, **options)

    def one(batch):
        found, _ = trainer.gradients(batch)
        tf_backend.average(trainer.moving_averages)
        return found

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(one, args=(batch,))

    found = step(replicas.shares(strategy, replicas.global_batch(kinds)))
    local = strategy.experimental_local_results
    variables = trainer.encoder.trainable_variables
    out = {v.path: local(g)[0].numpy() for v, g in zip(variables, found, strict=True)}
    return out | {v.path: v.numpy() for v in trainer.moving_averages}


def main(path):
    strategy, out = replicas.make_strategy(2), {}
    for name, options in CASES.items():
        out |= {f"{name}/{k}": v for k, v in steps(strategy, **options).items()}
    replicas.set_precision("float64")
    for name, again in (("kept", False), ("computed again", True)):
        found = gradients(strategy, microbatch=ROWS, rematerialised=again)
        out |= {f"{name}/{k}": v for k, v in found.items()}
    np.savez(path, **out)


if __name__ == "__main__":
    main(sys.argv[1])
