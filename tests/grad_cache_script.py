"""Computes gradients of two replicas with GradCache: python grad_cache_script.py OUT

Writes the gradients and logs of a step with GradCache, and those of a step that encodes the same
micro-batches under one gradient tape. The module test_grad_cache runs this script in a separate
process.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402
from helpers import replicas, trainers  # noqa: E402
from helpers.microbatches import MICROBATCH, with_one_tape  # noqa: E402


def gradients(strategy, one_tape=False, **options):
    """Returns the gradients and logs of a step of ETCL on one global batch, with dropout."""
    with strategy.scope():
        trainer = trainers.make_trainer("etcl", 0.3, **options)
    if one_tape:
        with_one_tape(trainer, MICROBATCH)
    batch = trainers.make_batch("etcl")
    return replicas.compute_gradients(strategy, trainer, batch, graph=not one_tape)


def main(path):
    trainers.set_precision("float64")
    strategy = replicas.make_strategy(2)
    runs = {
        "one tape": gradients(strategy, one_tape=True),
        "cached": gradients(strategy, microbatch=MICROBATCH, loss_chunk=1),
    }
    arrays = {f"{run}/{name}": x for run, values in runs.items() for name, x in values.items()}
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
