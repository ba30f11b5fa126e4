"""Steps to compare a step in micro-batches with; and, run by test_microbatch in a process of its
own, the gradients of two replicas: python microbatches.py OUT
"""

import sys

import numpy as np
import replicas
import tensorflow as tf

from tf_mural.backends import tensorflow as tf_backend
from tf_mural.backends.tensorflow import grad_cache

ROWS = 2  # of a micro-batch


def unrolled(trainer, rows, draws_again=False):
    """Makes the trainer encode its share in micro-batches that one tape sees all of.

    Each draws its own dropout, as the micro-batches of `passes.in_microbatches` do. With
    `draws_again` the masks are those of other micro-batches.
    """

    def encode_all(batch, weights):
        parts, count = grad_cache.split_rows(batch, rows)

        def encode(parts, _):
            found = []
            for i in range(count):
                number = i + count if draws_again else i
                tf_backend.set_seeds(trainer.generators, trainer.seed, trainer.step, number)
                found.append(trainer.encode(grad_cache.part_of(parts, i)))
            return {field: tf.concat([x[field] for x in found], axis=0) for field in found[0]}

        return grad_cache.at_once(encode, parts, weights)

    trainer._encoded = encode_all


def gradients(strategy, microbatch=None, loss_chunk=None, reference=False):
    """{name: value}: reduced gradients and logs of one global batch of ETCL, with dropout."""
    with strategy.scope():
        trainer, kinds = replicas.trainer_of("etcl", 0.3)
    trainer.microbatch, trainer.loss_chunk = microbatch, loss_chunk
    if reference:
        unrolled(trainer, ROWS)

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(trainer.gradients, args=(batch,))

    found, logs = step(replicas.shares(strategy, replicas.global_batch(kinds)))
    out = {}
    for number, (v, g) in enumerate(zip(trainer.encoder.trainable_variables, found, strict=True)):
        values = [x.numpy() for x in strategy.experimental_local_results(g)]
        assert all((x == values[0]).all() for x in values), f"replicas differ in {v.path}"
        out[f"gradient/{number:03d} {v.path}"] = values[0]
    for name, value in logs.items():
        out[f"log/{name}"] = strategy.experimental_local_results(value)[-1].numpy()
    return out


def main(path):
    replicas.set_precision("float64")
    strategy = replicas.make_strategy(2)
    runs = {
        "one tape": gradients(strategy, reference=True),
        "cached": gradients(strategy, microbatch=ROWS, loss_chunk=1),
    }
    np.savez(path, **{f"{run}/{k}": v for run, found in runs.items() for k, v in found.items()})


if __name__ == "__main__":
    main(sys.argv[1])
