"""Config to objects: the only file of the package that sees a config."""

import dataclasses
import functools
import os

import keras
import numpy as np
import tensorflow as tf

from tf_mural import checkpoints, conversion, images, models, optimizers, pipeline
from tf_mural.base import UserError, pick
from tf_mural.embedder import Embedder
from tf_mural.objective import Term
from tf_mural.records import RecordSet, deserialize
from tf_mural.sampling import Stream
from tf_mural.tasks import TASKS
from tf_mural.text import Tokenizer
from tf_mural.training import Trainer

SCENES_VOCABULARY = os.path.join(os.path.dirname(__file__), "datasets", "scenes", "vocab.txt")
KINDS = ("image", "text")


@dataclasses.dataclass
class Run:
    """The objects of one run, ready for `loop.train`.

    Attributes:
        trainer: compiled `training.Trainer`.
        dataset: function of the first step to the batches of this worker.
        evaluate: function without arguments to {task: base.Result}.
        description: what model.json holds.
        vocabulary_path: file of the vocabulary.
        data: {record folder: digest} of all that the run reads.
        contact_sheet: function to augmented training images uint8 (n, h, w, 3) and their captions
            [[(language, text)]].
    """

    trainer: Trainer
    dataset: object
    evaluate: object
    description: dict
    vocabulary_path: str
    data: dict
    contact_sheet: object


def build(config, data_dir, strategy):
    """Makes everything that a run needs.

    Args:
        config: a stage's ConfigDict, see configs/base.py.
        data_dir: folder that the config's record folders are under.
        strategy: a `tf.distribute.Strategy`.

    Raises:
        UserError: a name, language, file or number in the config that cannot be.
    """
    replicas = strategy.num_replicas_in_sync
    check(config, replicas)
    vocabulary_path = find_vocabulary(config.vocabulary, data_dir)
    tokenizer = Tokenizer(vocabulary_path, config.model.text.max_tokens)
    streams = {
        name: _stream(name, source, data_dir, config.seed)
        for name, source in config.sources.items()
    }
    languages = tuple(sorted({code for s in streams.values() for code in s.languages}))
    description = describe(config, tokenizer)

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        trainer = Trainer(
            models.dual_encoder(**model_arguments(description)),
            [Term(name=name, **fields) for name, fields in config.terms.items()],
            field_kinds(config),
            languages,
            seed=config.seed,
            clip_norm=config.optimizer.clip_norm or None,
        )
        trainer.compile(optimizer=_optimizer(config), jit_compile=config.jit_compile)

    sources = [_source(streams[name], source) for name, source in config.sources.items()]
    sizes = pipeline.Sizes(config.images.resize, config.images.crop)
    dataset = functools.partial(
        pipeline.training_dataset,
        sources,
        tokenizer,
        sizes,
        languages,
        config.batch_size,
        replicas,
        (0, 1),
    )
    embed = embedder(trainer.encoder, tokenizer, config.images)
    return Run(
        trainer=trainer,
        dataset=dataset,
        evaluate=_evaluation(config, data_dir, embed),
        description=description,
        vocabulary_path=vocabulary_path,
        data={s.folder: s.digest for stream in streams.values() for s in stream.sets},
        contact_sheet=functools.partial(_sheet, sources, sizes),
    )


def make_records(config, data_dir):
    """Converts the data sets that training may make itself, where they are missing."""
    for name in config.makes:
        conversion.ensure(name, os.path.join(data_dir, name))


def check(config, replicas):
    """Raises UserError where the parts of a config contradict each other."""
    kinds = field_kinds(config)
    for name, term in config.terms.items():
        for field in (term.x, term.y):
            pick(kinds, field, f"field (of the term {name!r})")
        pick(config.model.temperatures, term.temperature, f"temperature (of the term {name!r})")
        _pick_loss(term.loss)
    if not len(config.terms):
        raise UserError("the config has no terms: nothing to learn from")
    unused = sorted(set(kinds) - {f for t in config.terms.values() for f in (t.x, t.y)})
    if unused:
        raise UserError(f"no term uses the field {unused[0]!r}; take it out of its source")
    if config.batch_size < 2 or config.batch_size % replicas:
        nearest = max(2, round(config.batch_size / replicas)) * replicas
        raise UserError(
            f"batch_size is {config.batch_size}, but {replicas} replicas share it evenly and each "
            f"row needs a negative: set --config.batch_size={nearest}"
        )
    if not 0 <= config.optimizer.warmup_steps < config.steps:
        raise UserError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, but the run has "
            f"{config.steps} steps: fewer warm-up steps, or more steps"
        )
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


def _pick_loss(name):
    from tf_mural.losses import LOSSES

    return pick(LOSSES, name, "loss")


def field_kinds(config):
    """{field: kind} over all sources."""
    kinds = {}
    for name, source in config.sources.items():
        for field, kind in source.fields.items():
            if field in kinds:
                raise UserError(f"two sources have a field {field!r}; rename the one of {name!r}")
            pick(dict.fromkeys(KINDS), kind, f"kind (of the field {field!r})")
            kinds[field] = kind
    return kinds


def find_vocabulary(name, data_dir):
    """Path of the vocabulary of this name: "scenes", a path, or a path under `data_dir`."""
    if name == "scenes":
        return SCENES_VOCABULARY
    for path in (name, os.path.join(data_dir, name)):
        if os.path.exists(path):
            return path
    raise UserError(
        f"no vocabulary {name!r}, nor {os.path.join(data_dir, name)}: train one with "
        "tools/build_vocab.py, or set --config.vocabulary to the vocab.txt of the model"
    )


