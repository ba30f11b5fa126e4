"""Records, the common format of all corpora, and record sets on disk.

A record set is a folder:

    manifest.json                         contents and checksums, and how the set was made
    records-00000-of-00004.tfrecord       uncompressed TFRecords of tf.train.Example
    records-00000-of-00004.index.npz      offset, length and languages of each record

The index allows random access with one read per record, as the sampling of training examples
requires. Only `parse` imports TensorFlow; converters write record sets without TensorFlow.
"""

from tf_mural.data.records.reading import DamagedRecord, RecordSet
from tf_mural.data.records.record import (
    ROLES,
    VECTORS,
    InputParts,
    Record,
    Skipped,
    deserialize,
    is_language,
    parse,
    serialize,
)
from tf_mural.data.records.shard import Shard
from tf_mural.data.records.vectors import (
    DTYPES,
    describe_vectors,
    keep_images,
    keep_texts,
    vectors_problem,
)
from tf_mural.data.records.writing import (
    AUGMENTATIONS,
    MANIFEST,
    read_manifest,
    shard_name,
    write,
    write_manifest,
    write_shard,
)

__all__ = [
    "AUGMENTATIONS",
    "DTYPES",
    "MANIFEST",
    "ROLES",
    "VECTORS",
    "DamagedRecord",
    "InputParts",
    "Record",
    "RecordSet",
    "Shard",
    "Skipped",
    "describe_vectors",
    "deserialize",
    "is_language",
    "keep_images",
    "keep_texts",
    "parse",
    "read_manifest",
    "serialize",
    "shard_name",
    "vectors_problem",
    "write",
    "write_manifest",
    "write_shard",
]
