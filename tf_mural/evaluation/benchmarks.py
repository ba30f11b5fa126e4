"""Benchmarks by name: which task on which records, and what the paper's tables say of it.

A benchmark is plain data. Its records lie where tools/convert.py writes them by default: the data
set's own folder, and in it the split.
"""

import dataclasses
import inspect
import os

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One line of the table below.

    Attributes:
        task: name of a task.
        records: the record set, under the folder of all data.
        size: records of the whole set. Fewer are scored, but say nothing beside published numbers.
        measure: what it is known by: what others print, and what is compared unless asked for more.
        tables: of the paper that it answers.
        means, sums: {name: languages} whose mean or sum the paper prints.
        index: the record set to look neighbours up in, or "".
        prompts: folder of prompts, or "". Where it is not there, English ones are made of the
            records' names of classes.
        suffix: what those English prompts end with.
    """

    task: str
    records: str
    size: int
    measure: str
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
# Arguments of tasks that say where and how to work, and nothing of what is measured.
_MEANS = {"cache", "model_id", "chunk", "draws", "seed"}


def run_of(name):
    """The `run` of a task, or of a benchmark's task.

    Raises:
        UserError: neither a task nor a benchmark has this name.
    """
    lookup({**TASKS, **BENCHMARKS}, name, "task")
    return TASKS[BENCHMARKS[name].task if name in BENCHMARKS else name]


def measure_of(name):
    """The measure that a benchmark is known by; of a task, that of its first benchmark."""
    if name in BENCHMARKS:
        return BENCHMARKS[name].measure
    return next(one.measure for one in BENCHMARKS.values() if one.task == name)


def options_of(name):
    """Names of the options of a task: what its `run` takes that decides what is measured."""
    parameters = list(inspect.signature(run_of(name)).parameters)[2:]  # after embed, records
    return [parameter for parameter in parameters if parameter not in _MEANS]


def check_options(name, options):
    """Raises UserError for an option that the task of this name does not have."""
    known = options_of(name)
    for option in options:
        if option not in known:
            raise UserError(
                f"the task {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}"
            )


def lacking(name, data_dir):
    """Folders of records that a benchmark needs under `data_dir` and that are not there."""
    needed = filter(None, (BENCHMARKS[name].records, BENCHMARKS[name].index))
    paths = [os.path.join(data_dir, path) for path in needed]
    return [path for path in paths if not os.path.isdir(path)]
