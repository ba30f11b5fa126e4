"""Converts a data set to record sets, one folder a split.

    python tools/convert.py --list
    python tools/convert.py --dataset=scenes
    python tools/convert.py --dataset=table --raw_dir=my_pictures --out_dir=data/mine
    python tools/convert.py --dataset=coco --raw_dir=coco --split=train --resize=346 \\
        --deduplicate=exact,near --exclude=data/coco/test,data/xtd10/test

`my_pictures` is a folder with one table, such as captions.tsv with the columns image, en and de,
and the images themselves. Options of a data set are flags that begin with its name. A set that is
there already is kept, and one that was stopped goes on, so the same command may be given again.
"""

import dataclasses
import inspect
import os
import re
import types
import typing

import common
from absl import flags

from tf_mural import conversion
from tf_mural.conversion.executors import EXECUTORS
from tf_mural.conversion.ledger import format_summary
from tf_mural.data import records
from tf_mural.data.vocabulary import SPECIAL_TOKENS
from tf_mural.datasets import DATASET_INFO, DATASETS
from tf_mural.errors import UserError, lookup

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
flags.DEFINE_bool("overwrite", False, "Replaces sets that are there.")
flags.DEFINE_integer("processes", None, "How many run at once. Default: one a core.")
flags.DEFINE_string(
    "part",
    None,
    "Does one part of the work, such as 3/128: the fourth of 128. Parts may run at once, on "
    "several machines with the same folders; the last one to end makes the set whole.",
)
flags.DEFINE_enum("executor", "processes", list(EXECUTORS), "What runs the jobs.")
flags.DEFINE_string("beam", None, "Flags of Apache Beam, parted by commas, for --executor=beam.")
flags.DEFINE_bool(
    "paper_filters",
    False,
    "Filters images and texts as the paper does; each filter that is given besides has its way: "
    + ", ".join(f"{name}={value}" for name, value in conversion.PAPER.items())
    + ".",
)
flags.DEFINE_integer(
    "vocab_size",
    None,
    "Also trains a WordPiece vocabulary of this many pieces on the texts of the split train, and "
    "writes it to <out_dir>/vocab.txt. One that is there is kept: models may need it as it is.",
    lower_bound=2 * len(SPECIAL_TOKENS),
)


def main():
    if FLAGS.list:
        print("\n\n".join(_listed()))
        return
    if FLAGS.dataset is None:
        raise UserError("say which data set with --dataset; --list shows them")
    dataset = lookup(DATASETS, FLAGS.dataset, "data set")
    options, filters, part = _options(), _filters(), _part()
    out_dir = FLAGS.out_dir or os.path.join("data", FLAGS.dataset)
    raw_dir = FLAGS.raw_dir
    if FLAGS.executor != "processes":  # workers elsewhere have working directories of their own
        out_dir, raw_dir = os.path.abspath(out_dir), raw_dir and os.path.abspath(raw_dir)
    splits = FLAGS.split or _splits(dataset, options)
    if FLAGS.vocab_size is not None and "train" not in splits:
        records.read_manifest(os.path.join(out_dir, "train"))  # or there are no texts to train on
    manifests = []
    for split in splits:
        manifest = conversion.convert(
            dataset,
            FLAGS.dataset,
            raw_dir,
            out_dir,
            split,
            options,
            augmentations=FLAGS.augmentations,
            processes=FLAGS.processes,
            overwrite=FLAGS.overwrite,
            progress=_say,
            filters=filters,
            part=part,
            executor=FLAGS.executor,
            flags=(FLAGS.beam,) if FLAGS.beam is not None else (),
        )
        manifests += [manifest] if manifest is not None else []  # None: other parts are to be done
    if FLAGS.vocab_size is not None and len(manifests) == len(splits):
        _write_vocabulary(out_dir, FLAGS.vocab_size)
    if manifests:
        print()
        print(format_summary(manifests))


