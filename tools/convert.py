"""Converts a data set to record sets, one folder a split.

    python tools/convert.py --list
    python tools/convert.py --dataset=scenes
    python tools/convert.py --dataset=table --raw_dir=my_pictures --out_dir=data/mine

`my_pictures` is a folder with one table, such as captions.tsv with the columns image, en and de,
and the images themselves. Options of a data set are flags that begin with its name. A set that is
there already is kept, so the same command may be given again.
"""

import inspect
import os
import re
import types
import typing

import common
from absl import flags

from tf_mural import conversion, records
from tf_mural.base import UserError, pick
from tf_mural.datasets import ABOUT, DATASETS

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", None, "Which data set: " + ", ".join(DATASETS) + ".")
flags.DEFINE_string("raw_dir", None, "Where its raw data lie; not needed for scenes.")
flags.DEFINE_string("out_dir", None, "Folder of the record sets. Default: data/<dataset>.")
flags.DEFINE_list("split", None, "Which splits, parted by commas. Default: all there are.")
flags.DEFINE_list(
    "augmentations",
    None,
    "What training may do to the images: crop, flip or both. "
    "Leave flip out where texts say left or right. Default: all the data set allows, except that "
    "photographs with captions are not mirrored.",
)
flags.DEFINE_bool("list", False, "Lists the data sets and ends.")
flags.DEFINE_bool("overwrite", False, "Replaces sets that were made in another way.")
flags.DEFINE_integer("processes", None, "How many run at once. Default: one a core.")
flags.DEFINE_integer(
    "vocab_size",
    None,
    "Also trains a WordPiece vocabulary of this many pieces on "
    "the texts of the split train, and writes it to <out_dir>/vocab.txt.",
)


def main():
    if FLAGS.list:
        print("\n\n".join(_listed()))
        return
    if FLAGS.dataset is None:
        raise UserError("say which data set with --dataset; --list shows them")
    dataset = pick(DATASETS, FLAGS.dataset, "data set")
    options = _options()
    out_dir = FLAGS.out_dir or os.path.join("data", FLAGS.dataset)
    splits = FLAGS.split or _splits(dataset, options)
    if FLAGS.vocab_size is not None and "train" not in splits:
        records.read_manifest(os.path.join(out_dir, "train"))  # or there are no texts to train on
    manifests = []
    for split in splits:
        manifest = conversion.convert(
            dataset,
            FLAGS.dataset,
            FLAGS.raw_dir,
            out_dir,
            split,
            options,
            augmentations=FLAGS.augmentations,
            processes=FLAGS.processes,
            overwrite=FLAGS.overwrite,
            progress=_say,
        )
        manifests.append(manifest)
    if FLAGS.vocab_size is not None:
        _write_vocabulary(out_dir, FLAGS.vocab_size)
    print()
    print(_summary(manifests))


def _say(line):
    print(line, flush=True)


# --- options of the data sets: the parameters of their plan() -------------------------------------


def _define_options():
    for name, dataset in DATASETS.items():
        hints = typing.get_type_hints(dataset.plan)
        helps = _argument_helps(dataset.plan)
        for option, default in conversion.option_defaults(dataset).items():
            kind = _kind(hints.get(option), default)
            text = helps.get(option, "")
            if default not in (None, "", ()):
                shown = ",".join(default) if isinstance(default, tuple) else default
                text += f" Default: {shown}."
            # Without a default of its own: only what the user gives is handed on.
            kind(f"{name}.{option}", None, text)


def _kind(hint, default):
    kinds = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    found = [typing.get_origin(one) or one for one in hints] + [type(default)]
    if tuple in found:
        return flags.DEFINE_list
    return next((kinds[one] for one in found if one in kinds), flags.DEFINE_string)


def _argument_helps(function):
    """What the docstring says of each argument, in one line each."""
    section = (inspect.getdoc(function) or "").partition("Args:\n")[2]
    helps, name = {}, None
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if start := re.match(r"    (\w+): (.*)", line):
            name, helps[start[1]] = start[1], start[2]
        elif name:
            helps[name] += " " + line.strip()
    return helps


def _options():
    options = {}
    for flag in FLAGS:
        name, _, option = flag.partition(".")
        if not option or not FLAGS[flag].present:
            continue
        if name != FLAGS.dataset:
            raise UserError(f"--{flag} is an option of {name}, but --dataset is {FLAGS.dataset}")
        value = FLAGS[flag].value
        options[option] = tuple(value) if isinstance(value, list) else value
    return options


def _splits(dataset, options):
    if hasattr(dataset, "splits"):
        return dataset.splits(FLAGS.raw_dir, **options)
    return dataset.SPLITS


# --- after the conversion -------------------------------------------------------------------------


def _write_vocabulary(out_dir, size):
    from tf_mural import text

    path = os.path.join(out_dir, "vocab.txt")
    train = records.RecordSet.open(os.path.join(out_dir, "train"))
    _say(f"training a vocabulary on {train.manifest['texts']:,} texts")
    pieces = text.train_vocabulary((t for record in train for _, t in record.texts), size)
    text.save_vocabulary(path, pieces)
    _say(f"{len(pieces):,} pieces in {path}")


def _listed():
    """A paragraph a data set."""
    for name, dataset in DATASETS.items():
        about = ABOUT[name]
        facts = {
            "splits": about.splits or " ".join(dataset.SPLITS),
            "augmentations": " ".join(dataset.AUGMENTATIONS) or "none",
            "licence": about.licence,
            "home": about.homepage,
            "raw_dir": about.download,
        }
        lines = [f"    {fact:<14} {text}" for fact, text in facts.items() if text]
        yield "\n".join([f"{name}: {about.what}", *lines])


def _summary(manifests):
    rows, notes = [], []
    for manifest in manifests:
        ledger, languages = manifest["ledger"], manifest["languages"]
        counts = [manifest[key] for key in ("records", "images", "texts")]
        dropped = ledger["read"] - ledger["kept"]
        counts += [len(languages), dropped]
        rows.append([manifest["split"], *(f"{count:,}" for count in counts)])
        codes = " ".join(languages)
        notes.append(f"{manifest['split']}: languages {codes}")
        for what, key in (("records", "dropped"), ("texts", "dropped_texts")):
            for reason, count in ledger[key].items():
                example = ledger["examples"][reason][0]
                notes.append(f"{manifest['split']}: {count:,} {what} dropped: {reason} ({example})")
    heads = ["split", "records", "images", "texts", "languages", "dropped"]
    return "\n".join([_table(heads, rows), "", *notes])


def _table(heads, rows):
    rows = [heads, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        # Numbers to the right, words to the left.
        lines.append("  ".join(c.rjust(w) if c[:1].isdigit() else c.ljust(w) for c, w in cells))
    return "\n".join(line.rstrip() for line in lines)


_define_options()

if __name__ == "__main__":
    common.run(main)
