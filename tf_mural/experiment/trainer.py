"""Of a config, what trains: terms, trainer, optimizer."""

import contextlib
import re

import keras

from tf_mural import models, optimizers
from tf_mural.errors import lookup
from tf_mural.experiment.backend import rooms
from tf_mural.experiment.config_validation import field_kinds
from tf_mural.experiment.model_io import model_arguments
from tf_mural.nonfinite import LOSS_SCALES, ON_BAD_STEP, Limits
from tf_mural.objective import Term


def make_terms(config):
    """The terms of the loss; each knows which fields are of the same examples as its own."""
    sources = [list(source.fields) for source in config.sources.values()]
    everywhere = config.get("mask_duplicates", False)
    terms = []
    for name, term in config.terms.items():
        both = [fields for fields in sources if term.x in fields and term.y in fields]
        beside = [f for fields in both for f in fields if f not in (term.x, term.y)]
        options = {**term, "mask_duplicates": term.mask_duplicates or everywhere}
        terms.append(Term(name=name, beside=tuple(beside), **options))
    return terms


def make_trainer(config, description, languages, strategy, initialized=True):
    """The backend's `Trainer`, with its optimizer, ready for steps.

    Args:
        config, strategy: see `build.build`.
        description: of the model, see `saved.describe`.
        languages: sequence of codes.
        initialized: whether the variables of model and slots get values; without them they are
            shapes, which take no memory.
    """
    with strategy.scope():
        # It counts its steps in a variable that cannot wait for its value.
        optimizer = make_optimizer(config)
        with contextlib.nullcontext() if initialized else shapes_alone():
            trainer = _trainer(config, description, languages, strategy)
            paths = [v.path for v in trainer.encoder.trainable_variables]
            optimizer.rate_factors = _rate_factors(paths, config.optimizer.get("layer_decay", 1.0))
            # Slots are made beside their variables, which a strategy allows in its scope alone.
            optimizer.build(trainer.encoder.trainable_variables)
            trainer.compile(optimizer=optimizer, jit_compile=config.jit_compile)
    return trainer


def shapes_alone():
    """A scope in which variables that are made get no values."""
    return keras.StatelessScope(initialize_variables=False)


def _trainer(config, description, languages, strategy):
    distribute, training = rooms()
    return training.Trainer(
        models.dual_encoder(**model_arguments(description), all_reduce_mean=distribute.mean),
        make_terms(config),
        field_kinds(config),
        languages,
        seed=config.seed,
        clip_norm=config.optimizer.clip_norm or None,
        microbatch=config.get("microbatch") or None,
        loss_chunk=config.get("loss_chunk") or None,
        rematerialised=config.get("rematerialise", False),
        loss_scale=LOSS_SCALES[description["precision"]],
        strategy=strategy,
        shard_optimizer=config.get("shard_optimizer", False),
        shard_embeddings=config.get("shard_embeddings", False),
        limits=Limits(
            skip=ON_BAD_STEP[config.get("on_bad_step", "stop")],
            gradient_norm=config.get("max_gradient_norm") or None,
            in_a_row=config.get("max_skipped_in_a_row", Limits.in_a_row),
        ),
    )


def make_optimizer(config):
    """The optimizer, with its schedule, but the rates of single layers."""
    options = config.optimizer.to_dict()
    options.pop("clip_norm")
    options.pop("layer_decay", None)
    rate = optimizers.LinearSchedule(
        options.pop("learning_rate"), config.steps, options.pop("warmup_steps")
    )
    make = lookup(optimizers.OPTIMIZERS, options.pop("name"), "optimizer")
    return make(rate, **options)


def _rate_factors(paths, decay):
    if decay == 1.0:
        return ()
    # Of the towers themselves: a preset brings its own number of layers.
    layers = [int(n) for path in paths for n in re.findall(r"transformer_layer_(\d+)/", path)]
    stages = [int(n) for path in paths for n in re.findall(r"block(\d+)[a-z]_", path)]
    return models.lr_multipliers(decay, max(layers, default=-1) + 1, max(stages, default=0))
