"""Builds training datasets for trainers: the samplers of record sets, and the batches."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_mural.data import input_pipeline, language_sampling
from tf_mural.data.block_sampling import WINDOW_BLOCKS
from tf_mural.data.code_switching import CodeSwitch, make_code_switchers
from tf_mural.data.encoder_inputs import as_preprocessing
from tf_mural.data.mined_negatives import MinedNegatives
from tf_mural.data.negative_sampler import NegativeSampler
from tf_mural.data.records import SHUFFLE_LIMIT, RecordSet
from tf_mural.data.sampling import IndexSampler
from tf_mural.data.skipped_records import SkippedRecords
from tf_mural.data.vector_fields import count_texts, open_vector_fields, required_vectors
from tf_mural.errors import UserError, lookup
from tf_mural.modalities import MODALITIES

Records = str | os.PathLike | RecordSet | Sequence[str | os.PathLike | RecordSet] | MinedNegatives


def training_dataset(
    records: Records | Mapping[str, Records],
    trainer: Any,
    batch_size: int,
    *,
    languages: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    start_step: int | None = None,
    tokenizer: Any = None,
    preprocessing: Any = None,
    epoch_unit: str | Mapping[str, str] | None = None,
    min_languages: int | Mapping[str, int] | None = None,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    temperature: float | Mapping[str, float] = 1.0,
    language_temperature: float | Mapping[str, float] | None = None,
    min_language_share: float | Mapping[str, float] = 0.0,
    languages_of: str | Mapping[str, str] = "draw",
    alpha: float | Mapping[str, float] = 0.5,
    shuffle_limit: int | Mapping[str, int] = SHUFFLE_LIMIT,
    window_blocks: int | Mapping[str, int] = WINDOW_BLOCKS,
    flip: bool | Mapping[str, bool] = True,
    code_switch: CodeSwitch | Mapping[str, CodeSwitch] | None = None,
    seed: int | None = None,
    max_bad_records: float = 0.01,
) -> tf.data.Dataset:
    """Returns an infinite dataset of training batches for `trainer.fit`.

        tf_mural.data.training_dataset("data/scenes/train", trainer, batch_size=128)

    The order of the examples depends only on the seed and the number of the step. With the same
    seed and the same sources, tools/train.py reads the same examples in the same order.

    Args:
        records: path of a record set, `RecordSet`, or a sequence of them; for a trainer with
            several sources, {name of a source: records}. A sequence is mixed, see `weights`. A
            source of hard negatives has `MinedNegatives`.
        trainer: a trainer, such as `tf_mural.ETCL(model)`, whose fields are read.
        batch_size: number of examples per step and source, over all replicas.
        languages: codes of the languages whose texts are drawn. None: English for the images of
            `ALIGN` and `MURAL`, as in the paper, otherwise all languages of the records. This
            option, like each option below whose type includes a mapping, may be
            {name of a source: value}.
        start_step: number of the first step. None: each iterator of the dataset starts at
            `trainer.step`. A second call of `fit`, and a `fit` after `BackupAndRestore` has
            restored the trainer, therefore continue with the next examples.
        tokenizer: a `Tokenizer`, a tokenizer of KerasHub, or the path of a vocabulary. None: the
            tokenizer of the text encoders.
        preprocessing: a `Preprocessing`. None: the preprocessing of the image encoders. If its
            `resize` is not larger than its `crop`, images are resized to 9/8 of `crop`, so that
            random crops differ.
        epoch_unit, min_languages, weights, temperature: see `sampling.IndexSampler`. None: the
            value of the paper for `ETCL`, otherwise the default of `IndexSampler`.
        language_temperature, min_language_share, languages_of, alpha: shares of the languages, and
            batches of one language; see `language_sampling.LanguageSampler`. Default: the records
            determine the languages.
        shuffle_limit, window_blocks: record sets with more than `shuffle_limit` records are read in
            windows of `window_blocks` blocks; see `block_sampling.BlockSampler`.
        flip: whether images may be mirrored. Images of records whose captions mention left or right
            are never mirrored.
        code_switch: `CodeSwitch` of the source whose words are replaced by their translations, or
            {name of a source: CodeSwitch}. None: no words are replaced.
        seed: seed of the order, the crops, the language pairs and the replaced words. None: the
            seed of the trainer.
        max_bad_records: maximum share, from 0 to 1, of records that cannot be used.

    Returns:
        `tf.data.Dataset` of {field: {"pixels" uint8 (n, crop, crop, 3), "tokens" int32 (n, t) or
        "vectors" float32 (n, width), "id" int64 (n,), "language" int32 (n,) for texts}}. In the
        scope of a strategy with several replicas, the dataset is distributed, with n = batch_size /
        replicas examples per replica.

    Raises:
        UserError: there is no record set, or the records, sources, languages or the batch size do
            not fit the trainer.
    """
    core, model, stored = trainer.core, trainer.encoder, trainer.encoder.stored
    modalities = {field: stored.modalities[tower] for field, tower in core.fields.items()}
    vectors = {tower: (*v, model.modalities[tower]) for tower, v in stored.vectors.items()}
    vectors = {field: vectors[tower] for field, tower in core.fields.items() if tower in vectors}
    options = {
        "languages": languages,
        "epoch_unit": epoch_unit,
        "min_languages": min_languages,
        "weights": weights,
        "temperature": temperature,
        "language_temperature": language_temperature,
        "min_language_share": min_language_share,
        "languages_of": languages_of,
        "alpha": alpha,
        "shuffle_limit": shuffle_limit,
        "window_blocks": window_blocks,
    }
    sources, samplers = [], {}
    for name, sets in _records_of_sources(records, trainer.sources).items():
        fields = {field: modalities[field] for field in trainer.sources[name]}
        defaults = trainer.source_options.get(name, {})
        values = {k: _option(v, name, trainer.sources) for k, v in options.items()}
        values = {k: defaults.get(k) if v is None else v for k, v in values.items()}
        values = {k: v for k, v in values.items() if v is not None}
        of_source = {field: vectors[field] for field in fields if field in vectors}
        values |= {"batch_size": batch_size, "seed": core.seed if seed is None else seed}
        sampler = samplers[name] = _make_sampler(name, sets, fields, of_source, samplers, values)
        may_flip = _option(flip, name, trainer.sources) in (None, True)
        switch = _option(code_switch, name, trainer.sources)
        sources.append(make_source(sampler, fields, may_flip, of_source, switch, values["seed"]))
    strategy = getattr(trainer, "distribute_strategy", None)
    replicas = strategy.num_replicas_in_sync if strategy else 1
    _check_batch_size(batch_size, replicas, core)
    # A tower whose features are stored needs no images or texts.
    fields = {f: t for f, t in core.fields.items() if t not in stored.projections}
    text_towers, image_towers = (_towers(model, fields, name) for name in ("text", "image"))
    folders = tuple(record_set.folder for s in samplers.values() for record_set in s.sets)
    skipped_records = SkippedRecords(max_bad_records, folders, "the tokenizer")
    arguments = (
        sources,
        _tokenizer(tokenizer, text_towers),
        _preprocessing(preprocessing, image_towers),
        _languages(sources, core.languages),
        batch_size,
        replicas,
    )
    start = trainer.next_step if start_step is None else start_step

    def make_dataset(_=None):
        return input_pipeline.training_dataset(
            *arguments, start_step=start, skipped_records=skipped_records
        )

    if replicas > 1:
        dataset = strategy.distribute_datasets_from_function(make_dataset)
    else:
        dataset = make_dataset()
    # `fit` reads this attribute to enforce the limit, and to explain errors of the dataset.
    dataset.skipped_records = skipped_records
    return dataset


def make_sampler(
    name: str,
    sets: Sequence[RecordSet],
    modalities: Mapping[str, str],
    languages: Sequence[str] | None = None,
    vectors: Mapping[str, tuple[str, int | None, str]] | None = None,
    **options: Any,
) -> IndexSampler:
    """Returns the sampler of a source.

    Args:
        name: name of the source.
        sets: the record sets.
        modalities: {field: modality} of the source.
        languages: codes of the languages whose texts are drawn; None: all languages.
        vectors: {field: (name of its vectors, width, modality of its tower)} of the fields with the
            modality "vectors"; a width of None is not checked.
        **options: further arguments of `language_sampling.make_sampler`.

    Raises:
        UserError: the record sets lack a language, the images or the vectors that the source needs.
    """
    known = dict.fromkeys(sorted({code for record_set in sets for code in record_set.languages}))
    for code in languages or ():
        lookup(known, code, f"language (of the source {name!r})")
    parts = [MODALITIES[modality].part for modality in modalities.values()]
    with_image = "images" in parts
    for record_set in sets:
        if with_image and not record_set.manifest["images"]:
            raise UserError(
                f"{record_set.folder} has no images, but the source {name!r} has an image field: "
                "use other records"
            )
    fields = open_vector_fields(name, sets, vectors or {}, parts.count("texts"))
    # Without a text field, a text is drawn for vectors of texts.
    count = max(parts.count("texts"), count_texts(fields))
    return language_sampling.make_sampler(
        sets,
        count,
        languages,
        name=name,
        with_image=with_image,
        with_vectors=required_vectors(fields),
        **options,
    )


def make_negative_sampler(
    name: str,
    base: IndexSampler,
    folders: Sequence[str],
    modalities: Mapping[str, str],
    seed: int,
    vectors: Mapping[str, tuple[str, int | None, str]] | None = None,
) -> NegativeSampler:
    """Returns the sampler of a source of mined negatives.

    Args:
        name: name of the source.
        base: sampler of the source whose records have the negatives.
        folders: folders of the mined negatives.
        modalities: {field: modality} of the source.
        seed: seed of the run.
        vectors: see `make_sampler`.

    Raises:
        UserError: see `NegativeSampler`.
    """
    parts = [MODALITIES[modality].part for modality in modalities.values()]
    count, with_image = parts.count("texts"), "images" in parts
    sampler = NegativeSampler(base, folders, count, name, seed, with_image)
    if not vectors:
        return sampler
    fields = open_vector_fields(name, sampler.sets, vectors, count)
    count, with_vectors = max(count, count_texts(fields)), required_vectors(fields)
    return NegativeSampler(base, folders, count, name, seed, with_image, with_vectors)


def make_source(
    sampler: IndexSampler,
    modalities: Mapping[str, str],
    flip: bool,
    vectors: Mapping[str, tuple[str, int | None, str]] | None = None,
    code_switch: CodeSwitch | None = None,
    seed: int = 0,
) -> input_pipeline.Source:
    """Returns the source of a sampler.

    Args:
        sampler: result of `make_sampler`.
        modalities: {field: modality} of the source.
        flip: whether images may be mirrored. Images are never mirrored if the manifest of their
            records does not list the augmentation "flip", because captions mention left or right.
        vectors: see `make_sampler`.
        code_switch: `CodeSwitch` of the source; None: no words are replaced.
        seed: seed of the run.

    Raises:
        UserError: `code_switch` names a field that is not a text field of the source, or its
            lexicon cannot be used.
    """
    may_flip = all("flip" in s.manifest["augmentations"] for s in sampler.sets)
    text_fields = list(modalities.values()).count("text")
    fields = open_vector_fields(sampler.name, sampler.sets, vectors or {}, text_fields)
    switchers = make_code_switchers(sampler.name, modalities, code_switch, seed, sampler.languages)
    return input_pipeline.Source(sampler, dict(modalities), flip and may_flip, fields, switchers)


def _make_sampler(name, sets, fields, vectors, samplers, options):
    """Returns the sampler of `sets`; `samplers` are those of the earlier sources."""
    if not isinstance(sets, MinedNegatives):
        return make_sampler(name, sets, fields, vectors=vectors, **options)
    base = lookup(samplers, sets.of, f"source of the negatives {name!r}:")
    return make_negative_sampler(name, base, sets.paths(), fields, options["seed"], vectors)


def _records_of_sources(records, sources):
    """Returns {source: list of `RecordSet` or `MinedNegatives`} in the order of the sources."""
    if not isinstance(records, Mapping):
        if len(sources) > 1:
            raise UserError(
                f"the trainer has the sources {', '.join(sources)}: expected records as "
                "{name of a source: path of a record set}"
            )
        records = {next(iter(sources)): records}
    for name in records:
        lookup(sources, name, "source of the trainer:")
    missing = [name for name in sources if name not in records]
    if missing:
        raise UserError(f"records has no record set for the source {missing[0]!r} of the trainer")
    opened = {}
    # Negatives follow the other sources, because they need the samplers of these.
    for name in sorted(sources, key=lambda name: isinstance(records[name], MinedNegatives)):
        paths = records[name]
        if isinstance(paths, MinedNegatives):
            opened[name] = paths
            continue
        if isinstance(paths, str | os.PathLike | RecordSet) or not isinstance(paths, Iterable):
            paths = [paths]
        opened[name] = [p if isinstance(p, RecordSet) else RecordSet.open(p) for p in paths]
        if not opened[name]:
            raise UserError(f"records: the source {name!r} has no record sets")
    return opened


def _option(value, source, sources):
    """Returns the value of an option for a source; None: the default value."""
    if not isinstance(value, Mapping):
        return value
    for name in value:
        lookup(sources, name, "source of the trainer:")
    return value.get(source)


def _towers(model, fields, modality):
    names = dict.fromkeys(t for t in fields.values() if model.modalities[t] == modality)
    return {name: model.towers[name] for name in names}


def _tokenizer(tokenizer, towers):
    if not towers:
        return None
    if tokenizer is not None:
        from tf_mural.data.encoder_inputs import as_tokenizer

        return as_tokenizer(tokenizer)
    tokenizers = {name: getattr(tower, "tokenizer", None) for name, tower in towers.items()}
    for name, value in tokenizers.items():
        if value is None:
            raise UserError(f"the text encoder {name!r} has no tokenizer: give tokenizer=...")
    first, *others = tokenizers.values()
    key = (first.hash, first.max_tokens)
    if any((other.hash, other.max_tokens) != key for other in others):
        raise UserError(
            f"the text encoders {', '.join(tokenizers)} have different tokenizers, but the texts "
            "of a batch have the tokens of one tokenizer: use encoders with the same vocabulary"
        )
    return first


def _preprocessing(preprocessing, towers):
    sizes = {name: tower.input.shape[1] for name, tower in towers.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"the image encoders have different image sizes: {sizes}")
    if not towers:
        return None
    size = next(iter(sizes.values()))
    if preprocessing is None:
        preprocessing = getattr(next(iter(towers.values())), "preprocessing", None)
    preprocessing = as_preprocessing(preprocessing, size)
    if preprocessing.resize > preprocessing.crop:
        return preprocessing
    return dataclasses.replace(preprocessing, resize=preprocessing.crop * 9 // 8)


def _languages(sources, languages):
    """Returns the language codes; the language ids of a batch are positions in this sequence."""
    drawn = sorted({code for source in sources for code in source.sampler.languages})
    if not languages:
        return tuple(drawn)
    missing = [code for code in drawn if code not in languages]
    if missing:
        raise UserError(
            f"the records have texts in {', '.join(missing)}, but the trainer has the languages "
            f"{', '.join(languages)}: give the dataset languages=..., or the trainer all languages"
        )
    return tuple(languages)


def _check_batch_size(batch_size, replicas, core):
    if batch_size < 2 or batch_size % replicas:
        raise UserError(
            f"batch_size is {batch_size}, expected a number from 2 that {replicas} replicas share "
            "evenly, because each example needs a negative"
        )
    rows = batch_size // replicas
    for name in ("microbatch", "loss_chunk"):
        if getattr(core, name) and rows % getattr(core, name):
            raise UserError(
                f"batch_size is {batch_size}, and {name} of the trainer is {getattr(core, name)}, "
                f"which does not divide the {rows} rows of a replica"
            )
