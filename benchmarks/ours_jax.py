"""The ETCL step of this package on JAX, as `loop.train` runs it there."""

from benchmarks.cases import synthetic_batch
from benchmarks.ours import config_of, trainer_of


class OursOnJax:
    """A compiled `training_jax.Trainer` on the first device, with the terms of configs/etcl.py.

    Args:
        case: `cases.Case`.
        precision, microbatch: as in configs/base.py.
    """

    def __init__(self, case, precision="mixed_bfloat16", microbatch=0):
        import os

        os.environ["KERAS_BACKEND"] = "jax"
        import jax
        import numpy as np
        import tpu_planner

        from tf_mural.backends import jax as jax_backend

        config = config_of(case)
        config.precision, config.microbatch, config.batch_size = precision, microbatch, case.batch
        strategy = jax_backend.make_strategy("one")
        self._trainer = trainer_of(config, case, strategy)
        batch = _arrays(synthetic_batch(case), np)
        self._batch = jax.device_put(batch, strategy.over(jax.sharding.PartitionSpec("data")))
        self._values = [
            jax.device_put(np.array(v.value), strategy.over(spec))
            for v, spec in zip(self._trainer.variables, self._trainer.specs, strict=True)
        ]
        traced = self._trainer.compiled_step().trace(self._values, self._batch)
        self._flops = tpu_planner.flops(traced.jaxpr)
        self._run = traced.lower().compile()

    def step(self, variant="compiled"):
        """Runs one step; returns its loss."""
        self._values, logs = self._run(self._values, self._batch)
        return float(logs["loss"])

    def describe(self):
        """{"parameters", "flops", "device", "versions"} of this side."""
        import jax
        import keras

        variables = self._trainer.encoder.trainable_variables
        return {
            "parameters": sum(v.value.size for v in variables),
            "flops": self._flops,
            "device": jax.devices()[0].device_kind,
            "versions": {"jax": jax.__version__, "keras": keras.__version__},
        }

    def matmul(self, size):
        """Multiplies two bfloat16 matrices of `size` x `size`."""
        import jax
        import jax.numpy as jnp

        if getattr(self, "_matrix", None) is None or self._matrix.shape[0] != size:
            self._matrix = jnp.ones((size, size), jnp.bfloat16)
            self._product = jax.jit(jnp.matmul)
        self._product(self._matrix, self._matrix).block_until_ready()


def _arrays(arrays, np):
    count = len(arrays["image"])
    ids = np.stack([np.arange(count), np.zeros(count)], 1).astype(np.int32)
    languages = np.zeros(count, np.int32)
    batch = {"image": {"pixels": arrays["image"], "id": ids}}
    for field in ("text_a", "text_b"):
        batch[field] = {"tokens": arrays[field], "id": ids, "language": languages}
    return batch
