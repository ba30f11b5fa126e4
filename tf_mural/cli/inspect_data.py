"""Prints statistics of record sets: languages, texts, tokens, images, labels, scores, duplicates.

    python tools/inspect_data.py --records=data/scenes/train
    python tools/inspect_data.py --records=data/photos --out_dir=inspection --vocab=labse/vocab.txt

--records names record sets, or folders that contain the record sets of a data set. With --out_dir,
the command also writes inspection.json, charts, and a web page of images with captions for each
record set. If a record set is large, only a random sample is read; see --limit. Ctrl-C ends the
reading, and the statistics of the records that were read before are printed.
"""

import os
import sys

from absl import flags

from tf_mural import file_io
from tf_mural.cli import app
from tf_mural.errors import UserError
from tf_mural.languages import choose
from tf_mural.progress import Progress

FLAGS = flags.FlagValues()
_RECORDS = flags.DEFINE_list(
    "records",
    [],
    "Comma-separated folders of record sets, or folders that contain record sets. The folders may "
    "be relative to --data_dir. Required.",
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Folder for inspection.json, charts and web pages.", flag_values=FLAGS
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    100_000,
    "Maximum number of records to read per record set, drawn at random; 0 reads all records.",
    lower_bound=0,
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the random sample.", lower_bound=0, flag_values=FLAGS
)
_VOCAB = flags.DEFINE_string(
    "vocab",
    None,
    "Vocabulary file for counting tokens; with an empty value, tokens are not counted. Default: "
    "vocab.txt in the folder of the data set.",
    flag_values=FLAGS,
)
_LOWER_CASE = flags.DEFINE_bool(
    "lower_case",
    False,
    "Lowercases texts and removes accents, as the vocabulary of an uncased BERT requires.",
    flag_values=FLAGS,
)
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens",
    64,
    "Maximum number of tokens of a text, including [CLS] and [SEP]; longer texts count as cut.",
    flag_values=FLAGS,
)
_SHEET = flags.DEFINE_integer(
    "sheet",
    12,
    "Number of records on the web page of a record set; 0 omits the page.",
    lower_bound=0,
    flag_values=FLAGS,
)
_CAPTIONS = flags.DEFINE_integer(
    "captions",
    8,
    "Maximum number of captions per record on the web page.",
    lower_bound=0,
    flag_values=FLAGS,
)
_LANGUAGES = flags.DEFINE_list(
    "languages",
    None,
    "Comma-separated languages of the captions on the web page. Default: all languages, in turn.",
    flag_values=FLAGS,
)


