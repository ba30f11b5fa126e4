"""Checks a config before anything is built from it."""

import math
import os

from tf_mural import file_io, models, public_models
from tf_mural.data.code_switching import check_switched_fields
from tf_mural.data.language_sampling import LANGUAGES_OF
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.errors import UserError, lookup, suggest
from tf_mural.experiment.config_loading import may_be_none
from tf_mural.experiment.data import code_switch_options
from tf_mural.experiment.fields import field_modalities, field_towers, split_term, term_fields
from tf_mural.experiment.stored_vectors import check_vector_towers
from tf_mural.losses import LOSSES, SCALARS, complete_options
from tf_mural.modalities import MODALITIES
from tf_mural.nonfinite import LOSS_SCALES, ON_BAD_STEP
from tf_mural.optimizers import OPTIMIZERS

SCENES_VOCABULARY = os.path.join(
    os.path.dirname(os.path.dirname(__file__)), "datasets", "scenes", "vocab.txt"
)
# Default value of `optimizer.exclude_from_layer_adaptation`. This value is also accepted with
# AdamW, which has no layer adaptation.
_DEFAULT_EXCLUDED = ("_bn/",)


def check_config(config, replicas):
    """Checks a config before anything is built from it.

    Args:
        config: ConfigDict of a stage.
        replicas: number of replicas that share a global batch.

    Raises:
        UserError: a value is invalid, or two values contradict each other.
    """
    _check_terms(config)
    _check_numbers(config)
    _check_sources(config)
    _check_batch(config, replicas)
    _check_schedule(config)
    _check_optimizer(config.optimizer)
    _check_images(config)
    _check_step(config)


def _check_terms(config):
    modalities = field_modalities(config)
    _check_towers(config, set(field_towers(config).values()))
    for name, term in config.terms.items():
        for field in term_fields(term):
            lookup(modalities, field, f"field (of the term {name!r})")
        lookup(LOSSES, term.loss, f"loss (of the term {name!r})")
        options, scalars = split_term(term)
        try:
            complete_options(term.loss, options)
        except UserError as error:
            raise UserError(f"terms.{name}: {error}") from None
        for dim in term.get("dims", ()):
            if dim > config.model.embedding_dim:
                raise UserError(
                    f"terms.{name}.dims contains {dim}, but model.embedding_dim is "
                    f"{config.model.embedding_dim}: omit this size"
                )
        for kind, scalar in scalars.items():
            known = config.model.scalars.get(kind, {})
            lookup(known, scalar, f"{kind} (of the term {name!r})")
    if not len(config.terms):
        raise UserError("the config has no terms, so there is no loss")
    unused = sorted(set(modalities) - {f for t in config.terms.values() for f in term_fields(t)})
    if unused:
        raise UserError(f"no term uses the field {unused[0]!r}; remove it from its source")
    for name, term in config.terms.items():
        # The rows of negatives belong to no example, so any source may have them.
        fields = {term.x, term.y}
        if not any(fields <= set(source.fields) for source in config.sources.values()):
            raise UserError(
                f"the term {name!r} compares {term.x} and {term.y}, but no source has both fields, "
                "and rows of different sources do not belong together"
            )


def _check_numbers(config):
    if not 0 <= config.seed < 1 << 32:
        raise UserError(f"seed is {config.seed}, expected a number from 0 to below 2**32")
    for name in ("learning_rate", "scalar_lr_multiplier"):
        if not (value := config.optimizer[name]) >= 0:
            raise UserError(f"optimizer.{name} is {value}, expected 0 or more")
    for kind, values in config.model.scalars.items():
        bounds = lookup(SCALARS, kind, "kind of learned scalar in model.scalars:")
        for name, value in values.items():
            minimum, maximum = bounds.minimum, bounds.maximum
            if minimum is not None and value < minimum or maximum is not None and value > maximum:
                limits = [] if minimum is None else [f"from {minimum}"]
                limits += [] if maximum is None else [f"to {maximum}"]
                raise UserError(
                    f"model.scalars.{kind}.{name} is {value}, expected a number "
                    f"{' '.join(limits)}, to which training clips it"
                )
    share = config.max_bad_records
    if not 0 <= share <= 1:
        raise UserError(f"max_bad_records is {share}, expected a share from 0 to 1")


def _check_sources(config):
    modalities = field_modalities(config)
    for name, source in config.sources.items():
        if not source.temperature > 0:
            raise UserError(
                f"sources.{name}.temperature is {source.temperature}, expected a number above 0: "
                "record sets are sampled in proportion to size**(1 / temperature)"
            )
        if source.language_temperature is not None and not source.language_temperature > 0:
            raise UserError(
                f"sources.{name}.language_temperature is {source.language_temperature}, expected a "
                "number above 0: languages are sampled in proportion to texts**(1 / temperature)"
            )
        for key, minimum in (("shuffle_limit", 0), ("window_blocks", 1)):
            if source[key] < minimum:
                raise UserError(
                    f"sources.{name}.{key} is {source[key]}, expected a number from {minimum}"
                )
        if "negatives_of" in source:
            known = {s: v for s, v in config.sources.items() if "negatives_of" not in v}
            lookup(known, source.negatives_of, f"source (negatives_of of sources.{name})")
        lookup(LANGUAGES_OF, source.languages_of, f"languages_of (of sources.{name})")
        if options := code_switch_options(name, source):
            check_switched_fields(name, {f: modalities[f] for f in source.fields}, options.fields)
        if source.languages == ():
            raise UserError(
                f"sources.{name}.languages is empty: expected codes, or none for all languages"
            )


