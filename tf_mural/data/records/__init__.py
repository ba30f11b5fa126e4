"""The one record of every corpus, and sets of records on disk.

A record set is a folder:

    manifest.json                         what it holds, its checksums, how it was made
    records-00000-of-00004.tfrecord       uncompressed TFRecords of tf.train.Example
    records-00000-of-00004.index.npz      offset, length and languages of each record

The index makes any record one read at a known place, so that the order of training can be a
function of the step. TensorFlow is imported by `parse` alone: converters write sets without it.
"""

from tf_mural.data.records.reading import DamagedRecord, RecordSet
from tf_mural.data.records.record import Dropped, Record, deserialize, is_language, parse, serialize
from tf_mural.data.records.shard import Shard
from tf_mural.data.records.writing import (
    AUGMENTATIONS,
    MANIFEST,
    appears_whole,
    read_manifest,
    shard_name,
    write,
    write_manifest,
    write_shard,
)

__all__ = [
    "AUGMENTATIONS",
    "MANIFEST",
    "DamagedRecord",
    "Dropped",
    "Record",
    "RecordSet",
    "Shard",
    "appears_whole",
    "deserialize",
    "is_language",
    "parse",
    "read_manifest",
    "serialize",
    "shard_name",
    "write",
    "write_manifest",
    "write_shard",
]
