"""Makes the record sets, samplers and sources of a config, and a sheet of training images."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from tf_mural import conversion, file_io
from tf_mural.data import image_ops, training_data
from tf_mural.data.code_switching import CodeSwitch
from tf_mural.data.lexicon import Lexicon
from tf_mural.data.records import SHUFFLE_LIMIT, RecordSet, deserialize
from tf_mural.datasets.scenes.lexicon import scenes_lexicon
from tf_mural.errors import UserError, lookup
from tf_mural.experiment.stored_vectors import field_vectors

_MAX_CAPTIONS = 6


def make_records(config, data_dir):
    """Converts the data sets of `config.auto_convert` whose records are missing."""
    for name in config.auto_convert:
        conversion.ensure(name, os.path.join(data_dir, name))


def open_records(folder, data_dir, strict=True, max_indexed=SHUFFLE_LIMIT):
    """Opens a record set.

    Args:
        folder: path of the record set, which may be relative to `data_dir`.
        data_dir: folder of the record sets.
        strict, max_indexed: see `RecordSet.open`.
    """
    return RecordSet.open(find_records(folder, data_dir), strict, max_indexed)


def find_records(folder, data_dir):
    """Returns the path of a record set or of mined negatives; it may be relative to `data_dir`."""
    if file_io.is_remote(folder):
        return folder
    in_data_dir = os.path.join(data_dir, folder)
    use_data_dir = file_io.isdir(in_data_dir) or not os.path.isdir(folder)
    return in_data_dir if use_data_dir else folder


def make_sampler(
    name, source, modalities, data_dir, seed, strict=True, batch_size=None, vectors=None
):
    """Returns the `IndexSampler` of a source of the config.

    Args:
        name: name of the source.
        source: ConfigDict of the source, see `source` in configs/base.py.
        modalities: {field: modality} of the source.
        data_dir: folder of the record sets.
        seed: seed of the run.
        strict: see `RecordSet.open`.
        batch_size: number of draws per step, which batches of one language need.
        vectors: result of `stored_vectors.field_vectors`.

    Raises:
        UserError: the record sets lack a language or the images that the source needs.
    """
    return training_data.make_sampler(
        name,
        [open_records(folder, data_dir, strict, source.shuffle_limit) for folder in source.records],
        modalities,
        source.languages,
        epoch_unit=source.epoch_unit,
        min_languages=source.min_languages,
        weights=source.weights,
        temperature=source.temperature,
        language_temperature=source.language_temperature,
        min_language_share=source.min_language_share,
        languages_of=source.languages_of,
        alpha=source.alpha,
        shuffle_limit=source.shuffle_limit,
        window_blocks=source.window_blocks,
        batch_size=batch_size,
        vectors=_of_source(vectors, source),
        seed=seed,
    )


def make_negative_sampler(name, source, base, modalities, data_dir, seed, vectors=None):
    """Returns the `NegativeSampler` of a source with `negatives_of`.

    Args:
        name, source, modalities, data_dir, seed, vectors: see `make_sampler`; the records of the
            source are folders of mined negatives.
        base: the sampler of the source `negatives_of`.

    Raises:
        UserError: a folder has no mined negatives, or those of other records.
    """
    folders = [find_records(folder, data_dir) for folder in source.records]
    return training_data.make_negative_sampler(
        name, base, folders, modalities, seed, _of_source(vectors, source)
    )


def make_source(sampler, source, modalities, data_dir, config):
    """Returns the `input_pipeline.Source` of a sampler, with the settings of a source.

    Args:
        sampler: result of `make_sampler` or `make_negative_sampler`.
        source, modalities, data_dir: see `make_sampler`.
        config: ConfigDict of the stage.
    """
    options = code_switch_options(sampler.name, source)
    if options is not None:
        lexicon = open_lexicon(options.lexicon, data_dir)
        options = dataclasses.replace(options, lexicon=lexicon)
    vectors = _of_source(field_vectors(config), source)
    return training_data.make_source(
        sampler, modalities, source.flip, vectors, options, config.seed
    )


def code_switch_options(name, source):
    """Returns the `CodeSwitch` of a source of the config; None: it has no value `code_switch`.

    Args:
        name: name of the source.
        source: ConfigDict of the source.

    Raises:
        UserError: a value is invalid.
    """
    values = source.get("code_switch")
    if not values:
        return None
    known = [field.name for field in dataclasses.fields(CodeSwitch)]
    for key in values:
        lookup(dict.fromkeys(known), key, f"value of sources.{name}.code_switch:")
    for key in ("fields", "lexicon"):
        if key not in values:
            raise UserError(
                f"sources.{name}.code_switch has no value {key!r}, see configs/codeswitch.py"
            )
    try:
        return CodeSwitch(**values)
    except UserError as error:
        raise UserError(f"sources.{name}.code_switch: {error}") from None


def open_lexicon(name, data_dir):
    """Opens a lexicon.

    Args:
        name: "scenes" for the vocabulary of the data set scenes; or the path of a folder, which may
            be relative to `data_dir`.
        data_dir: folder of the record sets.
    """
    return scenes_lexicon() if name == "scenes" else Lexicon.open(find_records(name, data_dir))


def _of_source(vectors, source):
    return {field: value for field, value in (vectors or {}).items() if field in source.fields}


def training_sheet(sources, preprocessing, count=12):
    """Returns the augmented images of the first training examples, and the texts of their records.

    Args:
        sources: list of `input_pipeline.Source`; the first source with images is used.
        preprocessing: `preprocessing.Preprocessing`.
        count: number of training examples.

    Returns:
        (images, texts): uint8 (n, crop, crop, 3), and a list of (language, text) for each image.
        n is less than `count` if images are damaged, and 0 if no source has images.
    """
    source = next((s for s in sources if "image" in s.fields.values()), None)
    size = preprocessing.crop
    if source is None:
        return np.zeros((0, size, size, 3), np.uint8), []
    sampler, draws = source.sampler, tf.range(count, dtype=tf.int64)
    set_indices, units = (x.numpy() for x in sampler.sample(draws))
    numbers, _, _ = sampler.resolve(draws.numpy(), set_indices, units)
    images, captions = [], []
    for seed, set_index, number in zip(sampler.seeds(draws), set_indices, numbers, strict=True):
        try:
            record = deserialize(sampler.sets[set_index].read([number], verify=True)[0])
            image = image_ops.resize_for(image_ops.decode(record.images[0]), preprocessing)
        except (UserError, ValueError, IndexError, tf.errors.OpError):
            continue  # Training reports damaged records; this function only omits them.
        images.append(image_ops.random_crop(image, size, seed, flip=source.flip).numpy())
        texts = [pair for pair in record.texts if pair[0] in sampler.languages]
        captions.append(texts[:_MAX_CAPTIONS])
    return np.array(images, np.uint8).reshape(-1, size, size, 3), captions
