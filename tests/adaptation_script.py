"""Runs steps of adapted towers: KERAS_BACKEND=jax python adaptation_script.py REPLICAS OUT

Writes the gradients (summed over replicas) of towers of which the last layers or adapters are
trained, for one global batch. With one replica, the script also writes the weights after a run, and
after a run that is stopped and resumed by a trainer with other initial weights. The module
test_adaptation_runs runs this script in a separate process per backend and number of replicas.
"""

import os
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import backend_script  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from helpers import replicas, trainers  # noqa: E402

from tf_mural.backends import backend_module  # noqa: E402
from tf_mural.training import checkpoints  # noqa: E402

CASES = {
    "last": {"image": "last:1", "text": "last:1"},
    "adapters": {"image": "frozen", "text": "lora:2"},
}
STEPS, STOP = 4, 2


def compute_gradients(case, strategy, **options):
    """Returns {path: gradient} of a step on a global batch."""
    trainer = backend_script.make_trainer("etcl", strategy, adapt=CASES[case], **options)
    batch = backend_script.make_batch("etcl", 0)
    if keras.backend.backend() == "jax":
        return backend_script.compute_gradients(trainer, batch)
    arrays = replicas.compute_gradients(strategy, trainer, batch, graph=True)
    prefix = "gradient/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def train(strategy, trainer, start, end):
    """Runs the steps from `start` to `end`; returns {path: value} of all weights and slots."""
    for step in range(start, end):
        backend_script.run_steps(trainer, "etcl", strategy, steps=1, start=step)
    weights = trainers.weights_of(trainer)
    slots = enumerate(trainer.optimizer.variables)
    return weights | {f"slot {i}": np.array(v.numpy()) for i, v in slots}


def resume(strategy):
    """Returns the weights and slots of an uninterrupted run, and of a resumed run."""

    def make_trainer():
        return backend_script.make_trainer("etcl", strategy, dropout=0.3, adapt=CASES["adapters"])

    expected = train(strategy, make_trainer(), 0, STEPS)
    description = {"vocabulary_hash": "hash"}
    with tempfile.TemporaryDirectory() as folder:
        first = make_trainer()
        with checkpoints.CheckpointManager(folder, first) as manager:
            manager.restore(description)
            train(strategy, first, 0, STOP)
            manager.save(STOP)
        second = make_trainer()
        for variable in second.encoder.variables:
            if "seed_generator" not in variable.path:
                variable.assign(variable.numpy() + np.asarray(1, variable.dtype))
        assert checkpoints.CheckpointManager(folder, second).restore(description)
        return expected, train(strategy, second, STOP, STEPS)


def main(count, out):
    arrays, is_jax = {}, keras.backend.backend() == "jax"
    if is_jax:
        strategy = backend_module().make_strategy("mirrored" if count > 1 else "one")
    else:
        strategy = replicas.make_strategy(count)
    options = {name: {} for name in CASES}
    if is_jax and count == 1:
        options["adapters in micro-batches"] = {"microbatch": 4, "remat": True}
        options["last in micro-batches"] = {"microbatch": 4, "remat": True}
    elif is_jax:
        options["adapters of a sharded state"] = {"shard_optimizer": True, "shard_embeddings": True}
    for name, changes in options.items():
        gradients = compute_gradients(name.split()[0], strategy, **changes)
        arrays |= {f"{name}/gradient/{k}": v for k, v in gradients.items()}
    if count == 1:
        expected, resumed = resume(strategy)
        arrays |= {f"expected/{k}": v for k, v in expected.items()}
        arrays |= {f"resumed/{k}": v for k, v in resumed.items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
