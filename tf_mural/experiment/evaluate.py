"""Evaluates a model from Python: `tf_mural.evaluate`, the equivalent of tools/evaluate.py."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_mural import experiment, file_io
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS, protocols
from tf_mural.evaluation.benchmarks import BENCHMARKS
from tf_mural.evaluation.results import Result
from tf_mural.experiment import eval_jobs
from tf_mural.experiment.embedder import Embedder
from tf_mural.experiment.evaluation import prepare_evaluation
from tf_mural.models import DualEncoder
from tf_mural.truncation import check_dim


def evaluate(
    model: str | os.PathLike | DualEncoder | Embedder,
    task: str | Sequence[str] = "retrieval",
    *,
    records: str | os.PathLike | Sequence[str | os.PathLike] = (),
    data_dir: str | os.PathLike = "data",
    out: str | os.PathLike | None = None,
    dims: Sequence[int] = (),
    **options: Any,
) -> Result | dict[str, Result]:
    """Evaluates a model on benchmarks, or runs tasks on any record sets.

        result = tf_mural.evaluate("runs/tiny/etcl-s0", "retrieval", records="scenes/test")
        result.values["de"]["average_recall"]

    Args:
        model: workdir of a finished run, folder or hub handle of a preset, `Embedder`,
            `DualEncoder` with a tokenizer, or a trainer of such a model.
        task: name of a benchmark ("retrieval/coco") or of a task ("retrieval"), or a list of names.
        records: paths of the record sets, absolute or relative to `data_dir`. Empty: the record
            sets of the benchmarks.
        data_dir: folder of the record sets.
        out: file to which the result is written, in the JSON format of tools/evaluate.py. None: no
            file is written.
        dims: sizes of the embeddings to evaluate, such as (640, 128). An embedding of the size 128
            consists of the first 128 values, scaled to length 1. `Result.sizes` has the values of
            each size; `values` are those of the first one. (): the size of the `Embedder`, or the
            whole embeddings.
        **options: options of the task, such as `languages` and `captions_per_image`; see
            `tools/evaluate.py --help`.

    Returns:
        `Result` of a single evaluation, with `values`, `counts` and `intervals`. For several
        evaluations, {name: `Result`}, where a name consists of the name of the task and, if there
        are several record sets, the name of the record set.

    Raises:
        UserError: a name or an option is unknown, the records do not fit the task, a size is larger
            than the embeddings of the model, or the model has no tokenizer.
    """
    names = [task] if isinstance(task, str) else list(task)
    record_sets = [records] if isinstance(records, str | os.PathLike) else list(records)
    for name in names:
        lookup({**TASKS, **BENCHMARKS}, name, "task")
    folders = [os.fspath(folder) for folder in record_sets]
    out, dims = out and os.fspath(out), tuple(dims)
    if isinstance(model, Embedder) and model.dim and not dims:
        dims = (model.dim,)
    jobs = eval_jobs.requested_jobs("", names, folders, out, options, dims)
    prepared = [
        (job, prepare_evaluation(job.name, os.fspath(data_dir), job.records, **options))
        for job in jobs
    ]
    embed, hashes = _open_model(model)
    for dim in dims:
        check_dim(dim, model.width if isinstance(model, Embedder) else embed.width, "dims")
    results = {}
    for job, evaluation in prepared:
        result = evaluation.run(embed, None, hashes["weights_hash"], dims)
        key = job.name if len(folders) < 2 else f"{job.name} {job.records}"
        results[key] = result
        if out is not None:
            path = model if isinstance(model, str | os.PathLike) else type(model).__name__
            content = result_content(os.fspath(path), hashes, job, evaluation, result, dims)
            write_result(job.out, content, result)
    return results if len(results) > 1 else next(iter(results.values()))


def model_hashes(path, model):
    """Returns the hashes of the weights and the vocabulary, which identify a model in results.

    Args:
        path: path of the model, or None.
        model: `model_io.Model`.
    """
    weights = eval_jobs.weights_hash(path) if path else None
    fingerprint = experiment.fingerprint
    return {
        "vocabulary_hash": model.tokenizer and model.tokenizer.hash,
        "weights_hash": weights
        or fingerprint(model.encoder, model.tokenizer, model.preprocessing)[:12],
    }


def result_content(model_name, hashes, job, evaluation, result, dims=()):
    """Returns the content of the file of a result, a dict.

    Args:
        model_name: path of the model.
        hashes: result of `model_hashes`.
        job: `eval_jobs.Job`.
        evaluation: `evaluation.Evaluation`.
        result: `Result`.
        dims: sizes of the embeddings that were requested.
    """
    benchmark = None if job.records else evaluation.benchmark
    details = protocols.describe(result.protocol)
    return {
        "model": model_name,
        **hashes,
        "benchmark": job.name if benchmark else None,
        "records": len(evaluation.records),
        "data": evaluation.data,
        "options": evaluation.options,
        **({"dims": list(dims)} if dims else {}),
        **result.as_dict(),
        **({"protocol_details": details} if details else {}),
    }


def write_result(path, content, result):
    """Writes the file of a result and, if the result has items, a file of them next to it.

    Args:
        path: file of the result, in JSON.
        content: result of `result_content`.
        result: `Result`. Its items are written to `items_path(path)`, with the keys "key/metric".
    """
    file_io.makedirs(os.path.dirname(path) or ".")
    if result.items:
        arrays = {
            f"{key}/{metric}": array
            for key, by_metric in result.items.items()
            for metric, array in by_metric.items()
        }
        with file_io.local_copy(items_path(path)) as local_path, open(local_path, "wb") as file:
            np.savez_compressed(file, **arrays)
    file_io.write_json(path, content)


def items_path(path):
    """Returns the file of the items of a result: "coco.items.npz" of "coco.json"."""
    return f"{path.removesuffix('.json')}.items.npz"


def _open_model(model):
    """Returns the embedder of a model, and its hashes."""
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        eval_jobs.results_folder(path)  # raises an error if the folder is missing
        loaded = experiment.load(path)
        return loaded.embed, model_hashes(path, loaded)
    if not isinstance(model, Embedder):
        model = getattr(model, "encoder", model)  # the `DualEncoder` of a trainer
        if not isinstance(model, DualEncoder):
            raise UserError(
                f"model is a {type(model).__name__}, expected a path, an Embedder, a DualEncoder "
                "or a trainer"
            )
        model = model.embedder()
    parts = model._encoder, model._tokenizer, model._embed, model.preprocessing
    return model._embed, model_hashes(None, experiment.Model(*parts))
