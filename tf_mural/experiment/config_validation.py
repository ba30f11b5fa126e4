"""What a config must be, before anything is built of it."""

import math
import os

from tf_mural import file_io, models
from tf_mural.errors import UserError, lookup
from tf_mural.losses import LOSSES
from tf_mural.nonfinite import LOSS_SCALES, ON_BAD_STEP

SCENES_VOCABULARY = os.path.join(
    os.path.dirname(os.path.dirname(__file__)), "datasets", "scenes", "vocab.txt"
)
KINDS = ("image", "text")


def check(config, replicas):
    """Raises UserError where the parts of a config contradict each other."""
    _check_terms(config)
    _check_numbers(config)
    _check_batch(config, replicas)
    _check_schedule(config)
    _check_images(config)
    _check_step(config)


def _check_terms(config):
    kinds = field_kinds(config)
    for name, term in config.terms.items():
        for field in (term.x, term.y):
            lookup(kinds, field, f"field (of the term {name!r})")
        lookup(config.model.temperatures, term.temperature, f"temperature (of the term {name!r})")
        lookup(LOSSES, term.loss, f"loss (of the term {name!r})")
        if not 0 <= term.label_smoothing < 1:
            raise UserError(
                f"terms.{name}.label_smoothing is {term.label_smoothing}, expected a share from 0 "
                "to below 1"
            )
    if not len(config.terms):
        raise UserError("the config has no terms: nothing to learn from")
    unused = sorted(set(kinds) - {f for t in config.terms.values() for f in (t.x, t.y)})
    if unused:
        raise UserError(f"no term uses the field {unused[0]!r}; take it out of its source")
    for name, term in config.terms.items():
        if not any({term.x, term.y} <= set(source.fields) for source in config.sources.values()):
            raise UserError(
                f"the term {name!r} is between {term.x} and {term.y}, which no source has "
                "together: a row of one has nothing to do with that of another"
            )


def _check_numbers(config):
    if not 0 <= config.seed < 1 << 32:
        raise UserError(f"seed is {config.seed}, expected a number from 0 to below 2**32")
    if not config.optimizer.learning_rate >= 0:
        raise UserError(
            f"optimizer.learning_rate is {config.optimizer.learning_rate}, expected 0 or more"
        )
    for name, value in config.model.temperatures.items():
        if not models.MIN_TEMPERATURE <= value <= models.MAX_TEMPERATURE:
            raise UserError(
                f"model.temperatures.{name} is {value}, expected a number from "
                f"{models.MIN_TEMPERATURE} to {models.MAX_TEMPERATURE}, where it is held"
            )
    for name, source in config.sources.items():
        if not source.get("temperature", 1.0) > 0:
            raise UserError(
                f"sources.{name}.temperature is {source.temperature}, expected a number above 0: "
                "record sets are drawn by size**(1 / temperature)"
            )


def _check_batch(config, replicas):
    """Each number of rows must divide the one that it is a part of; advice keeps to all of them."""
    batch, microbatch = config.batch_size, config.get("microbatch", 0)
    chunk, group = config.get("loss_chunk", 0), config.model.image.batch_norm_group
    for name, value in (("microbatch", microbatch), ("loss_chunk", chunk)):
        if value < 0:
            raise UserError(f"{name} is {value}, expected rows, or 0 for the whole share")
    share, images = batch // replicas, max(group, 1)
    _check_all_replicas(group, 0 < microbatch < share and replicas > 1)
    # Where the batch is wrong in any case, no micro-batch alone would mend it.
    parted = 0 if batch % replicas or chunk and share % chunk else share
    fitting = _divisors("microbatch", microbatch, parted, images)
    if microbatch % images:
        raise UserError(
            _group_does_not_divide(group, microbatch, "micro-batch")
            + (fitting or _multiples("microbatch", microbatch, images))
        )
    batches = _multiples("batch_size", batch, replicas * math.lcm(microbatch or images, chunk or 1))
    wrong = f"batch_size is {batch}, but "
    if replicas > 1:
        wrong += f"{replicas} replicas share it evenly and "
    if batch < 2 or batch % replicas:
        raise UserError(f"{wrong}each row needs a negative: set {batches}")
    if microbatch and share % microbatch:
        raise UserError(
            f"{wrong}it is taken in micro-batches of {microbatch} rows: set "
            f"{batches}{fitting and f', or {fitting}'}"
        )
    if share % images:
        raise UserError(_group_does_not_divide(group, share, "replica") + batches)
    if chunk and share % chunk:
        raise UserError(
            f"loss_chunk is {chunk}, which does not divide the {share} rows of a replica: set "
            f"{_divisors('loss_chunk', chunk, share)}"
        )


def _group_does_not_divide(group, rows, whose):
    return (
        f"model.image.batch_norm_group is {group}, which does not divide the {rows} rows of a "
        f"{whose}: set it to 0 for all rows of a {whose} together, or "
    )