def describe(config, tokenizer):
    """What rebuilds the model without its config: the content of model.json."""
    return {
        "model": config.model.to_dict(),
        "images": config.images.to_dict(),
        "vocabulary_size": tokenizer.size,
        "vocabulary_hash": tokenizer.hash,
        "max_tokens": tokenizer.max_tokens,
    }


def model_arguments(description):
    """Keyword arguments of `models.dual_encoder`."""
    model = {**description["model"]}
    image, text = dict(model["image"]), dict(model["text"])
    # Flags cannot say None: 0 is a replica's whole share, "" no preset.
    image["batch_norm_group"] = image["batch_norm_group"] or None
    image["preset"], text["preset"] = image["preset"] or None, text["preset"] or None
    text["vocabulary_size"] = description["vocabulary_size"]
    return {**model, "image": image, "text": text}


def load(folder):
    """The encoder, tokenizer and embedder of a finished run.

    Args:
        folder: workdir of a run.

    Returns:
        (`models.DualEncoder`, `text.Tokenizer`, `embedder.Embedder`).

    Raises:
        UserError: there is no model, or its vocabulary is not the one it was trained with.
    """
    description = checkpoints.read_model(folder)
    tokenizer = Tokenizer(os.path.join(folder, checkpoints.VOCABULARY), description["max_tokens"])
    if tokenizer.hash != description["vocabulary_hash"]:
        raise UserError(
            f"{os.path.join(folder, checkpoints.VOCABULARY)} has hash {tokenizer.hash}, but the "
            f"model was trained with {description['vocabulary_hash']}: put the right one back"
        )
    encoder = models.dual_encoder(**model_arguments(description))
    checkpoints.load_weights(folder, encoder)
    return encoder, tokenizer, embedder(encoder, tokenizer, description["images"])


def hand_over(folder, run):
    """Starts a run from the weights of another one; optimizer slots stay fresh.

    Raises:
        UserError: the vocabularies or the shapes of the two models differ.
    """
    theirs = checkpoints.read_model(folder)
    ours = run.description["vocabulary_hash"]
    if theirs["vocabulary_hash"] != ours:
        raise UserError(
            f"{folder} was trained with vocabulary {theirs['vocabulary_hash']}, this run has "
            f"{ours} ({run.vocabulary_path}): set --config.vocabulary="
            f"{os.path.join(folder, checkpoints.VOCABULARY)}"
        )
    checkpoints.load_weights(folder, run.trainer.encoder)


def embedder(encoder, tokenizer, sizes, batch_size=128):
    """An `Embedder` over the towers of `encoder`; sizes: {"resize", "crop"} in pixels."""

    def tower(kind):
        return tf.function(lambda batch: encoder.encode(kind, batch, training=False))

    preprocess = functools.partial(
        images.for_evaluation, resize_to=sizes["resize"], size=sizes["crop"]
    )
    return Embedder(
        tower("image"),
        tower("text"),
        tokenizer,
        preprocess,
        width=encoder.towers["text"].output.shape[-1],
        batch_size=batch_size,
    )


def open_records(folder, data_dir):
    """The record set `folder`, a path or one under `data_dir`."""
    inside = os.path.join(data_dir, folder)
    return RecordSet.open(inside if os.path.isdir(inside) or not os.path.isdir(folder) else folder)


def _stream(name, source, data_dir, seed):
    sets = [open_records(folder, data_dir) for folder in source.records]
    present = {code for s in sets for code in s.languages}
    for code in source.languages:
        pick(dict.fromkeys(sorted(present)), code, f"language (of the source {name!r})")
    texts = sum(kind == "text" for kind in source.fields.values())
    return Stream(
        sets,
        texts,
        source.languages or None,
        walk=source.walk,
        min_languages=source.min_languages,
        weights=source.weights or None,
        temperature=source.temperature,
        seed=seed,
        name=name,
    )


def _source(stream, source):
    # A caption that says left or right forbids mirroring; the records say so.
    allowed = all("flip" in s.manifest["augmentations"] for s in stream.sets)
    return pipeline.Source(stream, source.fields.to_dict(), flip=source.flip and allowed)


def _optimizer(config):
    options = config.optimizer.to_dict()
    options.pop("clip_norm")
    rate = optimizers.LinearSchedule(
        options.pop("learning_rate"), config.steps, options.pop("warmup_steps")
    )
    make = pick(optimizers.OPTIMIZERS, options.pop("name"), "optimizer")
    return make(rate, **options)


def _evaluation(config, data_dir, embed):
    """Function to {task: Result}; unknown tasks and missing records are refused right away."""
    planned = []
    for name, options in config.evaluation.items():
        run = pick(TASKS, name, "task")
        planned.append((name, run, open_records(options.records, data_dir), options))

    def evaluate():
        return {
            name: run(embed, record_set, languages=options.languages or None)
            for name, run, record_set, options in planned
        }

    return evaluate


def _sheet(sources, sizes, count=12):
    """Training images as augmented for the first draws, with the texts of their records."""
    source = next((s for s in sources if "image" in s.fields.values()), None)
    if source is None:
        return np.zeros((0, sizes.crop, sizes.crop, 3), np.uint8), []
    draws = tf.range(count, dtype=tf.int64)
    which, unit = (x.numpy() for x in source.stream.draw(draws))
    record_numbers, _, _ = source.stream.locate(draws.numpy(), which, unit)
    pictures, captions = [], []
    for seed, part, number in zip(source.stream.seeds(draws), which, record_numbers, strict=True):
        record = deserialize(source.stream.sets[part].read([number])[0])
        image = images.resize(images.decode(record.images[0]), sizes.resize)
        pictures.append(images.random_crop(image, sizes.crop, seed, flip=source.flip).numpy())
        captions.append([t for t in record.texts if t[0] in source.stream.languages][:6])
    return np.stack(pictures), captions
