"""Prepares evaluations by name: opens and checks the data of a task or a benchmark."""

import dataclasses
import hashlib
import os

from tf_mural import languages
from tf_mural.data.records import RecordSet
from tf_mural.errors import UserError
from tf_mural.evaluation import TASKS, prompts
from tf_mural.evaluation.benchmarks import (
    BENCHMARKS,
    Benchmark,
    check_options,
    option_names,
    task_for,
)
from tf_mural.experiment.data import open_records
from tf_mural.experiment.fields import trained_dims
from tf_mural.progress import Progress
from tf_mural.truncation import RepeatedEmbedder, TruncatedEmbedder

# Tasks whose option `languages` selects texts of the records, not prompts or pairs.
_TASKS_BY_TEXT_LANGUAGE = tuple(
    TASKS[name] for name in ("retrieval", "consistency", "multiple_choice")
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A task with its data, which can be run with any embedder.

    Attributes:
        name: name of the task or the benchmark, such as "retrieval" or "retrieval/coco".
        benchmark: the `Benchmark` of this name; None for a task.
        records: `RecordSet` to evaluate on.
        options: {argument of the task: value} for values that are plain data.
        objects: {argument of the task: value} for the arguments `index` and `prompts`, whose values
            are objects.
        data: {path: digest} of the record sets and the prompts that the result depends on.
    """

    name: str
    benchmark: Benchmark | None
    records: RecordSet
    options: dict
    objects: dict
    data: dict

    def run(self, embed, cache_dir=None, model_id=None, dims=()):
        """Runs the task.

        Args:
            embed: object with `embed_texts` and `embed_images`, see `BatchEmbedder`.
            cache_dir: folder in which embeddings of classes are cached; None: no cache.
            model_id: string that identifies the weights in the cache.
            dims: sizes of truncated embeddings, whose results are `Result.sizes`. The other
                attributes of the result are those of the first size. Texts and images are embedded
                only once. (): the whole embeddings.

        Returns:
            `Result`.

        Raises:
            UserError: the records do not fit the task; the docstring of the task lists the reasons.
        """
        if dims:
            return self._run_sizes(RepeatedEmbedder(embed), dims)
        arguments = {**self.options, **self.objects}
        if "prompts" in arguments:
            arguments |= {"cache_dir": cache_dir, "model_id": model_id}
        return task_for(self.name)(embed, self.records, **arguments)

    def _run_sizes(self, embed, dims):
        sizes, results = {}, []
        for dim in dims:
            embed.rewind()
            results.append(self.run(TruncatedEmbedder(embed, dim)))
            sizes[str(dim)] = {"values": results[-1].values, "intervals": results[-1].intervals}
        return dataclasses.replace(results[0], sizes=sizes)


class ProgressEmbedder:
    """An embedder that shows how many texts or images it has embedded.

    Args:
        embed: the embedder that is called, an object with `embed_texts` and `embed_images`.
        name: name of the evaluation, the start of each line.
        print_fn: callable that receives each line. Default: the lines are printed; a terminal shows
            a progress bar instead.
        every: minimum number of seconds between two lines.
    """

    def __init__(self, embed, name, print_fn=None, every=10):
        self._embed, self._name = embed, name
        self._options = {"print_fn": print_fn, "seconds": every, "delay": 1, "print_end": False}

    def embed_images(self, encoded):
        """Embeds images, given as the bytes of image files."""
        return self._embed.embed_images(self._count(encoded, "images"))

    def embed_texts(self, texts):
        """Embeds strings."""
        return self._embed.embed_texts(self._count(texts, "texts"))

    def _count(self, items, noun):
        total = len(items) if hasattr(items, "__len__") else None
        with Progress(self._name, total, noun, **self._options) as progress:
            for count, item in enumerate(items):
                progress.update(count)
                yield item


def prepare_evaluation(name, data_dir, records=None, **options):
    """Opens and checks the data of an evaluation.

    Args:
        name: name of a benchmark or a task.
        data_dir: folder of the record sets.
        records: path of a record set, which may be relative to `data_dir`; None: the record set of
            the benchmark.
        **options: arguments of the task. `index` is the path of a record set, and `prompts` is a
            path for `prompts.read`. Both paths may be relative to `data_dir`, and default to the
            paths of the benchmark.

    Returns:
        `Evaluation`.

    Raises:
        UserError: a name, option or language is unknown; records are missing or incomplete.
    """
    check_options(name, options)
    benchmark = BENCHMARKS.get(name)
    if not records and benchmark is None:
        raise UserError(
            f"{name!r} needs records to evaluate on: name their folder with the option `records`"
        )
    record_set = open_records(records or benchmark.records, data_dir)
    options = {**(benchmark.options if benchmark else {}), **options}
    objects = {}
    data = {record_set.folder: record_set.digest}
    if "index" in option_names(name):
        folder = options.pop("index", None) or (benchmark and benchmark.index)
        if not folder:
            raise UserError(f"{name}: name the record set of the neighbors with the option `index`")
        objects["index"] = open_records(folder, data_dir)
        data[objects["index"].folder] = objects["index"].digest
    if "prompts" in option_names(name):
        path, objects["prompts"] = _open_prompts(
            options.pop("prompts", None), benchmark, record_set, data_dir, options.get("prompt_set")
        )
        data[path] = _prompts_digest(objects["prompts"])
    if task_for(name) in _TASKS_BY_TEXT_LANGUAGE:
        if options.get("languages"):
            description = f"language (of {record_set.folder})"
            options["languages"] = languages.choose(
                options["languages"], record_set.language_counts, description
            )
    return Evaluation(name, benchmark, record_set, options, objects, data)


def make_evaluate(config, data_dir, embed, with_records=None):
    """Returns a callable that runs all evaluations of a config.

    `config.evaluation` is {name of a task or benchmark: options}. The option `records` is the path
    of a record set. The option `trained` has the languages that a report lists first. All other
    options are options of the task; the value None selects the default of an option.

    Args:
        config: ConfigDict of a stage.
        data_dir: folder of the record sets.
        embed: object with `embed_texts` and `embed_images`.
        with_records: callable that takes `embed` and the `RecordSet`s of the evaluations, and
            returns the embedder to use; None: `embed` is used.

    Returns:
        A callable without arguments that returns {name of a task or benchmark: Result}. If terms
        name sizes of the embeddings (`dims`), the results contain these sizes.

    Raises:
        UserError: the data or an option is invalid, see `prepare_evaluation`.
    """
    evaluations = []
    for name, values in config.evaluation.items():
        options = {key: value for key, value in values.items() if value is not None}
        options.pop("trained", None)
        evaluations.append(prepare_evaluation(name, data_dir, **options))
    if with_records:
        embed = with_records(embed, [evaluation.records for evaluation in evaluations])
    dims = trained_dims(config)
    if dims:  # The values of a result are those of the whole embeddings.
        width = config.model.embedding_dim
        dims = (width, *(dim for dim in dims if dim != width))
    return lambda: {evaluation.name: evaluation.run(embed, dims=dims) for evaluation in evaluations}


def _open_prompts(path, benchmark, record_set, data_dir, prompt_set=None):
    """Returns (source, `Prompts`): prompts from files, or English prompts if there are no files."""
    classes = record_set.manifest.get("classes")
    default = os.path.join(data_dir, benchmark.prompts) if benchmark else ""
    if path:
        in_data_dir = os.path.join(data_dir, path)
        default = in_data_dir if os.path.exists(in_data_dir) else path
    if path or os.path.isdir(default) or default.endswith(".json"):
        dataset = record_set.manifest["dataset"]
        return default, prompts.read(default, classes, dataset, prompt_set=prompt_set)
    if prompt_set:
        raise UserError(
            f"`prompt_set={prompt_set}` needs prompts from files: name them by `prompts`"
        )
    if not classes:
        raise UserError(
            f"{record_set.folder} has no class names to make prompts from: name a folder of "
            "prompts, or use labelled records such as those of cifar100"
        )
    return "English prompts", prompts.english(classes, benchmark.suffix if benchmark else "")


def _prompts_digest(prompts_by_language):
    """Returns a short hash of all prompts in all languages."""
    digest = hashlib.sha256()
    for language in sorted(prompts_by_language):
        digest.update(f"\0{language}".encode())
        for class_prompts in prompts_by_language[language]:
            digest.update("\0".join(["", *class_prompts, ""]).encode())
    return digest.hexdigest()[:12]
