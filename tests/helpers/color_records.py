"""Records with an image of a single color and two texts, and training batches of these records."""

import functools
import os

from helpers.images import gray_image
from helpers.trainers import BATCH_SIZE, IMAGE_SIZE, LANGUAGES, MAX_TOKENS, MODALITIES
from tf_mural.data import input_pipeline, records, sampling, tokenizers
from tf_mural.data.preprocessing import Preprocessing

_COUNT, _RESIZE = 16, 36


def write_color_records(folder):
    """Writes 16 records with one image and texts in two languages, and returns the record set."""
    examples = [
        records.Record(str(i), (gray_image(15 * i, _RESIZE),), (("de", f"w{i} x"), ("en", f"w{i}")))
        for i in range(_COUNT)
    ]
    if not os.path.isdir(folder):
        records.write(folder, examples, shards=2)
    return records.RecordSet.open(folder)


def color_dataset(folder, replicas=1, workers=(0, 1)):
    """Returns a callable that takes `start_step` and returns a dataset of batches for ETCL.

    Args:
        folder: folder whose subfolder "colors" contains the records. Missing records are written.
        replicas, workers: see `input_pipeline.training_dataset`.
    """
    record_set = write_color_records(os.path.join(folder, "colors"))
    sampler = sampling.IndexSampler([record_set], 2, LANGUAGES, epoch_unit="combinations")
    words = ["x", *(f"w{i}" for i in range(_COUNT))]
    return functools.partial(
        input_pipeline.training_dataset,
        [input_pipeline.Source(sampler, MODALITIES["etcl"])],
        tokenizers.Tokenizer([*tokenizers.SPECIAL_TOKENS, *words], MAX_TOKENS),
        Preprocessing(_RESIZE, IMAGE_SIZE),
        LANGUAGES,
        BATCH_SIZE,
        replicas,
        workers,
    )
