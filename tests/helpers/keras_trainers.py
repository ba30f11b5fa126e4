"""Compiled trainers with small towers, and datasets of records, for tests of the Keras API."""

import os

import keras
import numpy as np

import tf_mural
from helpers import images, trainers
from tf_mural.data import Preprocessing, records, tokenizers

LANGUAGES = trainers.LANGUAGES
PREPROCESSING = Preprocessing(36, trainers.IMAGE_SIZE)


def make_tokenizer():
    """Returns the tokenizer of the records."""
    words = ["x", *(f"w{i}" for i in range(16))]
    return tokenizers.Tokenizer([*tokenizers.SPECIAL_TOKENS, *words], trainers.MAX_TOKENS)


def make_model(dropout=0.0, precision=None, seed=0):
    """Returns a dual encoder with small towers and reproducible weights."""
    model = trainers.make_trainer("etcl", dropout=dropout, precision=precision).encoder
    if seed:  # Noise makes the weights differ from those of seed 0.
        for variable in model.trainable_variables:
            noise = keras.random.normal(variable.shape, stddev=0.05, seed=seed)
            variable.assign_add(keras.ops.cast(noise, variable.dtype))
    return model


def make_trainer(optimizer=None, dropout=0.0, precision=None, model_seed=0, eager=False, **options):
    """Returns a compiled `tf_mural.ETCL` with small towers."""
    model = make_model(dropout, precision, model_seed)
    trainer = tf_mural.ETCL(model, **{"languages": LANGUAGES, "seed": 3, **options})
    optimizer = optimizer or tf_mural.optimizers.LAMB(1e-2, weight_decay=1e-2)
    trainer.compile(optimizer=optimizer, run_eagerly=eager)
    return trainer


def make_records(folder):
    """Writes 16 records of a random image and two texts, and returns the path of the record set.

    The pixels are random, because batch norm would amplify the rounding errors of images of a
    single color.
    """
    rng, path = np.random.default_rng(0), os.path.join(folder, "noise")
    pixels = rng.integers(0, 256, (16, 36, 36, 3), np.uint8)
    examples = [
        records.Record(str(i), (images.encode(image),), (("de", f"w{i} x"), ("en", f"w{i}")))
        for i, image in enumerate(pixels)
    ]
    records.write(path, examples, shards=2)
    return path


def make_dataset(records, trainer, batch_size=trainers.BATCH_SIZE, **options):
    """Returns the training dataset of `make_records` for a trainer."""
    defaults = {
        "languages": LANGUAGES,
        "tokenizer": make_tokenizer(),
        "preprocessing": PREPROCESSING,
    }
    return tf_mural.data.training_dataset(records, trainer, batch_size, **{**defaults, **options})


def state_of(trainer):
    """Returns {name: array} of the weights, the optimizer's variables and the step."""
    state = trainers.weights_of(trainer)
    for i, variable in enumerate(trainer.optimizer.variables):
        state[f"optimizer/{i}"] = keras.ops.convert_to_numpy(variable.value)
    return state | {"step": int(trainer.step.numpy())}
