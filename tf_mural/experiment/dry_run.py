"""Training steps without data: traces the step of a config, or runs it on random inputs."""

import collections
import math
import tempfile
import time

import numpy as np

from tf_mural.backends import backend_module
from tf_mural.experiment import public_encoders
from tf_mural.experiment.config_validation import check_config, find_vocabulary
from tf_mural.experiment.fields import field_modalities, field_towers, tower_modalities
from tf_mural.experiment.model_io import describe
from tf_mural.experiment.trainer import make_trainer, shapes_only
from tf_mural.modalities import MODALITIES

# Number of pieces in the vocabulary of LaBSE, which the sizes b3_mini and paper use.
LABSE_VOCABULARY_SIZE = 501_153

_TokenizerShape = collections.namedtuple("_TokenizerShape", "size hash max_tokens")


def trace_step(config, strategy, vocabulary_size=LABSE_VOCABULARY_SIZE):
    """Traces the training step of a config on JAX, without allocating its variables.

    Args:
        config: see `run.build`.
        strategy: `backends.jax.Devices`; the devices need not exist.
        vocabulary_size: number of rows of the token embedding.

    Returns:
        (traced, num_bytes): `jax.stages.Traced`, and {"weights": bytes, "slots": bytes}, the total
        sizes of the model weights and of the optimizer slots, counted once for all devices.
    """
    public_encoders.apply_backbone_settings(config)
    tokenizer = _TokenizerShape(vocabulary_size, "", config.model.text.max_tokens)
    description = describe(config, tokenizer)
    description["encoders"] = public_encoders.encoder_specs(config, weights=False)
    sources = config.sources.values()
    languages = tuple(sorted({code for source in sources for code in source.languages or ()}))
    trainer = make_trainer(config, description, languages, strategy, initialized=False)
    with shapes_only(), strategy.scope():
        traced = trainer.traced_step(_batch_shapes(config, trainer.encoder.stored))
    groups = {"weights": trainer.encoder.variables, "slots": trainer.optimizer.variables}
    return traced, {name: sum(map(_num_bytes, variables)) for name, variables in groups.items()}


def _batch_shapes(config, stored):
    """Returns {field: {key: (shape, dtype)}} of a global batch of `training_dataset`.

    Args:
        config: ConfigDict of a stage.
        stored: `models.StoredVectors` of the model.
    """
    rows, side, towers = config.batch_size, config.images.crop, field_towers(config)
    shapes = {"image": (side, side, 3), "text": (config.model.text.max_tokens,)}
    batch = {}
    for field, name in field_modalities(config).items():
        modality = MODALITIES[name]
        shape = shapes.get(name) or (stored.vectors[towers[field]][1],)
        batch[field] = {"id": ((rows, 2), "int32")}
        batch[field][modality.input_key] = ((rows, *shape), modality.dtype)
        if field in _fields_with_language(config):
            batch[field]["language"] = ((rows,), "int32")
    return batch


def _fields_with_language(config):
    """Returns the fields whose examples have a language, also those with stored features."""
    modalities = tower_modalities(config)
    return {
        field
        for field, tower in field_towers(config).items()
        if MODALITIES[modalities[tower]].has_language
    }


def _num_bytes(variable):
    bits = int("".join(filter(str.isdigit, variable.dtype)))
    return math.prod(variable.shape) * bits // 8


def trial_step(config):
    """Runs two training steps on one device, on random pixels and tokens.

    Args:
        config: see `run.build`; the records of its sources need not exist.

    Returns:
        (seconds, loss) of the second step; the seconds do not include compilation.

    Raises:
        UserError: the config is invalid.
    """
    import tensorflow as tf

    backend = backend_module()
    strategy = backend.make_strategy("one")
    with tempfile.TemporaryDirectory() as folder:
        public_encoders.apply_backbone_settings(config, folder)
        check_config(config, strategy.num_replicas_in_sync)
        path = find_vocabulary(config.vocabulary, "data")
        options = config.model.text.max_tokens, config.lower_case
        tokenizer = public_encoders.open_tokenizer(path, *options)
    description = describe(config, tokenizer)
    description["encoders"] = public_encoders.encoder_specs(config, weights=False)
    trainer = make_trainer(config, description, ("en",), strategy)
    batch = _random_batch(config, tokenizer, trainer.encoder.stored)
    runner = backend.Runner(
        trainer, strategy, lambda start_step: tf.data.Dataset.from_tensors(batch).repeat()
    )
    runner.start(0)
    for _ in range(2):
        start_time = time.perf_counter()
        (loss,) = (float(value) for value in runner.run(1)["loss"])
        seconds = time.perf_counter() - start_time
    return seconds, loss


def _random_batch(config, tokenizer, stored):
    towers = field_towers(config)
    rng, rows, side = np.random.default_rng(config.seed), config.batch_size, config.images.crop

    def random_images(field):
        return rng.integers(0, 256, (rows, side, side, 3), np.uint8)

    def random_texts(field):
        words = rng.choice([str(piece) for piece in tokenizer.vocabulary], (rows, 4))
        return np.asarray(tokenizer([" ".join(row) for row in words]))

    def random_vectors(field):
        return rng.normal(size=(rows, stored.vectors[towers[field]][1])).astype(np.float32)

    make = {"image": random_images, "text": random_texts, "vectors": random_vectors}
    batch = {}
    for field, name in field_modalities(config).items():
        modality = MODALITIES[name]
        ids = np.arange(rows, dtype=np.int64)
        batch[field] = {"id": ids, modality.input_key: make[name](field)}
        if field in _fields_with_language(config):
            batch[field]["language"] = np.zeros(rows, np.int32)
    return batch
