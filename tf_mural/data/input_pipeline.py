"""Input pipeline: `tf.data` datasets of training batches from record sets."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_mural.data.example_builder import ExampleBuilder
from tf_mural.data.fallback_draws import with_fallback
from tf_mural.data.skipped_records import CHANGED, SkippedRecords
from tf_mural.errors import UserError

_INFINITE = tf.data.experimental.INFINITE_CARDINALITY


@dataclasses.dataclass(frozen=True)
class Source:
    """A sampler of record sets, and the fields that are drawn from it.

    Attributes:
        sampler: `sampling.IndexSampler`.
        fields: {field: modality}, with at most one image field. The languages that are drawn for
            an example are assigned to its text fields in order.
        flip: whether training images may be mirrored.
        vectors: {field: `vector_fields.VectorField`} of the fields with the modality "vectors".
        code_switch: {text field: `code_switching.CodeSwitcher`} of the fields whose texts are
            code-switched.
    """

    sampler: object
    fields: dict
    flip: bool = False
    vectors: dict = dataclasses.field(default_factory=dict)
    code_switch: dict = dataclasses.field(default_factory=dict)


def disable_autotune(dataset):
    """Disables the thread of `tf.data` that tunes parallelism and buffer sizes at run time.

    Without tuning, maps with `AUTOTUNE` use one thread per core from the first element on. With
    tuning, an iterator that ends waits for the tuning thread. The tuning thread sleeps for
    intervals that double each time; because of this wait, an embedding run of 12 seconds took up to
    20 seconds.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def training_dataset(
    sources,
    tokenizer,
    preprocessing,
    languages,
    global_batch,
    replicas=1,
    workers=(0, 1),
    start_step=0,
    skipped_records=None,
):
    """Returns an infinite dataset of the local batches of a stage, one per replica and step.

    Element e belongs to step `start_step + e // replicas` and to local replica `e % replicas`. The
    rows of an element are the draws of this replica's slice of the global batch. The global batch
    therefore does not depend on the numbers of workers and replicas. If a record cannot be used
    (see `ExampleBuilder`), the record of a distant draw replaces it, and no other row changes.

    Args:
        sources: list of `Source`; their fields are merged into one batch.
        tokenizer: `tokenizers.Tokenizer`.
        preprocessing: `preprocessing.Preprocessing`.
        languages: tuple of all language codes of the stage. The language ids of a batch are
            positions in this tuple.
        global_batch: number of rows per step over all replicas.
        replicas: number of replicas of this worker.
        workers: (index of this worker, number of workers).
        start_step: number of the first step, or a callable without arguments that returns it. An
            iterator of the dataset calls the callable when it starts.
        skipped_records: `SkippedRecords` that counts the records that cannot be used.

    Returns:
        `tf.data.Dataset` of {field: {"pixels" uint8 (n, crop, crop, 3), "tokens" int32 (n, t) or
        "vectors" float32 (n, width), "id" int64 (n,), "language" int32 (n,) for texts}} with static
        shapes.
    """
    skipped_records = skipped_records or SkippedRecords()
    for source in sources:
        if source.sampler.batch_size not in (None, global_batch):
            raise UserError(
                f"the source {source.sampler.name!r} chooses languages for batches of "
                f"{source.sampler.batch_size} draws, but the batches have {global_batch} rows"
            )
    worker, num_workers = workers
    rows = global_batch // (num_workers * replicas)

    def draws_of(element, start_step):
        step = start_step + element // replicas
        slot = worker * replicas + element % replicas
        return step * global_batch + slot * rows + tf.range(rows, dtype=tf.int64)

    elements = tf.data.Dataset.range(np.iinfo(np.int64).max // (4 * max(global_batch, 1)))
    parts = [
        _source_dataset(
            _map_with_start_step(elements, draws_of, start_step),
            ExampleBuilder(source, tokenizer, preprocessing, languages),
            rows,
            skipped_records,
        )
        for source in sources
    ]

    def merge(*parts):
        return {field: value for part in parts for field, value in part.items()}

    batches = tf.data.Dataset.zip(*parts).map(merge).prefetch(2)
    # The dataset is declared infinite, because with several processes the batches of a finite
    # dataset lose their static shapes in a loop.
    return disable_autotune(batches.apply(tf.data.experimental.assert_cardinality(_INFINITE)))


def _map_with_start_step(elements, function, start_step):
    """Maps (element, start step) with a function; see `training_dataset` for `start_step`."""
    if not callable(start_step):
        return elements.map(lambda element: function(element, start_step))

    def read_start_step(_):
        step = tf.numpy_function(lambda: np.int64(start_step()), [], tf.int64)
        return tf.ensure_shape(step, ())

    start = tf.data.Dataset.from_tensors(0).map(read_start_step)
    return start.flat_map(lambda step: elements.map(lambda element: function(element, step)))


def _source_dataset(draws, builder, rows, skipped_records):
    """Returns the batches of one source.

    A batch is read once if all its records can be used. Otherwise the batch is read again with
    replacement draws.

    Args:
        draws: dataset of int64 (rows,), numbers of draws.
        builder: `ExampleBuilder`.
        rows: local batch size.
        skipped_records: `SkippedRecords`.
    """
    usable_draws = with_fallback(builder, skipped_records)

    # AutoGraph is not needed, because no Python control flow in these functions depends on tensors.
    # The code that AutoGraph generates would slow down every batch.
    @tf.autograph.experimental.do_not_convert
    def read_again(draws):
        batch = builder.parse(builder.fetch(usable_draws(draws), skipped_records, count=False))
        with tf.control_dependencies([tf.debugging.Assert(builder.all_known(batch), [CHANGED])]):
            return _model_inputs(tf.nest.map_structure(tf.identity, batch))

    @tf.autograph.experimental.do_not_convert
    def read(draws):
        batch = builder.parse(builder.fetch(draws, skipped_records))
        return draws, tf.cond(
            builder.all_known(batch), lambda: _model_inputs(batch), lambda: read_again(draws)
        )

    dataset = draws.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    if not builder.needs_decoding:
        return dataset.map(lambda _, batch: batch)

    # `decode` is a `tf.function`, so that its two uses are traced only once.
    decode = tf.function(builder.decode, autograph=False)

    def decode_batch(draws, batch):
        batches, retries = tf.data.Dataset.from_tensors(batch), tf.data.Dataset.from_tensors(draws)
        # A batch with an image that does not decode has too few rows and is dropped. The batch that
        # is read again then takes the place of the dropped batch.
        batches = decoded(batches).ignore_errors()
        return batches.concatenate(decoded(retries.map(read_again))).take(1)

    def decoded(batches):
        examples = batches.unbatch().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        return examples.batch(rows, drop_remainder=True)

    return dataset.interleave(decode_batch, cycle_length=2, num_parallel_calls=2)


def _model_inputs(batch):
    """Removes the columns of `ExampleBuilder.parse` that the model does not need."""
    return {
        field: {key: value for key, value in values.items() if key not in ("text", "known")}
        for field, values in batch.items()
    }
