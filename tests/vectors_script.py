"""Computes gradients of a model that reads stored vectors: python vectors_script.py OUT

The model has an image tower and a text tower whose features are stored, and a tower of vectors with
trained layers. The script writes the gradients of one global batch: with all rows at once, with
micro-batches, with tokens instead of the stored features of the texts, and on TensorFlow with two
replicas. The initial weights depend only on the names of the variables. The module
test_stored_features runs this script in a separate process per backend.
"""

import os
import sys
import zlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import backend_script  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from helpers import trainers  # noqa: E402

from tf_mural import models, optimizers  # noqa: E402
from tf_mural.backends import backend_module  # noqa: E402
from tf_mural.objective import Term  # noqa: E402

DIM, BATCH_SIZE = 24, 8
FIELDS = {"image": "image", "text_a": "text", "teacher": "teacher"}


def make_trainer(stored=("image", "text"), **options):
    """Returns a trainer whose towers `stored` read features; all backbones are frozen."""
    encoder = models.DualEncoder(
        models.image_tower("test", trainers.IMAGE_SIZE, DIM, 0.0),
        models.text_tower(trainers.VOCABULARY_SIZE, "test", trainers.MAX_TOKENS, DIM, 0.0),
        towers={"teacher": models.VectorsEncoder(5, (7, DIM), vectors="teacher")},
        scalars=trainers.SCALARS["contrastive"],
    )
    for variable in encoder.variables:
        if "seed_generator" not in variable.path and "temperature" not in variable.path:
            rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
            noise = rng.normal(size=variable.shape) * 0.1
            variable.assign(np.abs(noise) + 0.5 if "variance" in variable.path else noise)
    for tower in ("image", "text"):
        encoder.towers[tower].split()[0].trainable = False
    encoder.use_stored_features({tower: f"{tower} features" for tower in stored})
    terms = [
        Term(f"{x}_{y}", x, y, weight, options=trainers.OPTIONS["contrastive"])
        for x, y, weight in (("image", "text_a", 0.6), ("text_a", "teacher", 0.4))
    ]
    trainer = backend_module().Trainer(encoder, terms, FIELDS, trainers.LANGUAGES, **options)
    optimizer = optimizers.LAMB(1e-2)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    return trainer


def make_batch(trainer):
    """Returns the global batch of a trainer; its features are those of the frozen backbones."""
    inputs = trainers.make_batch("etcl", BATCH_SIZE)
    rng, batch = np.random.default_rng(1), {}
    for field, tower in FIELDS.items():
        batch[field] = {"id": np.arange(BATCH_SIZE)}
        if tower == "teacher":
            batch[field]["vectors"] = rng.normal(size=(BATCH_SIZE, 5)).astype(np.float32)
            continue
        key = {"image": "pixels", "text": "tokens"}[tower]
        features = trainer.encoder.towers[tower].split()[0](inputs[field][key])
        if tower in trainer.encoder.stored.projections:
            batch[field]["vectors"] = np.asarray(features)
        else:
            batch[field][key] = inputs[field][key]
        if tower == "text":
            batch[field]["language"] = inputs[field]["language"]
    return batch


def gradients(trainer):
    """Returns {path: gradient} of the batch on one device."""
    computed = backend_script.compute_gradients(trainer, make_batch(trainer))
    return {path: np.asarray(value) for path, value in computed.items()}


def main(out):
    cases = {"plain": {}, "microbatch": {"microbatch": 2}, "tokens": {"stored": ("image",)}}
    arrays = {}

    def keep(name, values):
        arrays.update({f"{name}/{path}": value for path, value in values.items()})

    is_tensorflow = keras.backend.backend() == "tensorflow"
    if is_tensorflow:
        from helpers import replicas

        strategy = replicas.make_strategy(2)  # before the first operation
    for name, options in cases.items():
        keep(f"float32/{name}", gradients(make_trainer(**options)))
    if is_tensorflow:
        trainers.set_precision("float64")
        for name, options in cases.items():
            keep(f"float64/{name}", gradients(make_trainer(**options)))
        with strategy.scope():
            trainer = make_trainer()
        computed = replicas.compute_gradients(strategy, trainer, make_batch(trainer))
        prefix = "gradient/"
        keep(
            "float64/replicas",
            {k.removeprefix(prefix): v for k, v in computed.items() if k.startswith(prefix)},
        )
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
