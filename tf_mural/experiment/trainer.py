"""Builds the trainer of a config: loss terms, model, optimizer."""

import contextlib
import re

import keras

from tf_mural import models, optimizers
from tf_mural.backends import backend_module
from tf_mural.errors import lookup
from tf_mural.experiment import public_encoders
from tf_mural.experiment.fields import TERM_OPTIONS, field_towers, split_term
from tf_mural.experiment.model_io import model_arguments
from tf_mural.experiment.stored_vectors import stored_features
from tf_mural.nonfinite import LOSS_SCALES, ON_BAD_STEP, BadStepPolicy
from tf_mural.objective import Term

# Matches the variable paths of an EfficientNet or a BERT. The names of the layers in these paths
# contain the positions of the layers.
_NUMBERED_LAYER = re.compile(r"transformer_layer_\d+/|block\d+[a-z]_")


def make_terms(config):
    """Returns the loss terms of a config, a list of `Term`."""
    sources = [list(source.fields) for source in config.sources.values()]
    terms = []
    for name, term in config.terms.items():
        common = [fields for fields in sources if term.x in fields and term.y in fields]
        siblings = [f for fields in common for f in fields if f not in (term.x, term.y)]
        mask = term.mask_duplicates or config.mask_duplicates
        options, scalars = split_term(term)
        terms.append(
            Term(
                name,
                term.x,
                term.y,
                term.weight,
                term.loss,
                options,
                scalars,
                mask_duplicates=mask,
                sibling_fields=tuple(siblings),
                **{key: term[key] for key in TERM_OPTIONS if key in term},
            )
        )
    return terms


def make_trainer(config, description, languages, strategy, initialized=True):
    """Returns the compiled `Trainer` of the backend, with its optimizer.

    Args:
        config: ConfigDict of a stage.
        description: description of the model, see `model_io.describe`.
        languages: codes of the languages of the training texts.
        strategy: see `run.build`.
        initialized: whether the variables of model and optimizer get values. Without values,
            variables have only shapes, and take no memory.
    """
    with strategy.scope():
        # The optimizer is made outside of `shapes_only`, because its step counter needs a value.
        optimizer = make_optimizer(config)
        with contextlib.nullcontext() if initialized else shapes_only():
            trainer = _make_trainer(config, description, languages, strategy)
            optimizer.exclude_from_weight_decay(trainer.encoder.scalar_variables)
            _exclude_norms(optimizer, config.optimizer, trainer.encoder)
            models.exclude_adapters(optimizer, trainer.encoder)
            optimizer.lr_multipliers = (
                *_scalar_multipliers(trainer.encoder, config.optimizer.scalar_lr_multiplier),
                *_tower_multipliers(trainer.encoder.towers, config.optimizer.layer_decay),
            )
            # The optimizer is built inside of the scope of the strategy. Therefore the slots are
            # placed on the devices of the variables.
            optimizer.build(trainer.encoder.trainable_variables)
            trainer.compile(optimizer=optimizer, jit_compile=config.jit_compile)
    return trainer


def shapes_only():
    """Returns a scope in which new variables get no values."""
    return keras.StatelessScope(initialize_variables=False)


def _make_trainer(config, description, languages, strategy):
    backend = backend_module()
    built = public_encoders.build_encoders(description)
    arguments = model_arguments(description)
    for tower, changes in built.items():
        (arguments if tower in arguments else arguments["towers"])[tower] |= changes
    encoder = models.dual_encoder(
        **arguments,
        all_reduce_mean=backend.all_reduce_mean,
        batch_norm_kernel=backend.batch_norm_kernel(),
    )
    encoder.use_stored_features(stored_features(config))
    return backend.Trainer(
        encoder,
        make_terms(config),
        field_towers(config),
        languages,
        seed=config.seed,
        microbatch=config.microbatch,
        loss_chunk=config.loss_chunk,
        loss_scale=LOSS_SCALES[description["precision"]],
        bad_step_policy=BadStepPolicy(
            skip=ON_BAD_STEP[config.on_bad_step],
            max_gradient_norm=config.max_gradient_norm,
            max_consecutive_skips=config.max_consecutive_skips,
        ),
        remat=config.remat,
        strategy=strategy,
        shard_optimizer=config.shard_optimizer,
        shard_embeddings=config.shard_embeddings,
    )


def make_optimizer(config):
    """Returns the optimizer of a config with its schedule, without learning rate multipliers."""
    options = config.optimizer.to_dict()
    for name in ("layer_decay", "scalar_lr_multiplier"):  # `make_trainer` uses them.
        del options[name]
    schedule = optimizers.LinearWarmupDecay(
        options.pop("learning_rate"), config.steps, options.pop("warmup_steps")
    )
    make = lookup(optimizers.OPTIMIZERS, options.pop("name"), "optimizer")
    if make is optimizers.AdamW:  # AdamW has no layer adaptation, see `check_config`
        del options["exclude_from_layer_adaptation"]
    return make(schedule, **{key: value for key, value in options.items() if value is not None})


def _exclude_norms(optimizer, options, encoder):
    """Extends the exclusions of a config to normalization layers that its patterns do not match."""
    models.exclude_norms(
        optimizer,
        encoder,
        weight_decay="layer_norm/" in options.exclude_from_weight_decay,
        layer_adaptation="_bn/" in options.exclude_from_layer_adaptation,
    )


def _scalar_multipliers(encoder, factor):
    """Returns the argument `lr_multipliers` of `LAMB` for the learned scalars."""
    if factor == 1.0:
        return ()
    return tuple((f"^{re.escape(v.path)}$", factor) for v in encoder.scalar_variables)


def _tower_multipliers(towers, layer_decay):
    """Returns the argument `lr_multipliers` of `LAMB` for the variables of all towers.

    Raises:
        UserError: the order of the layers of a tower is unknown.
    """
    if layer_decay == 1.0:
        return ()
    paths, by_block = [], []
    for name, tower in towers.items():
        if any(_NUMBERED_LAYER.search(v.path) for v in tower.weights):
            paths += [v.path for v in tower.trainable_variables]
        else:
            by_block += models.lr_multipliers_by_block(name, tower, layer_decay)
    # The first matching expression applies. An expression in `by_block` matches only one path.
    return (*by_block, *_lr_multipliers(paths, layer_decay))


def _lr_multipliers(paths, layer_decay):
    """Returns the multipliers of layers whose names contain their positions."""
    # The layers of the encoders are counted, because a preset may have any number of layers.
    layers = [int(n) for path in paths for n in re.findall(r"transformer_layer_(\d+)/", path)]
    stages = [int(n) for path in paths for n in re.findall(r"block(\d+)[a-z]_", path)]
    return models.lr_multipliers(layer_decay, max(layers, default=-1) + 1, max(stages, default=0))
