"""Scores a trained model: on benchmarks by name, or by a task on any record sets.

    python tools/evaluate.py --model=runs/tiny/etcl-s0 --task=all
    python tools/evaluate.py --model=runs/paper/etcl-s0 --task=retrieval/coco,sts/sts2017
    python tools/evaluate.py --model=runs/tiny/etcl-s0 --task=retrieval \\
        --records=emoji/val,scenes/test --languages=en,de --captions_per_image=1

A benchmark knows its records, where tools/convert.py writes them under --data_dir; all is every
benchmark whose records are there, and tells what is lacking. Results that are there already, of the
same model and data, are not measured again by all. Each result is printed, and written with its
protocol, the hashes of model, data and vocabulary, and intervals to <model>/evals/<task>.json (for
a model on a hub runs/hub/<its name>/evals), or <task>-<set>.json for records of your own; options
of the task are part of the name.
"""

import dataclasses
import os
import time
import traceback

import common
import failures
import jobs
from absl import flags

from tf_mural import file_io
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS
from tf_mural.evaluation.benchmarks import BENCHMARKS

ALL = "all"
_BACKEND = common.define_backend()
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir of a finished run, or its best; a preset (see tools/export.py), in a folder or on a "
    "hub, such as hf://user/name. Required.",
)
_TASK = flags.DEFINE_list(
    "task",
    ["retrieval"],
    f"{ALL}; benchmarks, parted by commas: {', '.join(BENCHMARKS)}; or with --records a task: "
    f"{', '.join(TASKS)}.",
)
_RECORDS = flags.DEFINE_list(
    "records", [], "Record sets, parted by commas: folders, or folders under --data_dir."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.")
_OUT = flags.DEFINE_string(
    "out", None, "File for a single result. Default: <model>/evals/<task>.json, see above."
)
# Options of tasks: arguments of the same name of their `run`.
_OPTIONS = {
    "languages": flags.DEFINE_list(
        "languages", None, "Codes to score, parted by commas. Default: all there are."
    ),
    "captions_per_image": flags.DEFINE_integer(
        "captions_per_image",
        None,
        "retrieval: how many of an image's texts in a language to use, the first ones. "
        "Default: all.",
        lower_bound=1,
    ),
    "prompts": flags.DEFINE_string(
        "prompts",
        None,
        "zero_shot: a folder of prompts, or under --data_dir. Default: prompts/<data set> under "
        "--data_dir; without it, English ones made of the names of the classes.",
    ),
    "index": flags.DEFINE_string(
        "index", None, "knn: the record set to look neighbours up in, found as --records is."
    ),
    "k": flags.DEFINE_integer(
        "k", None, "knn: how many neighbours may have the label. Default: 1.", lower_bound=1
    ),
    "tracks": flags.DEFINE_list(
        "tracks", None, "sts: pairs of languages such as en-de, parted by commas. Default: all."
    ),
}


def main():
    options = {name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None}
    if not _TASK.value:
        raise UserError(f"--task names nothing to score: {ALL}, a benchmark or a task")
    for name in _TASK.value:
        lookup({ALL: None, **TASKS, **BENCHMARKS}, name, "task")
    everything = ALL in _TASK.value
    if everything and (options or _RECORDS.value or len(_TASK.value) > 1):
        raise UserError("--task=all stands alone: it takes each benchmark as it is defined")
    if not _MODEL.value:
        raise UserError("say which model: --model=<workdir of a finished run>")
    evals = jobs.folder_of(_MODEL.value)
    if everything:
        wanted = jobs.all_there(evals, _DATA_DIR.value)
    else:
        wanted = jobs.asked_for(evals, _TASK.value, _RECORDS.value, _OUT.value, options)

    common.import_tensorflow(_BACKEND.value)
    from tf_mural import experiment
    from tf_mural.experiment import evaluation

    def plan(job):
        return evaluation.plan(job.name, _DATA_DIR.value, job.folder, **options)

    if not everything:  # Before any work, whatever is wrong with one of them.
        planned = {job.out: plan(job) for job in wanted}
    model = experiment.load(_MODEL.value)
    about = {
        "vocabulary_hash": model.tokenizer.hash,
        "weights_hash": jobs.weights_hash(_MODEL.value)
        or experiment.fingerprint(model.encoder, model.tokenizer, model.sizes)[:12],
    }
    cache = None if file_io.is_remote(evals) else os.path.join(evals, "classes")

    def score(job):
        ready = plan(job) if everything else planned[job.out]
        if everything and jobs.there_already(job.out, ready, about):
            say(f"{job.name}: there already, of this model and these data: {job.out}\n")
        else:
            measure(job, ready, model.embed, about, cache)

    if len(wanted) == 1:
        score(wanted[0])
    else:
        each(wanted, score)


def each(wanted, score):
    """Scores one after another; what fails does not keep the others from their results."""
    failed, code = [], 2
    for job in wanted:
        try:
            score(job)
        except UserError as error:
            failed.append(job)
            say(f"{job.name}: failed: {error}\n")
        except Exception as error:
            failed.append(job)
            if line := failures.line_of(error):
                say(f"{job.name}: failed: {line}\n")
            else:
                code = 1  # no fault of the user's
                say(f"{job.name}: failed:\n{traceback.format_exc()}")
    if failed:
        error = UserError(
            f"{len(failed)} of {len(wanted)} failed, see above: {', '.join(j.name for j in failed)}"
        )
        error.exit_code = code
        raise error


def measure(job, ready, embed, about, cache):
    """Runs, prints and writes one evaluation."""
    from tf_mural.experiment.evaluation import Watched
    from tf_mural.reports.results import result_table, unit

    began = time.perf_counter()
    result = ready.run(Watched(embed, job.name, say), cache, about["weights_hash"])
    records = ready.records
    print(f"{result.protocol} on {records.folder}, {len(records):,} records, {unit(result.task)}:")
    if ready.benchmark and not job.folder and len(records) != ready.benchmark.size:
        print(f"(the whole set has {ready.benchmark.size:,}: no number to set beside others')")
    print(result_table(result))
    file_io.make_folder(os.path.dirname(job.out) or ".")
    data = {
        "model": _MODEL.value,
        **about,
        # Of records of one's own it is not the benchmark's number.
        "benchmark": job.name if ready.benchmark and not job.folder else None,
        "records": len(records),
        "data": ready.data,
        "options": ready.options,
        **dataclasses.asdict(result),
    }
    file_io.write_json(job.out, data)
    say(f"written to {job.out}, after {time.perf_counter() - began:.0f} s\n")


def say(line):
    """Prints at once, also into a pipe or a file: a long run is watched."""
    print(line, flush=True)


if __name__ == "__main__":
    common.run(main)
