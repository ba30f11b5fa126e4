"""Records, the common format of all corpora, and record sets on disk.

A record set is a folder:

    manifest.json                         contents and checksums, and how the set was made
    blocks.index                          blocks of records, see `blocks`
    records-00000-of-00004.tfrecord       uncompressed TFRecords of tf.train.Example
    records-00000-of-00004.index.npz      offset, length and languages of each record

The index of a shard allows random access with one read per record, as the sampling of training
examples requires. Large sets are read in blocks instead, see `data.block_sampling`. Only `parse`
imports TensorFlow; converters write record sets without TensorFlow.
"""

from tf_mural.data.records.blocks import BLOCK_BYTES, BLOCK_RECORDS, BLOCKS, BlockIndex
from tf_mural.data.records.reading import SHUFFLE_LIMIT, DamagedRecord, RecordSet
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
    check_name,
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
    "BLOCKS",
    "BLOCK_BYTES",
    "BLOCK_RECORDS",
    "DTYPES",
    "MANIFEST",
    "ROLES",
    "SHUFFLE_LIMIT",
    "VECTORS",
    "BlockIndex",
    "DamagedRecord",
    "InputParts",
    "Record",
    "RecordSet",
    "Shard",
    "Skipped",
    "check_name",
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
