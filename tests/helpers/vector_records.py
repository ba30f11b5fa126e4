"""Record sets with vectors whose values tell the record and the text or image of a row."""

import dataclasses

import numpy as np

from helpers import pipeline
from tf_mural.data import records
from tf_mural.data.records import RecordSet

MODEL = {"name": "runs/a", "fingerprint": "0123"}
DESCRIPTIONS = {
    "text": records.describe_vectors("texts", 2, model=MODEL),
    "english": records.describe_vectors("texts", 2, model=MODEL, languages=("en",)),
    "image": records.describe_vectors("images", 3, "float32", MODEL),
}


def make_record(number, **changes):
    """Returns record `number` of `helpers.pipeline` with rows (number, position, ...)."""
    record = pipeline.make_record(number)
    vectors = {
        "text": np.array([[number, i] for i in range(len(record.texts))], "float16"),
        "english": np.array([[number, 50]], "float16"),
        "image": np.array([[number, 7, 8]], "float32"),
    }
    return dataclasses.replace(record, vectors=vectors, **changes)


def write(folder, descriptions=None, count=pipeline.NUM_RECORDS, **changes):
    """Writes records with vectors; returns the `RecordSet`."""
    made = [make_record(number, **changes) for number in range(count)]
    records.write(folder, made, vectors=descriptions or DESCRIPTIONS, shards=2)
    return RecordSet.open(folder)
