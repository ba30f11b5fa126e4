"""Lists the evaluations to run and their result files, and finds results that are up to date."""

import dataclasses
import hashlib
import inspect
import json
import os

from tf_mural import file_io, public_models
from tf_mural.errors import UserError
from tf_mural.evaluation.benchmarks import (
    BENCHMARKS,
    check_options,
    missing_records,
    task_for,
)
from tf_mural.evaluation.protocols import protocol_id


@dataclasses.dataclass
class Job:
    """One evaluation.

    Attributes:
        name: name of a task or a benchmark.
        records: folder of a record set; None: the record set of the benchmark.
        out: file to which the result is written.
    """

    name: str
    records: str | None
    out: str


def results_folder(model):
    """Returns the folder of the results of a model; for a public model, a folder in runs/hub.

    Raises:
        UserError: the model is neither a folder nor on a hub.
    """
    if file_io.is_on_hub(model) or public_models.is_public(model):
        name = model.split("://" if file_io.is_on_hub(model) else ":", 1)[1]
        return os.path.join("runs", "hub", name.strip("/").replace("/", "-"), "evals")
    if not file_io.isdir(model):
        raise UserError(
            f"no folder {model!r}; expected the workdir of a finished run, the folder of a "
            "preset, a preset on a hub (hf://user/name), or a public model (hf:user/name)"
        )
    return os.path.join(model, "evals")


def available_jobs(folder, data_dir, dims=()):
    """Returns a job for each benchmark whose records exist, and prints the skipped benchmarks.

    Args:
        folder: folder of the results.
        data_dir: folder of the record sets.
        dims: sizes of the embeddings.

    Raises:
        UserError: the records of all benchmarks are missing.
    """
    jobs = []
    for name in BENCHMARKS:
        if missing := missing_records(name, data_dir):
            print(f"{name}: skipped, there is no {' and no '.join(missing)}")
        else:
            jobs.append(Job(name, None, result_path(folder, name, None, _sizes(dims))))
    if not jobs:
        raise UserError(
            f"{data_dir} has the records of no benchmark: convert a data set with "
            "tools/convert.py (`tools/convert.py --list` shows the data sets)"
        )
    print()
    return jobs


def requested_jobs(folder, names, records, out, options, dims=()):
    """Returns the jobs of the requested tasks or benchmarks.

    Args:
        folder: folder of the results.
        names: names of tasks and benchmarks.
        records: folders of record sets; empty: the record sets of the benchmarks.
        out: file of the result, if there is only one job; None: a file in `folder`.
        options: options of the tasks, {name of an option: value}.
        dims: sizes of the embeddings.

    Raises:
        UserError: a task needs records, or two results would have the same file.
    """
    jobs = []
    for name in names:
        check_options(name, options)
        if not records and name not in BENCHMARKS:
            examples = [benchmark for benchmark in BENCHMARKS if BENCHMARKS[benchmark].task == name]
            raise UserError(
                "name the records to evaluate on: `records=<folder>[,<folder>]`, or "
                f"`task={examples[0]}`"
            )
        for record_set in records or [None]:
            path = result_path(folder, name, record_set, {**options, **_sizes(dims)})
            jobs.append(Job(name, record_set, path))
    if out:
        if len(jobs) > 1:
            raise UserError(
                f"`out` names one file, but there are {len(jobs)} results: omit it, or "
                "evaluate one at a time"
            )
        jobs[0].out = out
    paths = [job.out for job in jobs]
    if duplicate := next((path for path in paths if paths.count(path) > 1), None):
        raise UserError(
            f"two results would be written to {duplicate}: evaluate one at a time, with `out`"
        )
    return jobs


def result_path(folder, name, records=None, options=None):
    """Returns the file of a result, such as evals/retrieval-scenes-test.json."""
    # A record set is named by the last two folders of its path, such as "scenes/test".
    parts = [name] if records is None else [name, *file_io.absolute(records).split(os.sep)[-2:]]
    for option, value in (options or {}).items():
        value = value if isinstance(value, list) else [str(value)]
        parts += [option, *(part.strip(os.sep).replace(os.sep, "-") for part in value)]
    return os.path.join(folder, "-".join(parts) + ".json")


def _sizes(dims):
    return {"dims": [str(dim) for dim in dims]} if dims else {}


def is_up_to_date(path, evaluation, model_hashes, dims=()):
    """Returns whether a file has a result with the given model, data, options and protocol.

    Args:
        path: file of a result.
        evaluation: `experiment.evaluation.Evaluation`.
        model_hashes: hashes of the weights and of the vocabulary, as {key of the hash in the
            result: hash}.
        dims: sizes of the embeddings.
    """
    try:
        result = json.loads(file_io.read_bytes(path))
    except (OSError, ValueError):
        return False
    version = inspect.getmodule(task_for(evaluation.name)).PROTOCOL
    if name := evaluation.options.get("protocol"):
        version = protocol_id(version.split("/")[0], name)
    options = json.loads(json.dumps(evaluation.options))
    expected = {**model_hashes, "data": evaluation.data, "options": options}
    expected |= {"dims": list(dims)} if dims else {}
    protocol = str(result.get("protocol")).split(";")[0]
    return protocol == version and all(result.get(key) == expected[key] for key in expected)


def weights_hash(path):
    """Returns a short hash of the weights file of a model; None for a model on a hub."""
    if file_io.is_on_hub(path) or public_models.is_public(path):
        return None
    run, preset = f"{path}/weights.npz", f"{path}/model.weights.h5"
    weights = file_io.read_bytes(run if file_io.exists(run) else preset)
    return hashlib.sha256(weights).hexdigest()[:12]
