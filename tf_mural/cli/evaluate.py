"""Evaluates a trained model on benchmarks, or runs a task on any record sets.

    python tools/evaluate.py --model=runs/tiny/etcl-s0 --task=all
    python tools/evaluate.py --model=runs/paper/etcl-s0 --task=retrieval/coco,sts/sts2017
    python tools/evaluate.py --model=runs/tiny/etcl-s0 --task=retrieval \\
        --records=emoji/val,scenes/test --languages=en,de --captions_per_image=1

A benchmark uses record sets in --data_dir, with the names that tools/convert.py gives them by
default. --task=all runs every benchmark whose records exist, and prints the names of the benchmarks
whose records are missing. --task=all skips a benchmark if a result of the same model and data
exists.

Each result is printed, and written to <model>/evals/<task>.json with its protocol, confidence
intervals, and the hashes of model, data and vocabulary. Results of a model on a hub are written to
runs/hub/<name of the model>/evals. With --records, the file of a result is named <task>-<set>.json.
Options of the task are appended to the name of the result file.

--dims=640,128 evaluates truncated embeddings of these sizes: retrieval is printed with a column per
size, and any other task with a table per size. The file has the values of each size under "sizes".
"""

import os
import time
import traceback

from absl import flags

from tf_mural import file_io
from tf_mural.cli import app
from tf_mural.cli.error_lines import error_line
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS
from tf_mural.evaluation.benchmarks import BENCHMARKS
from tf_mural.evaluation.protocols import describe
from tf_mural.experiment import eval_jobs
from tf_mural.truncation import check_dim

ALL = "all"

FLAGS = flags.FlagValues()
_BACKEND = app.define_backend(FLAGS)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir of a finished run, the folder best of a workdir, a preset (see tools/export.py), or a "
    "public model (hf:NAME_OR_FOLDER). A preset may be a folder, or on a hub, such as "
    "hf://user/name. Required.",
    flag_values=FLAGS,
)
_TASK = flags.DEFINE_list(
    "task",
    ["retrieval"],
    f"{ALL}, or comma-separated benchmarks and tasks. Benchmarks: {', '.join(BENCHMARKS)}. Tasks, "
    f"which need --records: {', '.join(TASKS)}.",
    flag_values=FLAGS,
)
_RECORDS = flags.DEFINE_list(
    "records",
    [],
    "Comma-separated folders of record sets, which may be relative to --data_dir.",
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the record sets.", flag_values=FLAGS)
_CACHE_DIR = app.define_cache_dir(FLAGS)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "File to write, if there is only one result. Default: <model>/evals/<task>.json.",
    flag_values=FLAGS,
)
_DIMS = flags.DEFINE_list(
    "dims",
    [],
    "Comma-separated sizes of the embeddings to evaluate, such as 640,128: the first values of "
    "each embedding, scaled to length 1. Default: the whole embeddings.",
    flag_values=FLAGS,
)
# Options of tasks. Each option is passed to the function of the task, as the argument of the same
# name.
_OPTIONS = {
    "languages": flags.DEFINE_list(
        "languages",
        None,
        "Comma-separated codes of the languages to evaluate. Default: all languages.",
        flag_values=FLAGS,
    ),
    "captions_per_image": flags.DEFINE_integer(
        "captions_per_image",
        None,
        "Option of the task retrieval: number of texts per image and language, of which the first "
        "ones are used. Default: all texts.",
        lower_bound=1,
        flag_values=FLAGS,
    ),
    "protocol": flags.DEFINE_string(
        "protocol",
        None,
        "Option of the tasks retrieval (v1, mteb, mteb-unique) and zero_shot (v1, argmax): name of "
        "the protocol. Default: that of the benchmark, or v1.",
        flag_values=FLAGS,
    ),
    "prompt_set": flags.DEFINE_string(
        "prompt_set",
        None,
        "Option of the task zero_shot: names (prompts are names of classes without a template), or "
        "openai-english (Babel-ImageNet with CLIP's English). Default: the prompts of the files.",
        flag_values=FLAGS,
    ),
    "prompts": flags.DEFINE_string(
        "prompts",
        None,
        "Option of the task zero_shot: folder of prompts, which may be relative to --data_dir. "
        "Default: prompts/<data set> in --data_dir; if this folder does not exist, English prompts "
        "are made from the names of the classes.",
        flag_values=FLAGS,
    ),
    "index": flags.DEFINE_string(
        "index",
        None,
        "Option of the task knn: folder of the record set in which neighbors are searched, which "
        "may be relative to --data_dir.",
        flag_values=FLAGS,
    ),
    "k": flags.DEFINE_integer(
        "k",
        None,
        "Option of the task knn: number of neighbors. Default: 1.",
        lower_bound=1,
        flag_values=FLAGS,
    ),
    "tracks": flags.DEFINE_list(
        "tracks",
        None,
        "Option of the task sts: comma-separated pairs of languages, such as en-de. Default: all "
        "pairs.",
        flag_values=FLAGS,
    ),
}


