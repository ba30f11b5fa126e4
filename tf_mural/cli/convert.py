"""Converts a data set to record sets, one folder per split.

    python tools/convert.py --list
    python tools/convert.py --dataset=scenes
    python tools/convert.py --raw_dir=my_images --out_dir=data/mine
    python tools/convert.py --dataset=coco --raw_dir=coco --split=train --resize=346 \\
        --deduplicate=exact,near --exclude=data/coco/test,data/xtd10/test

In the third example, `my_images` is a folder with images and a table, such as captions.tsv with the
columns image, en and de. Without --dataset, the layout of the folder is detected and printed. If
several layouts fit, the command ends with an error that names them and the flags to choose one.
Flags that begin with the name of a data set, such as --table.quoting, are options of that data set.
Existing record sets are kept. The same command continues a conversion that was stopped.
"""

import dataclasses
import inspect
import os
import re
import types
import typing

from absl import flags

from tf_mural import conversion, file_io
from tf_mural.cli import app
from tf_mural.conversion.executors import EXECUTORS
from tf_mural.conversion.ledger import format_summary
from tf_mural.data import records
from tf_mural.data.tokenizers import SPECIAL_TOKENS
from tf_mural.datasets import DATASET_INFO, DATASETS, layouts
from tf_mural.errors import UserError, lookup

_AUTO = "auto"
_DETECTED = ("table", "crawl")  # the data sets whose layouts are detected
FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "dataset",
    _AUTO,
    f"Data set: {', '.join(DATASETS)}; or {_AUTO}, which detects the layout of the folder.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "raw_dir",
    None,
    "Folder of the raw data; the data set scenes has no raw data.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "out_dir", None, "Folder of the record sets. Default: data/<dataset>.", flag_values=FLAGS
)
flags.DEFINE_list("split", None, "Comma-separated splits. Default: all splits.", flag_values=FLAGS)
flags.DEFINE_list(
    "augmentations",
    None,
    "Comma-separated augmentations that training may apply to the images: crop, flip or both. "
    "Omit flip if the texts mention left or right. Default: all augmentations that the data set "
    "allows; photographs with captions are then not mirrored.",
    flag_values=FLAGS,
)
flags.DEFINE_bool("list", False, "Prints the data sets and exits.", flag_values=FLAGS)
flags.DEFINE_bool("overwrite", False, "Replaces existing record sets.", flag_values=FLAGS)
flags.DEFINE_integer(
    "processes",
    None,
    "Number of processes that convert. Default: one process per core.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "part",
    None,
    "Converts only one part of the data: 0/128 is the first of 128 parts, 3/128 the fourth. "
    "Several machines with the same folders may convert parts at the same time. The part that is "
    "finished last completes the record set.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "executor",
    "processes",
    list(EXECUTORS),
    "System that distributes the work.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "beam", None, "Comma-separated flags of Apache Beam, for --executor=beam.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "paper_filters",
    False,
    "Filters images and texts like the paper: "
    + ", ".join(f"{name}={value}" for name, value in conversion.PAPER.items())
    + ". The flag of a filter replaces the value of the paper.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "vocab_size",
    None,
    "Also trains a WordPiece vocabulary of this size on the texts of the split train, and writes "
    "it to <out_dir>/vocab.txt. An existing file is kept, because models may depend on it.",
    lower_bound=2 * len(SPECIAL_TOKENS),
    flag_values=FLAGS,
)


