"""The data of a config: records made and opened, streams, pictures to look at, evaluation."""

import os

import numpy as np
import tensorflow as tf

from tf_mural import conversion
from tf_mural.data import image_ops, input_pipeline
from tf_mural.data.records import RecordSet, deserialize
from tf_mural.data.sampling import Stream
from tf_mural.errors import UserError, lookup


def make_records(config, data_dir):
    """Converts the data sets that training may make itself, where they are missing."""
    for name in config.makes:
        conversion.ensure(name, os.path.join(data_dir, name))


def open_records(folder, data_dir, whole=True):
    """The record set `folder`, a path or one under `data_dir`; `whole` as in `RecordSet.open`."""
    inside = os.path.join(data_dir, folder)
    there = inside if os.path.isdir(inside) or not os.path.isdir(folder) else folder
    return RecordSet.open(there, whole)


def make_stream(name, source, data_dir, seed, whole=True):
    """The `sampling.Stream` of a source of the config; `whole` as in `RecordSet.open`."""
    sets = [open_records(folder, data_dir, whole) for folder in source.records]
    present = {code for s in sets for code in s.languages}
    for code in source.languages:
        lookup(dict.fromkeys(sorted(present)), code, f"language (of the source {name!r})")
    with_image = "image" in source.fields.values()
    for s in sets:
        if with_image and not s.manifest["images"]:
            raise UserError(
                f"{s.folder} has no images, but the source {name!r} has a field of them: take "
                "other records"
            )
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
        with_image=with_image,
    )


def make_source(stream, source):
    """The `pipeline.Source` of a stream and its part of the config."""
    # A caption that says left or right forbids mirroring; the records say so.
    allowed = all("flip" in s.manifest["augmentations"] for s in stream.sets)
    return input_pipeline.Source(stream, source.fields.to_dict(), flip=source.flip and allowed)


def training_sheet(sources, sizes, count=12):
    """Training images as augmented for the first draws, with the texts of their records."""
    source = next((s for s in sources if "image" in s.fields.values()), None)
    if source is None:
        return np.zeros((0, sizes.crop, sizes.crop, 3), np.uint8), []
    draws = tf.range(count, dtype=tf.int64)
    which, unit = (x.numpy() for x in source.stream.draw(draws))
    record_numbers, _, _ = source.stream.locate(draws.numpy(), which, unit)
    pictures, captions = [], []
    for seed, part, number in zip(source.stream.seeds(draws), which, record_numbers, strict=True):
        try:
            record = deserialize(source.stream.sets[part].read([number], verify=True)[0])
            image = image_ops.resize(image_ops.decode(record.images[0]), sizes.resize)
        except (UserError, ValueError, IndexError, tf.errors.OpError):
            continue  # training meets it too, and says so
        pictures.append(image_ops.random_crop(image, sizes.crop, seed, flip=source.flip).numpy())
        captions.append([t for t in record.texts if t[0] in source.stream.languages][:6])
    return np.array(pictures, np.uint8).reshape(-1, sizes.crop, sizes.crop, 3), captions
