"""Scores a trained model on record sets, each by itself.

    python tools/evaluate.py --model=runs/tiny/etcl-s0 --records=scenes/test
    python tools/evaluate.py --model=runs/tiny/etcl-s0 --records=emoji/val,scenes/test \\
        --languages=en,de --captions_per_image=1

Prints a table a set, and writes it with its protocol, the hashes of data and vocabulary, and
intervals to <model>/evals/<task>-<set>.json; options of the task are part of that name.
"""

import dataclasses
import inspect
import os

import common
from absl import flags

from tf_mural.base import UserError, pick
from tf_mural.tasks import TASKS

_MODEL = flags.DEFINE_string("model", None, "Workdir of a finished run. Required.")
_TASK = flags.DEFINE_string("task", "retrieval", f"One of {', '.join(TASKS)}.")
_RECORDS = flags.DEFINE_list(
    "records", [], "Record sets, parted by commas: folders, or folders under --data_dir. Required."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")
_OUT = flags.DEFINE_string(
    "out", None, "File for the result of a single set. Default: <model>/evals/<task>-<set>.json."
)
# Options of tasks: arguments of the same name of their `run`.
_OPTIONS = {
    "languages": flags.DEFINE_list(
        "languages", None, "retrieval: codes to score, parted by commas. Default: all there are."
    ),
    "captions_per_image": flags.DEFINE_integer(
        "captions_per_image",
        None,
        "retrieval: how many of an image's texts in a language to use, the first ones. "
        "Default: all.",
        lower_bound=1,
    ),
}


def main():
    run = pick(TASKS, _TASK.value, "task")
    options = task_options(run)
    if not _MODEL.value:
        raise UserError("say which model: --model=<workdir of a finished run>")
    if not os.path.isdir(_MODEL.value):
        raise UserError(f"no folder {_MODEL.value!r}; --model is the workdir of a finished run")
    if not _RECORDS.value:
        raise UserError("say what to score it on: --records=<folder>[,<folder>]")
    outs = out_paths(options)

    common.import_tensorflow()
    from tf_mural import build, reports

    sets = [open_set(folder, options) for folder in _RECORDS.value]
    _, tokenizer, embed = build.load(_MODEL.value)
    for records, out in zip(sets, outs, strict=True):
        result = run(embed, records, **options)
        print(f"{result.protocol} on {records.folder}, {len(records):,} records, in percent:")
        print(reports.recall_table(result))
        write(out, result, options, records, tokenizer.hash)
        print(f"written to {out}\n")


def task_options(run):
    """The options that were given, as keyword arguments of the task's `run`."""
    known = [name for name in _OPTIONS if name in inspect.signature(run).parameters]
    given = {name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None}
    for name in given:
        if name not in known:
            raise UserError(
                f"the task {_TASK.value!r} has no option --{name}; "
                f"it has: {', '.join(f'--{k}' for k in known) or 'none'}"
            )
    return given


def out_paths(options):
    """Where the result of each set goes; no two to the same file."""
    if _OUT.value:
        if len(_RECORDS.value) > 1:
            raise UserError(
                f"--out names one file, but --records {len(_RECORDS.value)} sets: "
                "leave --out away, or score one at a time"
            )
        return [_OUT.value]
    paths = []
    for folder in _RECORDS.value:
        # A set goes by its last two folders: "scenes/test" wherever it lies.
        parts = [_TASK.value, *os.path.abspath(folder).split(os.sep)[-2:]]
        for name, value in options.items():
            parts += [name, *value] if isinstance(value, list) else [name, str(value)]
        path = os.path.join(_MODEL.value, "evals", "-".join(parts) + ".json")
        if path in paths:
            raise UserError(
                f"--records has two sets whose result would be {path}: score one at a time, "
                "with --out"
            )
        paths.append(path)
    return paths


def open_set(folder, options):
    """The record set, once it is known to have the languages that were asked for."""
    from tf_mural import build

    records = build.open_records(folder, _DATA_DIR.value)
    for code in options.get("languages", ()):
        # Before any work: the task itself finds out after embedding every image.
        pick(records.language_counts, code, f"language (of {records.folder})")
    return records


def write(path, result, options, records, vocabulary_hash):
    """Writes a result with all that says what it is of."""
    from tf_mural import checkpoints

    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    data = {
        "model": _MODEL.value,
        "vocabulary_hash": vocabulary_hash,
        "data": {records.folder: records.digest},
        "options": options,
        **dataclasses.asdict(result),
    }
    checkpoints.write_json(path, data)


if __name__ == "__main__":
    common.run(main)