def main(argv=None):
    """Evaluates a model. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__)
    options = {name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None}
    dims = _parse_dims()
    jobs, run_all = _jobs(options, dims)

    app.set_cache_dir(_CACHE_DIR.value)
    app.import_tensorflow(_BACKEND.value)
    from tf_mural import experiment
    from tf_mural.experiment.evaluate import model_hashes
    from tf_mural.experiment.evaluation import prepare_evaluation

    def prepare(job):
        return prepare_evaluation(job.name, _DATA_DIR.value, job.records, **options)

    if not run_all:  # reports the errors of all jobs before the first job runs
        prepared = {job.out: prepare(job) for job in jobs}
    model = experiment.load(_MODEL.value)
    hashes = model_hashes(_MODEL.value, model)
    for dim in dims:
        check_dim(dim, model.embed.width, "dims")
        app.print_size_note(dim, model.dims)

    def run(job):
        evaluation = prepare(job) if run_all else prepared[job.out]
        if run_all and eval_jobs.is_up_to_date(job.out, evaluation, hashes, dims):
            _print_now(
                f"{job.name}: up to date, because the model and the data are the same: {job.out}\n"
            )
        else:
            _evaluate(job, evaluation, model.embed, hashes, dims)

    if len(jobs) == 1:
        run(jobs[0])
    else:
        _run_each(jobs, run)


def _parse_dims():
    """Returns the sizes of --dims, a list of int."""
    try:
        dims = [int(dim) for dim in _DIMS.value]
    except ValueError:
        raise UserError(f"--dims={','.join(_DIMS.value)}: expected sizes such as 640,128") from None
    if len(set(dims)) < len(dims):
        raise UserError(f"--dims={','.join(_DIMS.value)}: a size occurs twice")
    return dims


def _jobs(options, dims):
    """Returns (list of `Job`, whether --task is all)."""
    if not _TASK.value:
        raise UserError(f"--task is empty: expected {ALL}, a benchmark or a task")
    for name in _TASK.value:
        lookup({ALL: None, **TASKS, **BENCHMARKS}, name, "task")
    run_all = ALL in _TASK.value
    if run_all and (options or _RECORDS.value or len(_TASK.value) > 1):
        raise UserError(
            "--task=all runs the benchmarks as they are defined: omit --records, options of tasks, "
            "and other tasks"
        )
    if not _MODEL.value:
        raise UserError("name the model: --model=<workdir of a finished run>")
    folder = eval_jobs.results_folder(_MODEL.value)
    if run_all:
        return eval_jobs.available_jobs(folder, _DATA_DIR.value, dims), True
    arguments = _TASK.value, _RECORDS.value, _OUT.value, options, dims
    return eval_jobs.requested_jobs(folder, *arguments), False


def _run_each(jobs, run):
    """Runs all jobs, even if some of them fail.

    Raises:
        UserError: some jobs failed. The UserError has the exit code 1 if an error was unexpected,
            otherwise 2.
    """
    failed, code = [], 2
    for job in jobs:
        try:
            run(job)
        except UserError as error:
            failed.append(job)
            _print_now(f"{job.name}: failed: {error}\n")
        except Exception as error:
            failed.append(job)
            if line := error_line(error):
                _print_now(f"{job.name}: failed: {line}\n")
            else:
                code = 1
                _print_now(f"{job.name}: failed:\n{traceback.format_exc()}")
    if failed:
        names = ", ".join(job.name for job in failed)
        error = UserError(f"{len(failed)} of {len(jobs)} evaluations failed, see above: {names}")
        error.exit_code = code
        raise error


def _evaluate(job, evaluation, embed, hashes, dims):
    """Runs one evaluation, and prints and writes its result."""
    from tf_mural.data.image_normalization import stored_images_note
    from tf_mural.experiment.evaluate import result_content, write_result
    from tf_mural.experiment.evaluation import ProgressEmbedder
    from tf_mural.reports.result_tables import result_table, sizes_table, task_unit

    folder = eval_jobs.results_folder(_MODEL.value)
    cache_dir = None if file_io.is_remote(folder) else os.path.join(folder, "classes")
    start_time = time.perf_counter()
    embed = ProgressEmbedder(embed, job.name)
    result = evaluation.run(embed, cache_dir, hashes["weights_hash"], dims)
    records, benchmark = evaluation.records, None if job.records else evaluation.benchmark
    unit = task_unit(result.task)
    print(f"{result.protocol} on {records.folder}, {len(records):,} records, {unit}:")
    if details := describe(result.protocol):
        print(f"({'; '.join(f'{key}: {value}' for key, value in details.items())})")
    if note := stored_images_note(records.folder, records.manifest):
        print(f"({note})")
    if benchmark and len(records) != benchmark.size:
        print(
            f"(the benchmark has {benchmark.size:,} records: this result is not comparable with "
            "published results)"
        )
    if merged := result.counts.get("merged_records"):
        print(f"({merged:,} records have the image of an earlier record, and are merged with it)")
    print(sizes_table(result) if dims else result_table(result))
    content = result_content(_MODEL.value, hashes, job, evaluation, result, dims)
    write_result(job.out, content, result)
    _print_now(f"written to {job.out}, after {time.perf_counter() - start_time:.0f} s\n")


def _print_now(line):
    print(line, flush=True)
