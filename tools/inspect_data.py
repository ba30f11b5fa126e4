"""Shows what record sets hold: languages, lengths, tokens, images, labels, scores, repeats.

    python tools/inspect_data.py --records=data/scenes/train
    python tools/inspect_data.py --records=data/photos --out_dir=seen --vocab=labse/vocab.txt

`--records` names a set, a folder with the splits of one, or several of these parted by commas.
With --out_dir the same goes to inspection.json, charts, and a sheet of images with captions. Large
sets are sampled, see --limit. Ctrl-C ends the reading and shows what is there so far.
"""

import json
import os
import sys
import time

import common
from absl import flags

from tf_mural.errors import UserError, lookup

_RECORDS = flags.DEFINE_list(
    "records",
    [],
    "Record sets, or folders of several, parted by commas; paths, or under --data_dir. Required.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")
_OUT_DIR = flags.DEFINE_string("out_dir", None, "Folder for inspection.json and the pictures.")
_LIMIT = flags.DEFINE_integer(
    "limit", 100_000, "Records to read of each set, drawn at random; 0 for all.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0)
_VOCAB = flags.DEFINE_string(
    "vocab",
    None,
    'Vocabulary to count tokens with. Default: vocab.txt beside the set; "" for none.',
)
_LOWER_CASE = flags.DEFINE_bool("lower_case", False, "For the vocabulary of an uncased BERT.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 64, "Tokens that a model reads of a text.")
_SHEET = flags.DEFINE_integer(
    "sheet", 12, "Images on the contact sheet; 0 for none.", lower_bound=0
)
_CAPTIONS = flags.DEFINE_integer("captions", 8, "Captions an image there, at most.", lower_bound=0)
_LANGUAGES = flags.DEFINE_list(
    "languages", None, "Languages of the captions there. Default: all, each in its turn."
)


def main():
    from tf_mural import reports

    sets = open_sets()
    paths = {records.folder: vocabulary_of(records) for records in sets.values()}
    tokenizers = {path: load_tokenizer(path) for path in set(paths.values())}
    make_out_dir()
    read, summaries, interrupted = [], {}, False
    for name, records in sets.items():
        statistics = reports.Statistics(records, tokenizers[paths[records.folder]])
        interrupted = not watch(name, statistics)
        if statistics.read or not interrupted:
            read.append(statistics)
            summaries[name] = statistics.summary()
            print(reports.inspection_tables(summaries[name]), end="\n\n", flush=True)
        if interrupted:
            break
    common_records = reports.shared(read)
    if len(read) > 1:
        names = {records.folder: name for name, records in sets.items()}
        print(reports.shared_table(common_records, names), end="\n\n")
    if _OUT_DIR.value and summaries:
        write({"sets": summaries, "shared": common_records, "seed": _SEED.value})
        for name, summary in summaries.items():
            draw(name, sets[name], summary)
    if interrupted:
        raise KeyboardInterrupt


# --- what is asked for ----------------------------------------------------------------------------


def open_sets():
    """{name: RecordSet}; a name is the last folders of a path, as many as tell the sets apart."""
    from tf_mural.data import records

    if not _RECORDS.value:
        raise UserError("say which records: --records=<folder>[,<folder>]")
    folders = []
    for given in _RECORDS.value:
        folder = given
        if not os.path.isdir(folder) and os.path.isdir(os.path.join(_DATA_DIR.value, given)):
            folder = os.path.join(_DATA_DIR.value, given)
        if not os.path.isdir(folder):
            raise UserError(
                f"no folder {given!r}, nor one under {_DATA_DIR.value!r}; "
                "tools/convert.py writes record sets"
            )
        found = [folder] if _is_set(folder) else _inside(folder)
        folders += found or [folder]  # without a set: opening it says what is missing
    folders = list(dict.fromkeys(os.path.normpath(folder) for folder in folders))
    sets = dict(zip(_names(folders), map(records.RecordSet.open, folders), strict=True))
    known = {code: None for s in sets.values() for code in s.languages}
    for code in _LANGUAGES.value or ():
        lookup(known, code, "language")
    return sets


def make_out_dir():
    """Makes --out_dir, before anything is read."""
    try:
        if _OUT_DIR.value:
            os.makedirs(_OUT_DIR.value, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out_dir {_OUT_DIR.value}: {error.strerror}") from error


def _is_set(folder):
    return os.path.exists(os.path.join(folder, "manifest.json"))


def _inside(folder):
    inside = [os.path.join(folder, entry) for entry in sorted(os.listdir(folder))]
    return [path for path in inside if _is_set(path)]


def _names(folders):
    parts = [os.path.abspath(folder).split(os.sep) for folder in folders]
    for depth in range(2, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("folders are different")


def vocabulary_of(records):
    """Path of the vocabulary for a set; None to count no tokens."""
    if _VOCAB.value is not None:
        return _VOCAB.value or None
    beside = os.path.join(os.path.dirname(os.path.abspath(records.folder)), "vocab.txt")
    return beside if os.path.exists(beside) and records.manifest["texts"] else None


def load_tokenizer(path):
    """The tokenizer of a vocabulary, or None without one. Imports TensorFlow."""
    if path is None:
        return None
    common.import_tensorflow()
    from tf_mural.data import tokenizers as text

    return text.Tokenizer(path, _MAX_TOKENS.value, _LOWER_CASE.value)


# --- reading --------------------------------------------------------------------------------------


def watch(name, statistics):
    """Reads a set, or a sample of it, and says how far it is; False once it is interrupted."""
    from tf_mural import reports

    began = shown = time.monotonic()
    # On a terminal a line that is written over; in a log a line now and then.
    every, end = (0.5, "\r") if sys.stderr.isatty() else (10, "\n")
    try:
        for read in statistics.run(_LIMIT.value, _SEED.value):
            now = time.monotonic()
            if now - shown < every:
                continue
            shown, rate = now, read / (now - began)
            left = reports.eta((statistics.wanted - read) / rate)
            line = f"{name}: {read:,} of {statistics.wanted:,} records, {rate:,.0f} a second"
            print(f"{line}, {left} left".ljust(79), end=end, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return False
    finally:
        if end == "\r" and shown != began:
            print(" " * 79, end="\r", file=sys.stderr, flush=True)
    return True


# --- what is written ------------------------------------------------------------------------------


def write(data):
    """Writes inspection.json, whole or not at all."""
    path = os.path.join(_OUT_DIR.value, "inspection.json")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, ensure_ascii=False)
        file.write("\n")
    os.replace(f"{path}.tmp", path)
    print(f"written to {path}")


def draw(name, records, summary):
    """Draws the charts of a set, and its contact sheet."""
    from tf_mural import reports

    for path in reports.inspection_charts(_OUT_DIR.value, name, summary):
        print(f"written to {path}")
    if not _SHEET.value or not records.manifest["images"]:
        return
    images, captions = reports.sheet_sample(
        records, _SHEET.value, _CAPTIONS.value, _LANGUAGES.value, _SEED.value
    )
    if not images:
        print(f"{name}: no sheet; of the images that were tried none decodes or has such a caption")
        return
    path = os.path.join(_OUT_DIR.value, f"{name}-sheet.png")
    missing = reports.contact_sheet(path, images, captions)
    print(f"written to {path}")
    if missing:
        print(reports.fonts.advice(pair for pairs in captions for pair in pairs))


if __name__ == "__main__":
    common.run(main)