def main(argv=None):
    """Inspects record sets. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    from tf_mural import reports

    sets = _open_sets()
    vocabularies = {records.folder: _vocabulary_path(records) for records in sets.values()}
    tokenizers = {path: _load_tokenizer(path) for path in set(vocabularies.values())}
    _make_out_dir()
    all_stats, summaries, interrupted = [], {}, False
    for name, records in sets.items():
        stats = reports.DatasetStats(records, tokenizers[vocabularies[records.folder]])
        interrupted = not _collect(name, stats)
        if stats.num_read or not interrupted:
            all_stats.append(stats)
            summaries[name] = stats.summary()
            print(reports.format_stats(summaries[name]), end="\n\n", flush=True)
        if interrupted:
            break
    shared = reports.shared_records(all_stats)
    if len(all_stats) > 1:
        names = {records.folder: name for name, records in sets.items()}
        print(reports.format_shared_records(shared, names), end="\n\n")
    if _OUT_DIR.value and summaries:
        _write_json({"sets": summaries, "shared": shared, "seed": _SEED.value})
        for name, summary in summaries.items():
            tokenizer = tokenizers[vocabularies[sets[name].folder]]
            _write_images(name, sets[name], summary, tokenizer)
    if interrupted:
        raise KeyboardInterrupt


# --- input ----------------------------------------------------------------------------------------


def _open_sets():
    """Returns {name: RecordSet} of --records.

    The name of a record set consists of the last two folders of its path, joined by "-". If two
    names are equal, all names consist of more folders.
    """
    from tf_mural.data import records

    if not _RECORDS.value:
        raise UserError("name the records: --records=<folder>[,<folder>]")
    folders = []
    for path in _RECORDS.value:
        folder = path
        if not file_io.isdir(folder) and file_io.isdir(os.path.join(_DATA_DIR.value, path)):
            folder = os.path.join(_DATA_DIR.value, path)
        # https:// has no folders.
        if not file_io.isdir(folder) and not _is_record_set(folder):
            raise UserError(
                f"no folder {path!r}, and no folder of this name in {_DATA_DIR.value!r}; "
                "tools/convert.py writes record sets"
            )
        sets = [folder] if _is_record_set(folder) else _record_sets_in(folder)
        folders += sets or [folder]  # opening a folder without a record set raises a UserError
    folders = list(dict.fromkeys(map(_normalized, folders)))
    sets = dict(zip(_unique_names(folders), map(records.RecordSet.open, folders), strict=True))
    languages = {code: None for record_set in sets.values() for code in record_set.languages}
    if _LANGUAGES.value:
        _LANGUAGES.value = choose(_LANGUAGES.value, languages)
    return sets


def _normalized(folder):
    return folder.rstrip("/") if file_io.is_remote(folder) else os.path.normpath(folder)


def _make_out_dir():
    try:
        if _OUT_DIR.value:
            os.makedirs(_OUT_DIR.value, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out_dir {_OUT_DIR.value}: {error.strerror}") from error


def _is_record_set(folder):
    return file_io.exists(os.path.join(folder, "manifest.json"))


def _record_sets_in(folder):
    paths = [os.path.join(folder, entry) for entry in file_io.listdir(folder)]
    return [path for path in paths if _is_record_set(path)]


def _unique_names(folders):
    parts = [file_io.absolute(folder).split(os.sep) for folder in folders]
    for depth in range(2, max(map(len, parts)) + 1):
        names = ["-".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("the folders are different")


def _vocabulary_path(records):
    """Returns the path of the vocabulary for a record set, or None to omit the token counts."""
    if _VOCAB.value is not None:
        return _VOCAB.value or None
    path = os.path.join(os.path.dirname(file_io.absolute(records.folder)), "vocab.txt")
    return path if file_io.exists(path) and records.manifest["texts"] else None


def _load_tokenizer(path):
    if path is None:
        return None
    app.import_tensorflow()
    from tf_mural.data.tokenizers import Tokenizer

    return Tokenizer(path, _MAX_TOKENS.value, _LOWER_CASE.value)


def _collect(name, stats):
    """Reads the records of a set and prints the progress. Returns False after Ctrl-C."""
    with Progress(
        name, stats.num_requested, "records", stream=sys.stderr, seconds=10, print_end=False
    ) as progress:
        try:
            for num_read in stats.collect(_LIMIT.value, _SEED.value):
                progress.update(num_read)
        except KeyboardInterrupt:
            return False
    return True


# --- output ---------------------------------------------------------------------------------------


def _write_json(content):
    """Writes inspection.json."""
    path = os.path.join(_OUT_DIR.value, "inspection.json")
    file_io.write_json(path, content)
    print(f"written to {path}")


def _write_images(name, records, summary, tokenizer):
    """Writes the charts and the web page of a record set."""
    from tf_mural import reports

    for path in reports.write_stats_charts(_OUT_DIR.value, name, summary):
        print(f"written to {path}")
    if not _SHEET.value or not records.manifest["images"]:
        return
    samples = reports.sample_records(
        records, _SHEET.value, _CAPTIONS.value, _LANGUAGES.value, _SEED.value, tokenizer
    )
    path = os.path.join(_OUT_DIR.value, f"{name}-sheet.html")
    reports.write_record_page(path, summary, samples)
    print(f"written to {path}")
