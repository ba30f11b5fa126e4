"""The ETCL step of this package on TensorFlow and on JAX, as `loop.train` runs it."""

from benchmarks.cases import DROPOUT, EMBEDDING_DIM, STOCHASTIC_DEPTH, synthetic_batch
from benchmarks.flops import graph_flops, graph_flops_by_type, multiply_matrices

# The schedule is so long that every step has a learning rate above 0.
_STEPS = 1_000_000


class TensorFlowStep:
    """A compiled trainer on TensorFlow with the terms and the optimizer of configs/etcl.py.

    Args:
        case: `cases.Case`.
        threads: intra-op and inter-op threads. Defaults to all cores.
        precision: see configs/base.py.
        remat: see configs/base.py.
        batch_norm: see configs/base.py.
    """

    variants = ("graph",)

    def __init__(self, case, threads=None, precision="float32", remat=False, batch_norm="auto"):
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        from tf_mural.backends import tensorflow as tf_backend

        config = make_config(case)
        config.precision, config.remat = precision, remat
        config.model.image.batch_norm = batch_norm
        strategy = tf_backend.make_strategy("one")
        self.trainer = make_trainer(config, case, strategy)

        @tf.function(jit_compile=self.trainer.jit_compile is True, autograph=False)
        def replicated_step(batch):
            return strategy.run(self.trainer.train_step, args=(batch,))

        self._batch, self._step = self._tensors(case), replicated_step

    @staticmethod
    def _tensors(case):
        import tensorflow as tf

        arrays = synthetic_batch(case)
        ids = tf.range(case.batch, dtype=tf.int64)
        languages = tf.zeros([case.batch], tf.int32)
        batch = {"image": {"pixels": tf.constant(arrays["image"]), "id": ids}}
        for field in ("text_a", "text_b"):
            batch[field] = {"tokens": tf.constant(arrays[field]), "id": ids, "language": languages}
        return batch

    def step(self, variant="graph"):
        """Runs one step; returns its loss."""
        return float(self._step(self._batch)["loss"])

    def describe(self):
        """Returns {"parameters", "forward_flops", "flops", "versions", "threads"}."""
        import keras
        import tensorflow as tf

        def count_flops(function):
            return graph_flops(function.get_concrete_function(self._batch).graph)

        variables = self.trainer.encoder.trainable_variables
        return {
            "parameters": sum(v.value.shape.num_elements() for v in variables),
            "forward_flops": count_flops(tf.function(self.trainer.core.encode, autograph=False)),
            "flops": count_flops(self._step),
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
            "threads": tf.config.threading.get_intra_op_parallelism_threads() or "all cores",
        }

    def flops_by_type(self):
        """Returns {type of operation: floating-point operations of a step}."""
        return dict(graph_flops_by_type(self._step.get_concrete_function(self._batch).graph))

    matmul = staticmethod(multiply_matrices)


class JaxStep:
    """A compiled trainer on the first JAX device, with terms and optimizer of configs/etcl.py.

    Args:
        case: `cases.Case`.
        precision: see configs/base.py.
        microbatch: see configs/base.py.
    """

    def __init__(self, case, precision="mixed_bfloat16", microbatch=None):
        import os
        import sys

        os.environ["KERAS_BACKEND"] = "jax"
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        sys.path.insert(0, os.path.join(root, "tools"))
        import jax
        import numpy as np
        import tpu_planner

        from tf_mural.backends import jax as jax_backend

        config = make_config(case)
        config.precision, config.microbatch, config.batch_size = precision, microbatch, case.batch
        strategy = jax_backend.make_strategy("one")
        self._trainer = make_trainer(config, case, strategy)
        batch = _jax_arrays(synthetic_batch(case), np)
        self._batch = jax.device_put(batch, strategy.sharding(jax.sharding.PartitionSpec("data")))
        self._values = [
            jax.device_put(np.array(v.value), strategy.sharding(spec))
            for v, spec in zip(self._trainer.state_variables, self._trainer.specs, strict=True)
        ]
        traced = self._trainer.compiled_step().trace(self._values, self._batch)
        self._flops = tpu_planner.count_flops(traced.jaxpr)
        self._run = traced.lower().compile()

    def step(self, variant="compiled"):
        """Runs one step; returns its loss."""
        self._values, logs = self._run(self._values, self._batch)
        return float(logs["loss"])

    def describe(self):
        """Returns {"parameters", "flops", "device", "versions"}."""
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


def _jax_arrays(arrays, np):
    # By default, JAX has no int64; therefore an id consists of two int32 numbers.
    count = len(arrays["image"])
    ids = np.stack([np.arange(count), np.zeros(count)], 1).astype(np.int32)
    languages = np.zeros(count, np.int32)
    batch = {"image": {"pixels": arrays["image"], "id": ids}}
    for field in ("text_a", "text_b"):
        batch[field] = {"tokens": arrays[field], "id": ids, "language": languages}
    return batch


def make_config(case):
    """Returns the config of configs/etcl.py at the paper's size, changed to the sizes of a case."""
    from configs import etcl

    config = etcl.get_config("paper")
    image, text = config.model.image, config.model.text
    image.backbone, image.image_size = case.image, case.image_size
    text.backbone, text.max_tokens = case.text, case.tokens
    # Batch norm uses statistics of the whole batch, because PyTorch has no virtual batches.
    image.virtual_batch_size = None
    assert (image.stochastic_depth, text.dropout) == (STOCHASTIC_DEPTH, DROPOUT)
    assert config.model.embedding_dim == EMBEDDING_DIM
    return config


def make_trainer(config, case, strategy):
    """Returns a trainer for the current backend of Keras."""
    import keras

    from tf_mural import experiment

    config.steps = _STEPS
    keras.utils.set_random_seed(config.seed)
    description = {"model": config.model.to_dict(), "vocabulary_size": case.vocabulary}
    description["precision"] = config.precision
    return experiment.make_trainer(config, description, config.sources.triples.languages, strategy)
