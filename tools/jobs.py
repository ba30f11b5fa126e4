"""Which results tools/evaluate.py is to bring about, and where they go."""

import dataclasses
import hashlib
import inspect
import json
import os

from tf_mural import file_io
from tf_mural.errors import UserError
from tf_mural.evaluation.benchmarks import BENCHMARKS, check_options, lacking, run_of


@dataclasses.dataclass
class Job:
    """One result to be: a task on a record set, or a benchmark (on its own records for None)."""

    name: str
    folder: str | None
    out: str


def folder_of(model):
    """Folder of all results of a model: beside its weights, and for one on a hub under runs/hub."""
    if file_io.is_on_hub(model):
        return os.path.join("runs", "hub", model.split("://", 1)[1].replace("/", "-"), "evals")
    if not file_io.is_folder(model):
        raise UserError(
            f"no folder {model!r}; --model is the workdir of a finished run, the folder of a "
            "preset, or a preset on a hub (hf://user/name)"
        )
    return os.path.join(model, "evals")


def all_there(evals, data_dir):
    """A job for each benchmark that has its data; says which have not."""
    jobs = []
    for name in BENCHMARKS:
        if folders := lacking(name, data_dir):
            print(f"{name}: left out, there is no {' and no '.join(folders)}")
        else:
            jobs.append(Job(name, None, out_path(evals, name)))
    if not jobs:
        raise UserError(
            f"no benchmark has its records under {data_dir}: convert some with "
            "tools/convert.py, whose --list tells which there are"
        )
    print()
    return jobs


def asked_for(evals, names, records, out, options):
    """The jobs of --task, --records and --out; no two with the same file."""
    jobs = []
    for name in names:
        check_options(name, options)
        if not records and name not in BENCHMARKS:
            near = [benchmark for benchmark in BENCHMARKS if BENCHMARKS[benchmark].task == name]
            raise UserError(
                f"say what to score it on: --records=<folder>[,<folder>], or --task={near[0]}"
            )
        for folder in records or [None]:
            jobs.append(Job(name, folder, out_path(evals, name, folder, options)))
    if out:
        if len(jobs) > 1:
            raise UserError(
                f"--out names one file, but there are {len(jobs)} results: leave --out away, or "
                "score one at a time"
            )
        jobs[0].out = out
    outs = [job.out for job in jobs]
    if double := next((out for out in outs if outs.count(out) > 1), None):
        raise UserError(f"two results would be {double}: score one at a time, with --out")
    return jobs


def out_path(evals, name, folder=None, options=None):
    """Where a result goes: evals/retrieval/coco.json, evals/retrieval-scenes-test.json."""
    # A set goes by its last two folders: "scenes/test" wherever it lies.
    parts = [name] if folder is None else [name, *os.path.abspath(folder).split(os.sep)[-2:]]
    for option, value in (options or {}).items():
        value = value if isinstance(value, list) else [str(value)]
        parts += [option, *(part.strip(os.sep).replace(os.sep, "-") for part in value)]
    return os.path.join(evals, "-".join(parts) + ".json")


def there_already(path, ready, about):
    """Whether a file holds the result of the same model, data, options and protocol."""
    try:
        result = json.loads(file_io.read_bytes(path))
    except (OSError, ValueError):
        return False
    version = inspect.getmodule(run_of(ready.name)).PROTOCOL
    wanted = {**about, "data": ready.data, "options": json.loads(json.dumps(ready.options))}
    protocol = str(result.get("protocol")).split(";")[0]
    return protocol == version and all(result.get(key) == wanted[key] for key in wanted)


def weights_hash(path):
    """Short hash of the file of a model's weights; None for a model on a hub."""
    if file_io.is_on_hub(path):
        return None
    run, preset = f"{path}/weights.npz", f"{path}/model.weights.h5"
    return hashlib.sha256(file_io.read_bytes(run if file_io.exists(run) else preset)).hexdigest()[
        :12
    ]
