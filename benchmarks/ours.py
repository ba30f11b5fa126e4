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
        import keras
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        from tf_mural import build, distribute, models
        from tf_mural.objective import Term
        from tf_mural.step import LOSS_SCALES
        from tf_mural.training import Trainer

        config = self._config(case)
        keras.utils.set_random_seed(config.seed)
        strategy = distribute.make_strategy("one")
        description = {"model": config.model.to_dict(), "vocabulary_size": case.vocabulary}
        description["precision"] = precision
        with strategy.scope():
            self.trainer = Trainer(
                models.dual_encoder(**build.model_arguments(description)),
                [Term(name=name, **fields) for name, fields in config.terms.items()],
                build.field_kinds(config),
                config.sources.triples.languages,
                seed=config.seed,
                clip_norm=config.optimizer.clip_norm or None,
                rematerialised=rematerialise,
                loss_scale=LOSS_SCALES[precision],
            )
            optimizer = self._optimizer(config)
            optimizer.build(self.trainer.encoder.trainable_variables)
            self.trainer.compile(optimizer=optimizer, jit_compile=config.jit_compile)

        @tf.function(jit_compile=self.trainer.jit_compile is True, autograph=False)
        def replicated_step(batch):
            return strategy.run(self.trainer.train_step, args=(batch,))

        self._batch, self._step = self._tensors(case), replicated_step

    @staticmethod
    def _config(case):
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

    @staticmethod
    def _optimizer(config):
        from tf_mural import optimizers

        options = config.optimizer.to_dict()
        options.pop("clip_norm")
        rate = optimizers.LinearSchedule(
            options.pop("learning_rate"), _STEPS, options.pop("warmup_steps")
        )
        return optimizers.OPTIMIZERS[options.pop("name")](rate, **options)

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

    def matmul(self, size):
        """Multiplies two float32 matrices of `size` x `size`."""
        import tensorflow as tf

        if getattr(self, "_matrix", None) is None or self._matrix.shape[0] != size:
            self._matrix = tf.random.normal([size, size])
        tf.matmul(self._matrix, self._matrix).numpy()