def _check_batch(config, replicas):
    """Checks that replicas, micro-batches, loss chunks and batch norm groups divide a batch evenly.

    If one of these checks fails, the message proposes values that pass all of them.
    """
    batch, microbatch, chunk = config.batch_size, config.microbatch, config.loss_chunk
    group = config.model.image.virtual_batch_size
    _check_at_least(config, microbatch=1, loss_chunk=1)
    share, images = batch // replicas, max(group or 1, 1)
    _check_synchronized(group, bool(microbatch) and microbatch < share and replicas > 1)
    # If the batch size itself must change, no micro-batch is proposed.
    divided = 0 if batch % replicas or chunk and share % chunk else share
    fitting = _divisors("microbatch", microbatch or 0, divided, images)
    if microbatch and microbatch % images:
        raise UserError(
            _group_does_not_divide(group, microbatch, "micro-batch")
            + (fitting or _multiples("microbatch", microbatch, images))
        )
    unit = replicas * math.lcm(microbatch or images, chunk or 1)
    batches = _multiples("batch_size", batch, unit)
    wrong = f"batch_size is {batch}, but "
    if replicas > 1:
        wrong += f"{replicas} replicas share it evenly and "
    if batch < 2 or batch % replicas:
        raise UserError(f"{wrong}each row needs a negative: set {batches}")
    if microbatch and share % microbatch:
        raise UserError(
            f"{wrong}it is divided into micro-batches of {microbatch} rows: set "
            f"{batches}{fitting and f', or {fitting}'}"
        )
    if share % images:
        raise UserError(_group_does_not_divide(group, share, "replica") + batches)
    if chunk and share % chunk:
        raise UserError(
            f"loss_chunk is {chunk}, which does not divide the {share} rows of a replica: set "
            f"{_divisors('loss_chunk', chunk, share)}"
        )


def _group_does_not_divide(group, rows, owner):
    return (
        f"model.image.virtual_batch_size is {group}, which does not divide the {rows} rows of a "
        f"{owner}: set it to none for all rows of a {owner}, or "
    )


def _check_synchronized(group, in_a_loop):
    name = "model.image.virtual_batch_size"
    if group is not None and group < 1 and group != models.ALL_REPLICAS:
        raise UserError(
            f"{name} is {group}, expected a number of images, none for all images of a replica, or "
            "-1 for all images of all replicas"
        )
    if group == models.ALL_REPLICAS and in_a_loop:
        # MirroredStrategy cannot reduce inside a loop ("merge_call called while defining a new
        # graph"), and micro-batches run in a loop.
        raise UserError(
            f"{name} is -1, but replicas cannot share statistics in micro-batches: set "
            f"`config.microbatch=none`, or `config.{name}` to none or a number of images"
        )


