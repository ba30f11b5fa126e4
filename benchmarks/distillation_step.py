"""Steps and runs that distil a teacher's stored vectors into the text tower of the paper."""

import dataclasses
import os

from benchmarks.cases import DROPOUT, EMBEDDING_DIM, synthetic_batch
from benchmarks.flops import graph_flops, multiply_matrices

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 2e-5, 0.01, 1.0
_FIELDS = {"text": "text", "teacher": "teacher"}


def make_trainer(optimizer, vocabulary, bert, tokens, width, image=None):
    """Returns a compiled trainer with the term `distil` in the form "mse".

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        vocabulary: number of token embeddings.
        bert: a key of `models.BERTS`.
        tokens: tokens per text.
        width: width of the teacher's vectors.
        image: image tower, a `keras.Model`, which is frozen; or None.
    """
    import tf_mural

    model = tf_mural.DualEncoder(
        image_encoder=image,
        text_encoder=tf_mural.models.text_tower(vocabulary, bert, tokens, width, DROPOUT),
        towers={"teacher": tf_mural.VectorsEncoder(width, vectors="teacher")},
        adapt={"image": "frozen"} if image else {},
    )
    term = tf_mural.Term("distil", "text", "teacher", 1.0, "distil", {"form": "mse"})
    trainer = tf_mural.Trainer(model, [term], _FIELDS)
    trainer.compile(optimizer=optimizer)
    return trainer


class TextOnlyStep:
    """A compiled distillation step of the towers of a case, with one text per row and LAMB.

    Args:
        case: `cases.Case`; `batch` is the number of rows.
    """

    def __init__(self, case):
        import keras
        import numpy as np
        import tensorflow as tf

        import tf_mural

        keras.utils.set_random_seed(0)
        image = tf_mural.models.image_tower(case.image, case.image_size, EMBEDDING_DIM)
        lamb = tf_mural.optimizers.LAMB(1e-4, weight_decay=1e-5)
        sizes = case.vocabulary, case.text, case.tokens, EMBEDDING_DIM
        trainer = make_trainer(lamb, *sizes, image)
        tokens = synthetic_batch(dataclasses.replace(case, image_size=1))["text_a"]
        ids = tf.range(case.batch, dtype=tf.int64)
        targets = np.random.default_rng(0).normal(size=(case.batch, EMBEDDING_DIM))
        languages = tf.zeros([case.batch], tf.int32)
        self._batch = {
            "text": {"tokens": tf.constant(tokens), "id": ids, "language": languages},
            "teacher": {"vectors": tf.constant(targets, tf.float32), "id": ids},
        }
        self._step = tf.function(trainer.train_step, autograph=False)

    def step(self):
        """Runs one step; returns its loss."""
        return float(self._step(self._batch)["loss"])


class DistillationRun:
    """Training of a student on a record set, from records to weights, as tools/train.py trains it.

    Args:
        folder: folder of the record set `records` and of the file vocab.txt.
        bert: a key of `models.BERTS`.
        tokens: tokens per text.
        batch: texts per step.
        width: width of the teacher's vectors.
        threads: intra-op threads. None: all cores.
    """

    def __init__(self, folder, bert, tokens, batch, width, threads=None):
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        import keras

        import tf_mural
        from tf_mural.backends import tensorflow as tf_backend

        keras.utils.set_random_seed(0)
        tokenizer = tf_mural.data.open_tokenizer(os.path.join(folder, "vocab.txt"), tokens)
        optimizer = tf_mural.optimizers.AdamW(
            LEARNING_RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM
        )
        self._trainer = make_trainer(optimizer, tokenizer.size, bert, tokens, width)

        def make_dataset(start_step):
            return tf_mural.data.training_dataset(
                os.path.join(folder, "records"),
                self._trainer,
                batch,
                tokenizer=tokenizer,
                start_step=start_step,
            )

        strategy = tf_backend.make_strategy("one")
        self._runner = tf_backend.Runner(self._trainer, strategy, make_dataset)
        self._runner.start(0)
        self._spec = make_dataset(0).element_spec

    def describe(self):
        """Returns {"parameters", "flops", "versions", "threads"}; `flops` is that of a step."""
        import keras
        import tensorflow as tf

        step = tf.function(self._trainer.train_step, autograph=False)
        scalars = {id(v) for v in self._trainer.encoder.scalar_variables}
        weights = [v for v in self._trainer.encoder.trainable_variables if id(v) not in scalars]
        return {
            "parameters": sum(v.value.shape.num_elements() for v in weights),
            "flops": graph_flops(step.get_concrete_function(self._spec).graph),
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
            "threads": tf.config.threading.get_intra_op_parallelism_threads() or "all cores",
        }

    def turn(self, steps):
        """Runs a number of steps; returns the loss of the last step."""
        for _ in range(steps):
            logs = self._runner.run(1)
        return float(logs["loss"][0])

    matmul = staticmethod(multiply_matrices)
