"""Runs training steps on one backend: KERAS_BACKEND=jax python backend_script.py OUT

Writes the gradients of small trainers, and their logs, weights and moving averages after ten steps.
On JAX, the script also runs trainers on all devices, and trainers with options that must not change
the results. The initial weights depend only on the names of the variables, and are therefore the
same on both backends. The module test_jax runs this script in a separate process per backend.
"""

import os
import sys
import zlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from helpers import trainers  # noqa: E402

from tf_mural import optimizers  # noqa: E402
from tf_mural.backends import backend_module  # noqa: E402
from tf_mural.nonfinite import BadStepPolicy  # noqa: E402

# The vocabulary size is a multiple of 8, because test_jax shards the embeddings over 8 devices.
BATCH_SIZE, STEPS, VOCABULARY_SIZE = 16, 10, 48


def wide_ids(rng):
    """Returns ids that need more than 32 bits; some ids differ only in their upper 32 bits."""
    high, low = rng.integers(0, 3, BATCH_SIZE), rng.integers(0, 3, BATCH_SIZE)
    return high * (1 << 32) + low


def make_batch(stage, step):
    return trainers.make_batch(stage, BATCH_SIZE, step, VOCABULARY_SIZE, wide_ids)


def make_trainer(stage, strategy, **options):
    with strategy.scope():
        # With a smaller epsilon, LAMB would amplify the rounding errors of vanishing gradients.
        optimizer = optimizers.LAMB(
            1e-2,
            weight_decay=1e-2,
            epsilon=1e-3,
            exclude_from_weight_decay=("bias",),
            exclude_from_layer_adaptation=("_bn/",),
        )
        trainer = trainers.make_trainer(
            stage,
            vocabulary_size=VOCABULARY_SIZE,
            optimizer=optimizer,
            strategy=strategy,
            **options,
        )
        for variable in trainer.encoder.variables:
            assign_by_name(variable)
    return trainer


def assign_by_name(variable):
    """Assigns random values that depend only on the name of the variable."""
    if "kernel" in variable.path or "embeddings" in variable.path:
        rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
        scale = 1.0 / np.sqrt(np.prod(variable.shape[:-1]))
        if "embeddings" in variable.path:
            scale = 0.02
        variable.assign(rng.normal(0.0, scale, variable.shape).astype(np.float32))


def compute_gradients(trainer, batch):
    """Returns {path: gradient} for a global batch; the trainer's variables keep their values."""
    if keras.backend.backend() == "tensorflow":
        averages = trainer.core.moving_averages
        before = [v.numpy() for v in averages]
        gradients, _ = trainer.core.compute_gradients(trainers.to_tensors(batch))
        for variable, value in zip(averages, before, strict=True):
            variable.assign(value)
    else:
        import jax

        from tf_mural.backends.jax.step_runner import split_int64

        def stateless_gradients(values, batch):
            with keras.StatelessScope(zip(trainer.state_variables, values, strict=True)):
                return trainer.core.compute_gradients(batch)[0]

        batch = {
            field: {key: split_int64(value) for key, value in features.items()}
            for field, features in batch.items()
        }
        gradients = jax.jit(stateless_gradients)([v.value for v in trainer.state_variables], batch)
    return trainers.gradients_by_path(trainer, gradients)


def run_steps(trainer, stage, strategy, steps=STEPS, start=0):
    """Runs training steps, beginning with the batch of step `start`.

    Returns:
        Two dicts: {path: value} of the weights and moving averages after the last step, and
        {name: array (steps,)} of the logs.
    """

    def make_dataset(start_step):
        batches = [make_batch(stage, step) for step in range(start_step, start_step + steps)]
        return tf.data.Dataset.from_tensor_slices(
            {
                field: {key: np.stack([b[field][key] for b in batches]) for key in features}
                for field, features in batches[0].items()
            }
        )

    runner = backend_module().Runner(trainer, strategy, make_dataset)
    runner.start(start)
    logs = [runner.run(1) for _ in range(steps)]
    logs = {name: np.array([np.asarray(log[name])[0] for log in logs]) for name in logs[0]}
    paths = {v.path: v for v in trainer.encoder.variables if "seed_generator" not in v.path}
    return {k: np.asarray(v) for k, v in trainer.snapshot(paths).items()}, logs


def cases():
    """Returns {name of a trainer: tuple (stage, options)}.

    Options are arguments of `trainers.make_trainer`, except "steps" (number of steps to run, by
    default 0) and "devices" (whether to use all devices).
    """
    common = {
        "mural": ("mural", {"steps": STEPS}),
        "etcl": ("etcl", {"steps": STEPS}),
        "bfloat16": ("etcl", {"precision": "mixed_bfloat16"}),
        "sigmoid": ("etcl", {"loss": "sigmoid"}),
        "mixture": ("etcl", {"terms": trainers.MIXTURE}),
    }
    if keras.backend.backend() == "tensorflow":
        return common
    all_devices = {"devices": True, "steps": STEPS}
    sharded = {"shard_optimizer": True, "shard_embeddings": True}
    sharded["bad_step_policy"] = BadStepPolicy(skip=True)
    return {
        **common,
        "devices": ("etcl", all_devices),
        "sharded": ("etcl", all_devices | sharded),
        "microbatch": ("etcl", {"microbatch": 4}),
        "chunk": ("etcl", {"loss_chunk": 4}),
        "sigmoid devices": ("etcl", {"devices": True, "loss": "sigmoid"}),
        "sigmoid chunk": ("etcl", {"microbatch": 4, "loss_chunk": 4, "loss": "sigmoid"}),
        "mixture devices": ("etcl", {"devices": True, "terms": trainers.MIXTURE}),
        "mixture chunk": (
            "etcl",
            {"microbatch": 4, "loss_chunk": 4, "terms": trainers.MIXTURE},
        ),
        "dropout": ("etcl", {"dropout": 0.3}),
        "remat": ("etcl", {"dropout": 0.3, "remat": True}),
    }


def main(out):
    arrays = {}
    for name, (stage, options) in cases().items():
        options = dict(options)
        steps, devices = options.pop("steps", 0), options.pop("devices", False)
        strategy = backend_module().make_strategy("mirrored" if devices else "one")
        trainer = make_trainer(stage, strategy, **options)
        gradients = compute_gradients(trainer, make_batch(stage, 0))
        arrays |= {f"{name}/gradient/{k}": v for k, v in gradients.items()}
        if steps:
            weights, logs = run_steps(trainer, stage, strategy, steps)
            arrays |= {f"{name}/weight/{k}": v for k, v in weights.items()}
            arrays |= {f"{name}/log/{k}": v for k, v in logs.items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