def _say(line):
    print(line, flush=True)


# --- options of the data sets: the parameters of their plan(); filters: FilterConfig's fields -----


def _define_options():
    helps = _argument_helps(conversion.FilterConfig, "Attributes:\n")
    hints = typing.get_type_hints(conversion.FilterConfig)
    for field in dataclasses.fields(conversion.FilterConfig):
        _define(field.name, hints[field.name], field.default, helps[field.name])
    for name, dataset in DATASETS.items():
        hints = typing.get_type_hints(dataset.plan)
        helps = _argument_helps(dataset.plan)
        for option, default in conversion.option_defaults(dataset).items():
            _define(f"{name}.{option}", hints.get(option), default, helps.get(option, ""))


def _define(name, hint, default, text):
    if default not in (None, "", ()):
        shown = ",".join(default) if isinstance(default, tuple) else default
        text += f" Default: {shown}."
    # Without a default of its own: only what the user gives is handed on.
    _kind(hint, default)(name, None, text)


def _kind(hint, default):
    kinds = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    found = [typing.get_origin(one) or one for one in hints] + [type(default)]
    if tuple in found:
        return flags.DEFINE_list
    return next((kinds[one] for one in found if one in kinds), flags.DEFINE_string)


def _argument_helps(documented, section="Args:\n"):
    """What the docstring says of each argument, in one line each."""
    section = (inspect.getdoc(documented) or "").partition(section)[2]
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
        options[option] = _given(flag)
    return options


def _filters():
    chosen = dict(conversion.PAPER) if FLAGS.paper_filters else {}
    for field in dataclasses.fields(conversion.FilterConfig):
        if FLAGS[field.name].present:
            chosen[field.name] = None if FLAGS[field.name].value == "" else _given(field.name)
    return conversion.FilterConfig(**chosen)


def _given(flag):
    value = FLAGS[flag].value
    return tuple(value) if isinstance(value, list) else value


def _part():
    if FLAGS.part is None:
        return None
    if not (found := re.fullmatch(r"(\d+)/(\d+)", FLAGS.part)):
        raise UserError(f"expected a part such as 3/128, from 0/128 to 127/128; got {FLAGS.part!r}")
    return int(found[1]), int(found[2])


def _splits(dataset, options):
    if hasattr(dataset, "splits"):
        try:
            return dataset.splits(FLAGS.raw_dir, **options)
        except OSError as error:
            raise UserError(f"{FLAGS.dataset}: the raw data cannot be read: {error}") from error
    return dataset.SPLITS


# --- after the conversion -------------------------------------------------------------------------


def _write_vocabulary(out_dir, size):
    from tf_mural.data import tokenizers

    path = os.path.join(out_dir, "vocab.txt")
    if os.path.exists(path):
        there = f"{len(tokenizers.load_vocabulary(path)):,} pieces in {path}"
        _say(f"vocabulary: already there, {there} (remove it to train another)")
        return
    train = records.RecordSet.open(os.path.join(out_dir, "train"))
    _say(f"training a vocabulary on {train.manifest['texts']:,} texts")
    pieces = tokenizers.train_vocabulary((t for record in train for _, t in record.texts), size)
    tokenizers.save_vocabulary(path, pieces)
    _say(f"{len(pieces):,} pieces in {path}")


def _listed():
    """A paragraph a data set."""
    for name, dataset in DATASETS.items():
        info = DATASET_INFO[name]
        facts = {
            "splits": info.splits or " ".join(dataset.SPLITS),
            "augmentations": " ".join(dataset.AUGMENTATIONS) or "none",
            "licence": info.license,
            "home": info.homepage,
            "raw_dir": info.raw_data,
        }
        lines = [f"    {fact:<14} {text}" for fact, text in facts.items() if text]
        yield "\n".join([f"{name}: {info.description}", *lines])


_define_options()

if __name__ == "__main__":
    common.run(main)
