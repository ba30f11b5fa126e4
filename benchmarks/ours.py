"""The ETCL step of this package, as `loop.train` runs it."""

from benchmarks.cases import DROPOUT, EMBEDDING_DIM, STOCHASTIC_DEPTH, synthetic_batch

# Where the linear schedule ends: far away, so that every step learns.
_STEPS = 1_000_000


class Ours:
    """A compiled `training.Trainer` with the terms and the optimizer of configs/etcl.py.

    Args:
        case: `cases.Case`.
        threads: of a kernel (intra-op); None is TensorFlow's own choice, all cores.
        precision, rematerialise: as in configs/base.py.
    """

    variants = ("graph",)

    def __init__(self, case, threads=None, precision="float32", rematerialise=False):
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        from tf_mural.backends import tensorflow as tf_backend

        config = config_of(case)
        config.precision, config.rematerialise = precision, rematerialise
        strategy = tf_backend.make_strategy("one")
        self.trainer = trainer_of(config, case, strategy)

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
        """{"parameters", "forward_flops", "flops", "versions", "threads"} of this side."""
        import keras
        import tensorflow as tf

        from benchmarks.flops import graph_flops

        def flops_of(function):
            return graph_flops(function.get_concrete_function(self._batch).graph)

        variables = self.trainer.encoder.trainable_variables
        return {
            "parameters": sum(v.value.shape.num_elements() for v in variables),
            "forward_flops": flops_of(tf.function(self.trainer.encode, autograph=False)),
            "flops": flops_of(self._step),
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
            "threads": tf.config.threading.get_intra_op_parallelism_threads() or "all cores",
        }

    def flops_by_type(self):
        """{type of operation: floating-point operations of a step}."""
        from benchmarks.flops import graph_flops_by_type

        return dict(graph_flops_by_type(self._step.get_concrete_function(self._batch).graph))

    def matmul(self, size):
        """Multiplies two float32 matrices of `size` x `size`."""
        import tensorflow as tf

        if getattr(self, "_matrix", None) is None or self._matrix.shape[0] != size:
            self._matrix = tf.random.normal([size, size])
        tf.matmul(self._matrix, self._matrix).numpy()


def config_of(case):
    """configs/etcl.py of the paper, with the sizes of a case."""
    from configs import etcl

    config = etcl.get_config("paper")
    image, text = config.model.image, config.model.text
    image.name, image.image_size = case.image, case.image_size
    text.name, text.max_tokens = case.text, case.tokens
    # Statistics over the whole batch, which is all that the peer's layers know.
    image.batch_norm_group = 0
    assert (image.stochastic_depth, text.dropout) == (STOCHASTIC_DEPTH, DROPOUT)
    assert config.model.embedding_dim == EMBEDDING_DIM
    return config


def trainer_of(config, case, strategy):
    """The trainer of the backend that Keras runs on."""
    import keras

    from tf_mural import experiment

    config.steps = _STEPS
    keras.utils.set_random_seed(config.seed)
    description = {"model": config.model.to_dict(), "vocabulary_size": case.vocabulary}
    description["precision"] = config.precision
    return experiment.make_trainer(config, description, config.sources.triples.languages, strategy)