def main(argv=None):
    """Converts a data set. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    if FLAGS.list:
        print("\n\n".join(_dataset_paragraphs()))
        return
    lookup({**DATASETS, _AUTO: None}, FLAGS.dataset, "data set")
    try:
        if FLAGS.dataset == _AUTO:
            FLAGS["dataset"].value = _detect_dataset()
        _convert(DATASETS[FLAGS.dataset])
    except UserError as error:
        error.args = (_with_flags(str(error)),)
        raise


def _with_flags(message):
    """Replaces the names of options of the data set by flags: "the option file" -> --table.file."""
    # Messages of the detection name options of the data set `table`.
    name = "table" if FLAGS.dataset == _AUTO else FLAGS.dataset
    options = conversion.option_defaults(DATASETS[name])

    def flag(match):
        return f"--{name}.{match[1]}" if match[1] in options else match[0]

    return re.sub(r"\bthe option (\w+)", flag, message)


def _detect_dataset():
    """Returns the name of the data set that reads the folder, and prints the layout."""
    if FLAGS.raw_dir is None:
        raise UserError(
            "name a data set with --dataset, or the folder of your own images and texts with "
            "--raw_dir; --list shows the data sets and the layouts of folders"
        )
    considered = {flag.partition(".")[0] for flag in FLAGS if "." in flag and FLAGS[flag].present}
    if len(considered) > 1:
        listed = " and ".join(f"--{name}.*" for name in sorted(considered))
        raise UserError(
            f"the flags {listed} belong to different data sets; name one with --dataset"
        )
    if not considered <= set(_DETECTED):
        return considered.pop()
    options = _options_of("table")
    matches = layouts.detect(FLAGS.raw_dir, options, considered or _DETECTED)
    if len(matches) > 1:
        choices = " or ".join(f"{_choice(match)} ({_description(match)})" for match in matches)
        raise UserError(f"{FLAGS.raw_dir}: {len(matches)} layouts fit; choose one: {choices}")
    (match,) = matches
    line = f"{FLAGS.raw_dir} is read as {_description(match)}, as with {_choice(match)}"
    if match.dataset == "crawl" and not FLAGS["crawl.language"].present:
        line += "; captions without a language are stored as en (--crawl.language changes this)"
    _print_now(line)
    return match.dataset


def _choice(match):
    chosen = (f"--{match.dataset}.{name}={value}" for name, value in match.options.items())
    return " ".join([f"--dataset={match.dataset}", *chosen])


def _description(match):
    return f"{match.description}: {match.reason()}"


def _convert(dataset):
    options, filters, part = _dataset_options(), _filters(), _part()
    out_dir = FLAGS.out_dir or os.path.join("data", FLAGS.dataset)
    raw_dir = FLAGS.raw_dir
    if FLAGS.executor != "processes":
        # The paths must be absolute, because workers may have another working directory.
        out_dir, raw_dir = (path and file_io.absolute(path) for path in (out_dir, raw_dir))
    splits = FLAGS.split or _splits(dataset, options)
    if FLAGS.vocab_size is not None and "train" not in splits:
        # If the records of train are missing, this call raises a UserError before the conversion
        # starts.
        records.read_manifest(os.path.join(out_dir, "train"))
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
            filters=filters,
            part=part,
            executor=FLAGS.executor,
            flags=(FLAGS.beam,) if FLAGS.beam is not None else (),
        )
        if manifest is not None:  # None: other parts of the split are not converted yet
            manifests.append(manifest)
    if FLAGS.vocab_size is not None and len(manifests) == len(splits):
        _write_vocabulary(out_dir, FLAGS.vocab_size)
    if manifests:
        print()
        print(format_summary(manifests))


def _print_now(line):
    print(line, flush=True)


# --- flags: the parameters of each data set's plan(), and the fields of FilterConfig --------------


def _define_options():
    helps = _argument_docs(conversion.FilterConfig, "Attributes:\n")
    hints = typing.get_type_hints(conversion.FilterConfig)
    for field in dataclasses.fields(conversion.FilterConfig):
        _define_option(field.name, hints[field.name], field.default, helps[field.name])
    for name, dataset in DATASETS.items():
        hints = typing.get_type_hints(dataset.plan)
        helps = _argument_docs(dataset.plan)
        for option, default in conversion.option_defaults(dataset).items():
            _define_option(f"{name}.{option}", hints.get(option), default, helps.get(option, ""))


def _define_option(name, hint, default, text):
    if default not in (None, "", ()):
        shown = ",".join(default) if isinstance(default, tuple) else default
        text += f" Default: {shown}."
    # The flag has no default, because only values that the user gives are passed to the data set.
    _flag_definition(hint, default)(name, None, text, flag_values=FLAGS)


def _flag_definition(hint, default):
    """Returns the function of absl that defines flags for values of a type."""
    definitions = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    value_types = [typing.get_origin(hint) or hint for hint in hints] + [type(default)]
    if tuple in value_types:
        return flags.DEFINE_list
    supported = (definitions[value_type] for value_type in value_types if value_type in definitions)
    return next(supported, flags.DEFINE_string)


def _argument_docs(documented, section="Args:\n"):
    """Returns {argument: description as one line} from a section of a docstring."""
    section = (inspect.getdoc(documented) or "").partition(section)[2]
    descriptions, name = {}, None
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if start := re.match(r"    (\w+): (.*)", line):
            name, descriptions[start[1]] = start[1], start[2]
        elif name:
            descriptions[name] += " " + line.strip()
    return descriptions


def _dataset_options():
    for flag in FLAGS:
        dataset, _, option = flag.partition(".")
        if option and FLAGS[flag].present and dataset != FLAGS.dataset:
            raise UserError(f"--{flag} is an option of {dataset}, but --dataset is {FLAGS.dataset}")
    return _options_of(FLAGS.dataset)


def _options_of(dataset):
    """Returns {option: value} of the flags of a data set that the user gives."""
    names = [flag for flag in FLAGS if flag.startswith(f"{dataset}.") and FLAGS[flag].present]
    return {flag.partition(".")[2]: _flag_value(flag) for flag in names}


def _filters():
    values = dict(conversion.PAPER) if FLAGS.paper_filters else {}
    for field in dataclasses.fields(conversion.FilterConfig):
        if FLAGS[field.name].present:
            values[field.name] = None if FLAGS[field.name].value == "" else _flag_value(field.name)
    return conversion.FilterConfig(**values)


def _flag_value(flag):
    value = FLAGS[flag].value
    return tuple(value) if isinstance(value, list) else value


def _part():
    if FLAGS.part is None:
        return None
    if not (match := re.fullmatch(r"(\d+)/(\d+)", FLAGS.part)):
        raise UserError(f"expected a part such as 3/128, from 0/128 to 127/128; got {FLAGS.part!r}")
    return int(match[1]), int(match[2])


def _splits(dataset, options):
    if hasattr(dataset, "splits"):
        try:
            return dataset.splits(FLAGS.raw_dir, **options)
        except OSError as error:
            raise UserError(f"{FLAGS.dataset}: the raw data cannot be read: {error}") from error
    return dataset.SPLITS


# --- output ---------------------------------------------------------------------------------------


def _write_vocabulary(out_dir, size):
    from tf_mural.data import tokenizers

    path = os.path.join(out_dir, "vocab.txt")
    if os.path.exists(path):
        num_pieces = len(tokenizers.load_vocabulary(path))
        _print_now(
            f"vocabulary: kept {path} with {num_pieces:,} pieces (remove it to train another)"
        )
        return
    train = records.RecordSet.open(os.path.join(out_dir, "train"))
    _print_now(f"training a vocabulary on {train.manifest['texts']:,} texts")
    texts = (text for record in train for _, text in record.texts)
    pieces = tokenizers.train_vocabulary(texts, size)
    tokenizers.save_vocabulary(path, pieces)
    _print_now(f"{len(pieces):,} pieces in {path}")


def _dataset_paragraphs():
    """Yields the paragraph that --list prints for each data set."""
    facts = (f"    {each.description} ({each.example})" for each in layouts.LAYOUTS.values())
    yield "\n".join([f"{_AUTO}: your own data, if raw_dir is one of the following:", *facts])
    for name, dataset in DATASETS.items():
        info = DATASET_INFO[name]
        facts = {
            "splits": info.splits or " ".join(dataset.SPLITS),
            "augmentations": " ".join(dataset.AUGMENTATIONS) or "none",
            "license": info.license,
            "homepage": info.homepage,
            "raw_dir": info.raw_data,
        }
        lines = [f"    {fact:<14} {text}" for fact, text in facts.items() if text]
        yield "\n".join([f"{name}: {info.description}", *lines])


_define_options()
