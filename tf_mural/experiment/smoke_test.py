"""A training step on made-up data: whether this machine can."""

import time

import numpy as np

from tf_mural.data.tokenizers import Tokenizer
from tf_mural.experiment.backend import rooms
from tf_mural.experiment.config_validation import check, field_kinds, find_vocabulary
from tf_mural.experiment.model_io import describe
from tf_mural.experiment.trainer import make_trainer


def trial_step(config):
    """Runs two steps on one device, on random pixels and tokens.

    Args:
        config: see `build.build`; its records need not be there.

    Returns:
        (seconds of the second one, which is compiled by then; its loss).

    Raises:
        UserError: the config cannot be.
    """
    import tensorflow as tf

    distribute, _ = rooms()
    strategy = distribute.make_strategy("one")
    check(config, strategy.num_replicas_in_sync)
    path = find_vocabulary(config.vocabulary, "data")
    tokenizer = Tokenizer(path, config.model.text.max_tokens, config.lower_case)
    trainer = make_trainer(config, describe(config, tokenizer), ("en",), strategy)
    batch = _batch(config, tokenizer)
    runner = distribute.Runner(
        trainer, strategy, lambda start_step: tf.data.Dataset.from_tensors(batch).repeat()
    )
    runner.start(0)
    for _ in range(2):
        began = time.perf_counter()
        (loss,) = (float(value) for value in runner.run(1)["loss"])
        seconds = time.perf_counter() - began
    return seconds, loss


def _batch(config, tokenizer):
    rng, rows, side = np.random.default_rng(config.seed), config.batch_size, config.images.crop
    batch = {}
    for field, kind in field_kinds(config).items():
        batch[field] = {"id": np.arange(rows, dtype=np.int64)}
        if kind == "image":
            batch[field]["pixels"] = rng.integers(0, 256, (rows, side, side, 3), np.uint8)
        else:
            words = rng.choice([str(piece) for piece in tokenizer.vocabulary], (rows, 4))
            batch[field]["tokens"] = np.asarray(tokenizer([" ".join(of) for of in words]))
            batch[field]["language"] = np.zeros(rows, np.int32)
    return batch
