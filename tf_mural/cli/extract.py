r"""Adds vectors that a model computes to record sets:

    python tools/extract.py --model=runs/tiny/mural-s0 --records=data/scenes/train \
        --name=teacher --of=texts --out_dir=data/taught

The new record sets have the records of the old ones, and one row of vectors per image or text. A
row is the embedding before it is scaled to length 1; with --features, it is the input of the
projection. Several models add their vectors one after the other: the next command reads the new
record sets. The same command continues an extraction that was stopped.
"""

import os
import time

from absl import flags

from tf_mural.cli import app, embedding_flags
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_MODEL = embedding_flags.define_model(FLAGS)
_RECORDS = embedding_flags.define_records(FLAGS)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder of the new record sets, which keep the names of the folders of the old ones. Required.",
    flag_values=FLAGS,
)
_NAME = flags.DEFINE_string(
    "name",
    None,
    "Name of the vectors in the records, such as teacher. Required.",
    flag_values=FLAGS,
)
_OF = flags.DEFINE_enum(
    "of",
    None,
    ["images", "texts"],
    "What a row of vectors belongs to. Required.",
    flag_values=FLAGS,
)
_FEATURES = flags.DEFINE_bool(
    "features",
    False,
    "Stores the pooled features before the projection, with which a stage trains only the "
    "projection (--config.model.image.vectors=NAME), instead of the embeddings.",
    flag_values=FLAGS,
)
_LANGUAGES = flags.DEFINE_list(
    "languages",
    None,
    "With --of=texts: languages of the texts, separated by commas. Each example then has a row of "
    "its record's texts in these languages, whatever text is drawn: the English row for a text in "
    "any language. Default: a row for each text.",
    flag_values=FLAGS,
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "float32"], "Precision of the stored values.", flag_values=FLAGS
)
_DROP_IMAGES = flags.DEFINE_bool(
    "drop_images", False, "Leaves the images out of the new record sets.", flag_values=FLAGS
)
_TOWER = flags.DEFINE_string(
    "tower", None, "Tower of the model. Default: its first image or text tower.", flag_values=FLAGS
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replaces record sets of other extractions in --out_dir.", flag_values=FLAGS
)
_BATCH_SIZE, _STRATEGY = embedding_flags.define_batches(FLAGS)
_BACKEND = app.define_backend(FLAGS)


def main(argv=None):
    """Writes the record sets. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    embedding_flags.check_given(_MODEL, _RECORDS, _OUT_DIR, _NAME, _OF)
    if _LANGUAGES.value is not None and _OF.value != "texts":
        raise UserError("--languages requires --of=texts")
    from tf_mural.data.records import check_name

    check_name(_NAME.value)
    sets = embedding_flags.open_record_sets(_RECORDS.value)
    app.import_tensorflow(_BACKEND.value)
    import tf_mural
    from tf_mural import conversion
    from tf_mural.backends import backend_module
    from tf_mural.experiment.extractor import make_extractor

    strategy = backend_module().make_strategy(_STRATEGY.value)
    embedder = tf_mural.Embedder.load(_MODEL.value, strategy, _BATCH_SIZE.value)
    extractor = make_extractor(
        embedder,
        _MODEL.value,
        _NAME.value,
        _OF.value,
        _FEATURES.value,
        _LANGUAGES.value,
        _DTYPE.value,
        _TOWER.value,
        _BATCH_SIZE.value,
        strategy,
        list(sets.values()),
    )
    if stored := extractor.options.get("stored_features"):
        print(f"the embeddings are computed from the features {stored!r} of the records")
    for split, record_set in sets.items():
        start_time = time.perf_counter()
        manifest = conversion.extract(
            record_set, _OUT_DIR.value, split, extractor, _DROP_IMAGES.value, _OVERWRITE.value
        )
        _report(os.path.join(_OUT_DIR.value, split), manifest, time.perf_counter() - start_time)


def _report(folder, manifest, seconds):
    """Prints a line about a new record set, and what was left out of it."""
    from tf_mural.data.records import RecordSet

    description = manifest["vectors"][_NAME.value]
    print(
        f"{folder}: {manifest['records']:,} records with {description['rows']:,} rows of vectors "
        f"{_NAME.value!r} ({description['width']} {description['dtype']} values of "
        f"{description['of']}), digest {RecordSet.open(folder).digest}, {seconds:.1f} s"
    )
    for reason, count in manifest["ledger"]["dropped"].items():
        example = manifest["ledger"]["examples"][reason][0]
        print(f"  {count:,} records left out: {reason}, such as {example}")