def _multiples(name, value, unit):
    """Returns a flag that proposes the multiples of `unit` next to `value`, each at least 2."""
    below = value // unit * unit
    return _flag(name, {max(below, unit * -(-2 // unit)), max(below + unit, 2)})


def _divisors(name, value, total, unit=1):
    """Returns a flag that proposes multiples of `unit` near `value` that divide `total`, or ""."""
    divisors = [d for d in range(unit, total + 1, unit) if total % d == 0]
    below, above = ([d for d in divisors if (d > value) == is_above] for is_above in (False, True))
    return _flag(name, {*below[-1:], *above[:1]}) if divisors else ""


def _flag(name, values):
    return " or ".join(f"`config.{name}={value}`" for value in sorted(values))


def _check_at_least(config, **minima):
    """Checks that each of the named values of the config is None or at least its minimum."""
    for name, minimum in minima.items():
        if config[name] is not None and config[name] < minimum:
            alternative = " or none" if may_be_none(config, name) else ""
            raise UserError(
                f"{name} is {config[name]}, expected a number from {minimum}{alternative}"
            )


def _check_positive(name, value):
    if value is not None and not value > 0:
        raise UserError(f"{name} is {value}, expected a number above 0 or none")


def _check_schedule(config):
    if not 0 <= config.optimizer.warmup_steps < config.steps:
        raise UserError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, but the run has "
            f"{config.steps} steps: set fewer warm-up steps, or more steps"
        )
    _check_at_least(config, log_every=1, keep_checkpoints=1, steps_per_loop=1)
    _check_at_least(config, checkpoint_every=1, evaluate_every=1, stop_early=1)
    _check_positive("checkpoint_minutes", config.checkpoint_minutes)
    if config.stop_early is not None and config.keep_best is None:
        raise UserError(
            "stop_early is set, but keep_best is not: name the metric to improve, such as "
            "`config.keep_best='retrieval/*/average_recall'`"
        )
    if not 0 < config.wise_ft_alpha <= 1:
        raise UserError(
            f"wise_ft_alpha is {config.wise_ft_alpha}, expected the share of the trained weights, "
            "above 0 and up to 1"
        )
    momentum = config.optimizer.ema_momentum
    if momentum is not None and not 0 < momentum < 1:
        raise UserError(
            f"optimizer.ema_momentum is {momentum}, expected a momentum between 0 and 1, such as "
            "0.999, or none"
        )
    steps = config.profile_steps
    if steps is not None and not (len(steps) == 2 and 0 <= steps[0] < steps[1] <= config.steps):
        raise UserError(
            f"profile_steps is {tuple(steps)}, expected the first step and the step after the last "
            f"one, between 0 and {config.steps}: `config.profile_steps=10,20`"
        )
    if config.keep_best is not None and config.evaluate_every is None:
        raise UserError(
            f"keep_best is {config.keep_best!r}, but evaluate_every is none, and only the last "
            "step is evaluated: set `config.evaluate_every` to a number of steps"
        )


def _check_optimizer(options):
    lookup(OPTIMIZERS, options.name, "optimizer")
    excluded = tuple(options.exclude_from_layer_adaptation)
    if options.name == "adam" and excluded not in ((), _DEFAULT_EXCLUDED):
        raise UserError(
            f"optimizer.exclude_from_layer_adaptation is {excluded}, but adam has no layer "
            "adaptation: set `config.optimizer.name=lamb`, or leave that value as it is"
        )


def _check_images(config):
    if config.images.crop > config.images.resize:
        raise UserError(
            f"images.crop is {config.images.crop}, larger than images.resize = "
            f"{config.images.resize}"
        )
    if config.images.crop != config.model.image.image_size:
        raise UserError(
            f"images.crop is {config.images.crop}, but model.image.image_size is "
            f"{config.model.image.image_size}: set both to the same value"
        )
    Preprocessing.from_config(config.images, config.model.image)


def _check_step(config):
    lookup(LOSS_SCALES, config.precision, "precision")
    lookup(ON_BAD_STEP, config.on_bad_step, "on_bad_step")
    _check_positive("max_gradient_norm", config.max_gradient_norm)
    _check_positive("optimizer.global_clipnorm", config.optimizer.global_clipnorm)
    _check_at_least(config, max_consecutive_skips=1)


def _check_towers(config, used):
    """Checks the further towers of a model; `used` are the names of the towers of all fields."""
    shared = {"image": "image_size", "text": "max_tokens"}
    for name in ("image", "text"):
        _check_backbone(f"model.{name}", name, config.model[name])
        models.parse_adapt(config.model[name].adapt, f"model.{name}.adapt")
    for name, tower in config.model.towers.items():
        if name in ("image", "text"):
            raise UserError(f"model.towers.{name}: set model.{name}, or choose another name")
        lookup(MODALITIES, tower.modality, f"modality (of model.towers.{name})")
        _check_backbone(f"model.towers.{name}", tower.modality, tower)
        models.parse_adapt(tower.get("adapt", "full"), f"model.towers.{name}.adapt")
        key = shared.get(tower.modality)
        expected = config.model[tower.modality][key] if key else None
        if key and tower[key] != expected:
            raise UserError(
                f"model.towers.{name}.{key} is {tower[key]}, but model.{tower.modality}.{key} "
                f"is {expected}: towers of one modality get the same inputs"
            )
        if name not in used:
            raise UserError(f"no field names the tower {name!r}; remove model.towers.{name}")
    check_vector_towers(config)


def _check_backbone(path, modality, tower):
    """Checks that a backbone is known, and that only public models have another pooling."""
    table = {"image": models.EFFICIENTNETS, "text": models.BERTS}.get(modality)
    backbone, pooling = tower.get("backbone"), tower.get("pooling", "auto")
    if table is not None and not public_models.is_public(backbone):
        if backbone not in table:
            raise UserError(
                f"{path}.backbone is {backbone!r}{suggest(str(backbone), list(table))}; expected "
                f"{', '.join(table)}, hf:<name or folder> or keras_hub:<preset or folder>"
            )
        if pooling != "auto":
            raise UserError(
                f"{path}.pooling is {pooling!r}, but {backbone!r} has a fixed pooling: set "
                f"`config.{path}.pooling=auto`, or choose a public model"
            )


def find_vocabulary(name, data_dir):
    """Returns the path of a vocabulary.

    Args:
        name: "scenes" for the vocabulary of the package, a path, or a path in `data_dir`.
        data_dir: folder of the record sets.

    Raises:
        UserError: there is no such file.
    """
    if name == "scenes":
        return SCENES_VOCABULARY
    for path in (name, os.path.join(data_dir, name)):
        if file_io.exists(path):
            return path
    raise UserError(
        f"no vocabulary {name!r}, nor {os.path.join(data_dir, name)}: train one with "
        "tools/build_vocab.py, or set `config.vocabulary` to the "
        "vocab.txt of the model"
    )
