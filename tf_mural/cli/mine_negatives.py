r"""Mines hard negatives of record sets, the most similar records that are not true positives:

    python tools/mine_negatives.py --model=runs/tiny/mural-s0 --records=data/scenes/train \
        --anchors=images --negatives=texts --relative_margin=0.05 --out_dir=data/mined

For each record set, a folder in --out_dir gets the numbers of the negatives of each record, and
their similarities. A record that has an image or a text of another record is a true positive of
it, and never a negative. In a config, base.add_negatives(config, "image_caption", "mined/train")
lets a term read the negatives. The same command continues a run that was stopped.
"""

import os
import time

from absl import flags

from tf_mural.cli import app, embedding_flags

_PARTS = ["images", "texts"]

FLAGS = flags.FlagValues()
_MODEL = embedding_flags.define_model(FLAGS)
_RECORDS = embedding_flags.define_records(FLAGS)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder of the results, which get the names of the folders of the record sets. Required.",
    flag_values=FLAGS,
)
_ANCHORS = flags.DEFINE_enum(
    "anchors",
    "images",
    _PARTS,
    "The parts of a record to which negatives are similar: the field x of a term.",
    flag_values=FLAGS,
)
_NEGATIVES = flags.DEFINE_enum(
    "negatives", "texts", _PARTS, "The parts of other records that are compared.", flag_values=FLAGS
)
_CANDIDATES = flags.DEFINE_string(
    "candidates",
    None,
    "Record set whose records are the negatives. Default: the record set itself, or the record set "
    "of --index.",
    flag_values=FLAGS,
)
_INDEX = flags.DEFINE_string(
    "index",
    None,
    "Index of the images of the candidates (tools/index.py --records), whose embeddings are used "
    "instead of computing them again. The index has the first image of each record.",
    flag_values=FLAGS,
)
_LANGUAGES = flags.DEFINE_list(
    "languages",
    None,
    "Languages of the texts, separated by commas. Default: all texts.",
    flag_values=FLAGS,
)
_NUM_NEGATIVES = flags.DEFINE_integer(
    "num_negatives", 3, "Number of negatives of a record.", lower_bound=1, flag_values=FLAGS
)
_RANGE_MIN = flags.DEFINE_integer(
    "range_min",
    0,
    "Number of most similar candidates that are skipped, because they may be true positives.",
    lower_bound=0,
    flag_values=FLAGS,
)
_RANGE_MAX = flags.DEFINE_integer(
    "range_max",
    None,
    "Number of most similar candidates of which negatives are chosen. Default: range_min + "
    "num_negatives; with a margin or a limit of the scores, range_min + 10 num_negatives.",
    lower_bound=1,
    flag_values=FLAGS,
)
_MAX_SCORE = flags.DEFINE_float(
    "max_score", None, "Largest cosine similarity of a negative.", flag_values=FLAGS
)
_MIN_SCORE = flags.DEFINE_float(
    "min_score", None, "Smallest cosine similarity of a negative.", flag_values=FLAGS
)
_ABSOLUTE_MARGIN = flags.DEFINE_float(
    "absolute_margin",
    None,
    "Negatives are less similar than the positive of the record by at least this number.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_RELATIVE_MARGIN = flags.DEFINE_float(
    "relative_margin",
    None,
    "Negatives are less similar than the positive of the record by at least this share of its "
    "similarity, such as 0.05.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_SAMPLING = flags.DEFINE_enum(
    "sampling",
    "top",
    ["top", "random"],
    "Which candidates up to range_max are chosen: the most similar ones, or any.",
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of --sampling=random.", 0, flag_values=FLAGS)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replaces negatives of other options in --out_dir.", flag_values=FLAGS
)
_BATCH_SIZE, _STRATEGY = embedding_flags.define_batches(FLAGS)
_BACKEND = app.define_backend(FLAGS)


def main(argv=None):
    """Mines the negatives. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    embedding_flags.check_given(_MODEL, _RECORDS, _OUT_DIR)
    from tf_mural import search
    from tf_mural.data.records import RecordSet

    options = _options(search)
    sets = embedding_flags.open_record_sets(_RECORDS.value)
    index = search.Index(_INDEX.value) if _INDEX.value else None
    candidates = _candidates(index)
    candidates = RecordSet.open(candidates) if candidates else None
    app.import_tensorflow(_BACKEND.value)
    import tf_mural

    embedder = tf_mural.Embedder.load(_MODEL.value, _STRATEGY.value, _BATCH_SIZE.value)
    if index is not None:
        index.check_model(embedder.fingerprint, _MODEL.value)
        embedder = embedder.truncated(index.dim(embedder.width))
    embed = {
        "images": lambda images: embedder.embed_images(images, progress=False),
        "texts": lambda texts: embedder.embed_texts(texts, progress=False, warn=False),
    }
    model = {"name": _MODEL.value, "fingerprint": embedder.fingerprint}
    for split, record_set in sets.items():
        start_time, folder = time.perf_counter(), os.path.join(_OUT_DIR.value, split)
        arguments = (embed, model, options, candidates, index, _OVERWRITE.value)
        manifest = search.mine(record_set, folder, *arguments)
        _report(folder, manifest, time.perf_counter() - start_time)


def _options(search):
    return search.MiningOptions(
        anchors=_ANCHORS.value,
        negatives=_NEGATIVES.value,
        num_negatives=_NUM_NEGATIVES.value,
        range_min=_RANGE_MIN.value,
        range_max=_RANGE_MAX.value,
        max_score=_MAX_SCORE.value,
        min_score=_MIN_SCORE.value,
        absolute_margin=_ABSOLUTE_MARGIN.value,
        relative_margin=_RELATIVE_MARGIN.value,
        sampling=_SAMPLING.value,
        seed=_SEED.value,
        languages=_LANGUAGES.value and tuple(_LANGUAGES.value),
    )


def _candidates(index):
    """Returns the folder of the candidates; None: each record set has its own records."""
    spec = {} if index is None else index.manifest["source"]
    return _CANDIDATES.value or spec.get("records")


def _report(folder, manifest, seconds):
    """Prints a line about the negatives of a record set, and how many records have too few."""
    options, count = manifest["options"], manifest["records"]["count"]
    mean = manifest["mean_score"]
    similarity = "" if mean is None else f", mean similarity {mean:.3f}"
    print(
        f"{folder}: {manifest['negatives']:,} negatives ({options['negatives']}) of {count:,} "
        f"records ({options['anchors']}){similarity}, {seconds:.1f} s"
    )
    fewer, none = manifest["records_with_fewer"], manifest["records_without_negatives"]
    if fewer or none:
        print(
            f"  {fewer:,} records have fewer than {options['num_negatives']} negatives, and "
            f"{none:,} have none: training draws random records for these; a larger --range_max, "
            "or less strict margins and scores, gives more negatives"
        )