def _check_all_replicas(group, in_a_loop):
    name = "model.image.batch_norm_group"
    if group < models.ALL_REPLICAS:
        raise UserError(
            f"{name} is {group}, expected images, 0 for all of a replica or -1 for those of all "
            "replicas together"
        )
    if group == models.ALL_REPLICAS and in_a_loop:
        # MirroredStrategy reduces nothing inside of a loop ("merge_call called while defining a
        # new graph"), and micro-batches are one.
        raise UserError(
            f"{name} is -1, but replicas cannot share statistics amid their micro-batches: set "
            f"--config.microbatch=0, or --config.{name} to 0 or a number of images"
        )


def _multiples(name, value, unit):
    """The multiples of `unit` next to a value, from 2, as flags: "--config.NAME=96 or 128"."""
    below = value // unit * unit
    return _flag(name, {max(below, unit * -(-2 // unit)), max(below + unit, 2)})


def _divisors(name, value, total, unit=1):
    """The multiples of `unit` that divide `total` next to a value, likewise; "" without any."""
    found = [d for d in range(unit, total + 1, unit) if total % d == 0]
    below, above = ([d for d in found if (d > value) == after] for after in (False, True))
    return _flag(name, {*below[-1:], *above[:1]}) if found else ""


def _flag(name, values):
    return f"--config.{name}={' or '.join(map(str, sorted(values)))}"


def _check_schedule(config):
    if not 0 <= config.optimizer.warmup_steps < config.steps:
        raise UserError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, but the run has "
            f"{config.steps} steps: fewer warm-up steps, or more steps"
        )
    least = {"log_every": 1, "keep_checkpoints": 1, "steps_per_loop": 1}
    for name in (*least, "checkpoint_every", "checkpoint_minutes", "evaluate_every"):
        if config[name] < least.get(name, 0):
            raise UserError(
                f"{name} is {config[name]}, expected a number from {least.get(name, 0)}"
            )
    if config.get("stop_early", 0) and not config.keep_best:
        raise UserError(
            "stop_early is set, but keep_best is not: say by which number a step is better, such "
            "as --config.keep_best='retrieval/*/average_recall'"
        )
    if not 0 < config.get("interpolate", 1.0) <= 1:
        raise UserError(
            f"interpolate is {config.interpolate}, expected the share of the run's own weights, "
            "above 0 and up to 1"
        )
    if not 0 <= config.optimizer.get("average", 0.0) < 1:
        raise UserError(
            f"optimizer.average is {config.optimizer.average}, expected a momentum from 0 to below "
            "1, such as 0.999"
        )
    steps = config.get("profile_steps", ())
    if steps and not (len(steps) == 2 and 0 <= steps[0] < steps[1] <= config.steps):
        raise UserError(
            f"profile_steps is {tuple(steps)}, expected the first step and the one after the last, "
            f"between 0 and {config.steps}: --config.profile_steps=10,20"
        )
    if config.keep_best and not config.evaluate_every:
        raise UserError(
            f"keep_best is {config.keep_best!r}, but evaluate_every is 0: the last step is the "
            "only one that is evaluated; set --config.evaluate_every to a number of steps"
        )
    share = config.max_bad_records
    if not 0 <= share <= 1:
        raise UserError(f"max_bad_records is {share}, expected a share from 0 to 1")


def _check_images(config):
    if config.images.crop > config.images.resize:
        raise UserError(
            f"images.crop is {config.images.crop}, larger than images.resize = "
            f"{config.images.resize}"
        )
    if config.images.crop != config.model.image.image_size:
        raise UserError(
            f"images.crop is {config.images.crop}, but the image tower takes "
            f"{config.model.image.image_size} px: make them equal"
        )


def _check_step(config):
    lookup(LOSS_SCALES, config.get("precision", "float32"), "precision")
    lookup(ON_BAD_STEP, config.get("on_bad_step", "stop"), "on_bad_step")
    norm, in_a_row = config.get("max_gradient_norm", 0), config.get("max_skipped_in_a_row", 1)
    if not norm >= 0:
        raise UserError(f"max_gradient_norm is {norm}, expected a norm, or 0 for no limit")
    if in_a_row < 1:
        raise UserError(f"max_skipped_in_a_row is {in_a_row}, expected a number of steps from 1")


def field_kinds(config):
    """{field: kind} over all sources."""
    kinds = {}
    for name, source in config.sources.items():
        for field, kind in source.fields.items():
            if field in kinds:
                raise UserError(f"two sources have a field {field!r}; rename the one of {name!r}")
            lookup(dict.fromkeys(KINDS), kind, f"kind (of the field {field!r})")
            kinds[field] = kind
        found = list(source.fields.values())
        if found.count("image") > 1 or found.count("text") > 2:
            raise UserError(
                f"the source {name!r} has the fields {', '.join(source.fields)}: expected one "
                "image and two texts at most; draw the others from a source of their own"
            )
    return kinds


def find_vocabulary(name, data_dir):
    """Path of the vocabulary of this name: "scenes", a path, or a path under `data_dir`."""
    if name == "scenes":
        return SCENES_VOCABULARY
    for path in (name, os.path.join(data_dir, name)):
        if file_io.exists(path):
            return path
    raise UserError(
        f"no vocabulary {name!r}, nor {os.path.join(data_dir, name)}: train one with "
        "--vocab_size of tools/convert.py or with tools/build_vocab.py, or set --config.vocabulary "
        "to the vocab.txt of the model"
    )
