"""Runs steps on two replicas: python replica_values_script.py OUT

Writes arrays for test_replica_values to the file OUT. If both replicas get the same examples, the
arrays are the embeddings of each replica with and without dropout. If the replicas get different
images, the arrays are the moving averages of the first batch norm.
"""

import dataclasses
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from helpers import replicas, trainers  # noqa: E402

ROWS = 16


def step(strategy, dropout, batch):
    """Runs `compute_gradients`; returns the trainer and {replica: embeddings (fields, n, d)}."""
    with strategy.scope():
        trainer = trainers.make_trainer("etcl", dropout=dropout)
    functions, seen = trainer.core.backend, {}

    def gather(x):
        if x.dtype.is_floating:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seen.setdefault(int(replica), []).append(x.numpy())
        return functions.gather(x)

    trainer.core.backend = dataclasses.replace(functions, gather=gather)
    replicas.compute_gradients(strategy, trainer, batch)
    # The fields are gathered in alphabetic order: image, text_a, text_b.
    return trainer, {i: np.stack(fields) for i, fields in seen.items()}


def main(path):
    strategy, arrays = replicas.make_strategy(2), {}
    part = trainers.make_batch("etcl", ROWS)
    same = tf.nest.map_structure(lambda x: np.concatenate([x, x]), part)
    for dropout in (0.0, 0.5):
        _, seen = step(strategy, dropout, same)
        arrays |= {f"dropout {dropout}/{i}": fields for i, fields in seen.items()}
    # The first replica gets dark images, and the second replica gets bright images.
    different = trainers.make_batch("etcl", 2 * ROWS)
    different["image"]["pixels"][:ROWS] //= 4
    trainer, _ = step(strategy, 0.0, different)
    arrays["pixels"] = different["image"]["pixels"]
    layers = {layer.name: layer for layer in trainer.encoder._flatten_layers()}
    arrays["stem kernel"] = layers["stem_conv"].kernel.numpy()
    norm = layers["stem_bn"]
    arrays["momentum"] = norm.momentum
    for i, value in enumerate(strategy.experimental_local_results(norm.moving_mean.value)):
        arrays[f"moving mean/{i}"] = value.numpy()
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
