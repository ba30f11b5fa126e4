"""The step of a config as a traced program, of shapes alone: nothing of its size is in memory."""

import collections
import math

from tf_mural.experiment import config_validation, model_io
from tf_mural.experiment.trainer import make_trainer, shapes_alone

# LaBSE's, whose vocabulary the large sizes name.
VOCABULARY_SIZE = 501_153

_Tokenizer = collections.namedtuple("_Tokenizer", "size hash max_tokens")


def trace(config, strategy, vocabulary_size=VOCABULARY_SIZE):
    """The training step of a config, traced; on JAX.

    Args:
        config: see `build.build`.
        strategy: `distribute_jax.Devices`, which need not be there.
        vocabulary_size: rows of the token embedding.

    Returns:
        `jax.stages.Traced`, and {"weights" | "slots": bytes of the whole of them}.
    """
    tokenizer = _Tokenizer(vocabulary_size, "", config.model.text.max_tokens)
    description = model_io.describe(config, tokenizer)
    named = {code for source in config.sources.values() for code in source.languages}
    languages = tuple(sorted(named))
    trainer = make_trainer(config, description, languages, strategy, initialized=False)
    with shapes_alone(), strategy.scope():
        traced = trainer.traced_step(_batch(config))
    groups = {"weights": trainer.encoder.variables, "slots": trainer.optimizer.variables}
    return traced, {name: sum(map(_bytes, of)) for name, of in groups.items()}


def _batch(config):
    """{field: {key: (shape, dtype)}} of a global batch, see `pipeline.training_dataset`."""
    rows, side = config.batch_size, config.images.crop
    of_kind = {
        "image": {"pixels": ((rows, side, side, 3), "uint8")},
        "text": {
            "tokens": ((rows, config.model.text.max_tokens), "int32"),
            "language": ((rows,), "int32"),
        },
    }
    kinds = config_validation.field_kinds(config)
    return {field: {"id": ((rows, 2), "int32"), **of_kind[kind]} for field, kind in kinds.items()}


def _bytes(variable):
    width = int("".join(filter(str.isdigit, variable.dtype))) // 8
    return math.prod(variable.shape) * width
