"""Benchmarks by name: a task, its record set, and the tables of the paper that report it.

A benchmark is plain data. The records of a benchmark are read from `<data set>/<split>` in the data
folder, to which tools/convert.py writes records by default.
"""

import dataclasses
import inspect
import os

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An entry of `BENCHMARKS`.

    Attributes:
        task: Name of a task.
        records: Path of the record set, relative to the data folder.
        size: Number of records of the complete record set. Results on fewer records are not
            comparable with published numbers.
        metric: Headline metric: the metric that other publications report, and the default metric
            of comparisons.
        tables: Tables of the paper that report the benchmark.
        means, sums: The means and the sums over languages that the paper reports, as {name of the
            mean or sum: languages}.
        index: Path of the record set that is searched for neighbors, or "".
        prompts: Path of a folder of prompts, or "". If this folder is missing, English prompts are
            made from the class names of the records.
        suffix: Suffix of the English prompts that are made from class names.
    """

    task: str
    records: str
    size: int
    metric: str
    tables: tuple[int, ...] = ()
    means: dict = dataclasses.field(default_factory=dict)
    sums: dict = dataclasses.field(default_factory=dict)
    index: str = ""
    prompts: str = ""
    suffix: str = ""


_FLICKR, _COCO = ("en", "de", "fr", "cs"), ("en", "ja", "ko")
_XTD = ("de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh")

BENCHMARKS = {
    "retrieval/flickr30k": Benchmark(
        "retrieval",
        "multi30k/test",
        1_000,
        "average_recall",
        (1, 7, 8),
        means={"mean": _FLICKR},
        sums={"sum of en, de, fr, cs": _FLICKR},
    ),
    "retrieval/coco": Benchmark(
        "retrieval",
        "coco/test",
        5_000,
        "average_recall",
        (1, 5, 6, 7, 9, 11, 13),
        means={"mean": _COCO},
        sums={"sum of en, ja, ko": _COCO},
    ),
    "retrieval/xtd10": Benchmark("retrieval", "xtd10/test", 1_000, "t2i_r10", means={"mean": _XTD}),
    "retrieval/scenes": Benchmark("retrieval", "scenes/test", 512, "average_recall"),
    "zero_shot/imagenet": Benchmark(
        "zero_shot", "imagenet/val", 50_000, "top1", (2, 14), prompts="prompts/imagenet"
    ),
    "zero_shot/sun397": Benchmark(
        "zero_shot", "sun397/test", 19_850, "top1", (2, 14), prompts="prompts/sun397"
    ),
    "zero_shot/food101": Benchmark(
        "zero_shot",
        "food101/test",
        25_250,
        "top1",
        (2, 14),
        prompts="prompts/food101",
        suffix=", a type of food",
    ),
    "zero_shot/cifar100": Benchmark(
        "zero_shot", "cifar100/test", 10_000, "top1", (2, 14), prompts="prompts/cifar100"
    ),
    "knn/imagenet": Benchmark(
        "knn", "imagenet/val", 50_000, "r1", (10, 11), index="imagenet/train"
    ),
    "sts/sts2017": Benchmark("sts", "sts2017/test", 2_500, "spearman", (3, 4, 11)),
    "bitext/tatoeba": Benchmark("bitext", "tatoeba/test", 88_877, "accuracy", (12, 15, 16)),
    "consistency/flickr30k": Benchmark("consistency", "multi30k/test", 1_000, "spread"),
    "consistency/coco": Benchmark("consistency", "coco/test", 5_000, "spread"),
    "consistency/xtd10": Benchmark("consistency", "xtd10/test", 1_000, "spread"),
    "consistency/scenes": Benchmark("consistency", "scenes/test", 512, "spread"),
}
# Arguments of tasks that do not change what is measured.
_EXECUTION_ARGUMENTS = {"cache_dir", "model_id", "chunk_size", "num_bootstrap", "seed"}


def task_for(name):
    """Returns the `run` function of a task, or of the task of a benchmark.

    Raises:
        UserError: No task or benchmark has this name.
    """
    lookup({**TASKS, **BENCHMARKS}, name, "task")
    return TASKS[BENCHMARKS[name].task if name in BENCHMARKS else name]


def metric_for(name):
    """Returns the headline metric of a benchmark, or of the first benchmark of a task."""
    if name in BENCHMARKS:
        return BENCHMARKS[name].metric
    return next(benchmark.metric for benchmark in BENCHMARKS.values() if benchmark.task == name)


def option_names(name):
    """Returns the names of the arguments of a task's `run` that define what is measured."""
    parameters = list(inspect.signature(task_for(name)).parameters)[2:]  # without embedder, records
    return [parameter for parameter in parameters if parameter not in _EXECUTION_ARGUMENTS]


def check_options(name, options):
    """Raises a UserError if the task of this name does not have one of the options."""
    names = option_names(name)
    for option in options:
        if option not in names:
            raise UserError(
                f"the task {name!r} has no option {option!r}; it has: {', '.join(names) or 'none'}"
            )


def missing_records(name, data_dir):
    """Returns the record folders that a benchmark needs and that do not exist in `data_dir`."""
    needed = filter(None, (BENCHMARKS[name].records, BENCHMARKS[name].index))
    paths = [os.path.join(data_dir, path) for path in needed]
    return [path for path in paths if not os.path.isdir(path)]
