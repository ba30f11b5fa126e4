"""Run by test_jax in processes of their own: python backend_steps.py OUT

Writes gradients, logs, and weights and moving averages after some steps, of small trainers on the
backend that KERAS_BACKEND names; on JAX over one and all devices, and in every way that is to
change nothing. The weights to start from are drawn by the names of the variables.
"""

import os
import sys
import zlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tf_mural import experiment, models, optimizers  # noqa: E402
from tf_mural.nonfinite import Limits  # noqa: E402
from tf_mural.objective import Term  # noqa: E402

# Towers that compile quickly.
models.EFFICIENTNETS["test"] = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [2, 1],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
    "stackwise_block_types": ["v1", "v1"],
    "stackwise_width_coefficients": [1.0, 1.0],
    "stackwise_depth_coefficients": [1.0, 1.0],
}
models.BERTS["test"] = (1, 16, 2)

ROWS, STEPS, LANGUAGES = 16, 10, ("de", "en")
STAGES = {
    "mural": (
        {"image": "image", "caption": "text", "source": "text", "target": "text"},
        [("image", "caption", 1 / 2), ("source", "target", 1 / 2)],
    ),
    "etcl": (
        {"image": "image", "text_a": "text", "text_b": "text"},
        [("image", "text_a", 1 / 3), ("text_a", "text_b", 1 / 3), ("text_b", "image", 1 / 3)],
    ),
}


def batch_of(step, kinds):
    """A global batch, with ids beyond 32 bits, some of which are alike in their lower half."""
    rng, batch = np.random.default_rng(step), {}
    for field, kind in kinds.items():
        batch[field] = {"id": rng.integers(0, 3, ROWS) * (1 << 32) + rng.integers(0, 3, ROWS)}
        if kind == "image":
            batch[field]["pixels"] = rng.integers(0, 256, (ROWS, 32, 32, 3)).astype(np.uint8)
        else:
            tokens = rng.integers(5, 48, (ROWS, 6))
            tokens[:, 4:] = 0
            batch[field]["tokens"] = tokens.astype(np.int32)
            batch[field]["language"] = rng.integers(0, 2, ROWS).astype(np.int32)
    return batch


def trainer_of(stage, strategy, group=2, dropout=0.0, precision=None, **options):
    distribute, training = experiment.rooms()
    kinds, terms = STAGES[stage]
    with strategy.scope():
        encoder = models.dual_encoder(
            dict(name="test", image_size=32, stochastic_depth=dropout, virtual_batch_size=group),
            dict(name="test", vocabulary_size=48, max_tokens=6, dropout=dropout),
            embedding_dim=16,
            temperatures={"shared": 0.2},
            all_reduce_mean=distribute.mean,
            precision=precision,
        )
        for variable in encoder.variables:
            _draw(variable)
        terms = [
            Term(f"{x}_{y}", x, y, weight, margin=0.3, label_smoothing=0.1, mask_duplicates=True)
            for x, y, weight in terms
        ]
        trainer = training.Trainer(
            encoder, terms, kinds, LANGUAGES, seed=5, strategy=strategy, **options
        )
        # Of a smaller epsilon LAMB makes whole steps of the rounding that some gradients are.
        optimizer = optimizers.Lamb(
            1e-2,
            decay=1e-2,
            epsilon=1e-3,
            exclude_from_decay=("bias",),
            exclude_from_adaptation=("_bn/",),
        )
        optimizer.build(encoder.trainable_variables)
        trainer.compile(optimizer=optimizer)
    return trainer, kinds


def _draw(variable):
    if "kernel" in variable.path or "embeddings" in variable.path:
        rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
        scale = 1.0 / np.sqrt(np.prod(variable.shape[:-1]))
        if "embeddings" in variable.path:
            scale = 0.02
        variable.assign(rng.normal(0.0, scale, variable.shape).astype(np.float32))


def gradients_of(trainer, batch):
    """{path: gradient} of a global batch."""
    if keras.backend.backend() == "tensorflow":
        before = [v.numpy() for v in trainer.moving_averages]
        found, _ = trainer.gradients(tf.nest.map_structure(tf.constant, batch))
        for variable, value in zip(trainer.moving_averages, before, strict=True):
            variable.assign(value)
    else:
        import jax

        from tf_mural.backends.jax.step_runner import _in_32_bits

        def gradients(values, batch):
            with keras.StatelessScope(zip(trainer.variables, values, strict=True)):
                return trainer.gradients(batch)[0]

        batch = {f: {k: _in_32_bits(v) for k, v in of.items()} for f, of in batch.items()}
        found = jax.jit(gradients)([v.value for v in trainer.variables], batch)
    variables = trainer.encoder.trainable_variables
    return {v.path: np.asarray(g) for v, g in zip(variables, found, strict=True)}


def weights_after(trainer, kinds, strategy, steps=STEPS):
    """{path: value} of weights and moving averages after some steps, and {log: values}."""
    distribute, _ = experiment.rooms()

    def make_dataset(start_step):
        batches = [batch_of(step, kinds) for step in range(start_step, start_step + steps)]
        return tf.data.Dataset.from_tensor_slices(
            {
                f: {k: np.stack([b[f][k] for b in batches]) for k in of}
                for f, of in batches[0].items()
            }
        )

    runner = distribute.Runner(trainer, strategy, make_dataset)
    runner.start(0)
    logs = [runner.run(1) for _ in range(steps)]
    logs = {name: np.array([np.asarray(log[name])[0] for log in logs]) for name in logs[0]}
    paths = {v.path: v for v in trainer.encoder.variables if "seed_generator" not in v.path}
    return {k: np.asarray(v) for k, v in trainer.snapshot(paths).items()}, logs


def cases():
    """{name: (stage, options of the trainer)}; with "steps", steps are taken too."""
    found = {"mural": ("mural", {"steps": STEPS}), "etcl": ("etcl", {"steps": STEPS})}
    found["bfloat16"] = ("etcl", {"precision": "mixed_bfloat16"})
    if keras.backend.backend() == "tensorflow":
        return found
    everywhere = {"devices": True}
    sharded = {"shard_optimizer": True, "shard_embeddings": True, "limits": Limits(skip=True)}
    return {
        **found,
        "devices": ("etcl", everywhere | {"steps": STEPS}),
        "sharded": ("etcl", everywhere | sharded | {"steps": STEPS}),
        "microbatch": ("etcl", {"microbatch": 4}),
        "chunk": ("etcl", {"loss_chunk": 4}),
        "dropout": ("etcl", {"dropout": 0.3}),
        "rematerialised": ("etcl", {"dropout": 0.3, "rematerialised": True}),
    }


def main(out):
    distribute, _ = experiment.rooms()
    arrays = {}
    for name, (stage, options) in cases().items():
        options = dict(options)
        steps = options.pop("steps", 0)
        strategy = distribute.make_strategy("mirrored" if options.pop("devices", False) else "one")
        trainer, kinds = trainer_of(stage, strategy, **options)
        found = gradients_of(trainer, batch_of(0, kinds))
        arrays |= {f"{name}/gradient/{k}": v for k, v in found.items()}
        if steps:
            found, logs = weights_after(trainer, kinds, strategy, steps)
            arrays |= {f"{name}/weight/{k}": v for k, v in found.items()}
            arrays |= {f"{name}/log/{k}": v for k, v in logs.items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
