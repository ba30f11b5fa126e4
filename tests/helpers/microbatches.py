"""Reference for steps with GradCache: encodes all micro-batches under one gradient tape."""

import dataclasses

import tensorflow as tf

from tf_mural.backends.tensorflow import collectives, grad_cache

MICROBATCH = 2  # examples


def with_one_tape(trainer, rows, other_masks=False):
    """Makes a TensorFlow trainer encode micro-batches of its local batch under a single tape.

    A micro-batch draws the same dropout masks as in `grad_cache.encode_cached`.

    Args:
        trainer: a trainer that was created without `microbatch`.
        rows: number of examples per micro-batch.
        other_masks: whether to draw other dropout masks than `grad_cache.encode_cached`.
    """
    core = trainer.core

    def encode_full(_, batch, variables):
        parts, count = grad_cache.split_rows(batch, rows)

        def encode(parts, _):
            embeddings = []
            for i in range(count):
                index = i + count if other_masks else i
                collectives.set_seeds(core.generators, core.seed, core.step, index)
                embeddings.append(core.encode(grad_cache.slice_part(parts, i)))
            return {
                field: tf.concat([part[field] for part in embeddings], axis=0)
                for field in embeddings[0]
            }

        return grad_cache.encode_full(encode, parts, variables)

    core.backend = dataclasses.replace(core.backend, encode_full=encode_full)
