"""Benchmarks by name: a task, its record set, and the tables of the paper that report it.

A benchmark is plain data. The records of a benchmark are read from `<data set>/<split>` in the data
folder, to which tools/convert.py writes records by default.
"""

import dataclasses
import inspect
import os

from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS
from tf_mural.evaluation.protocols import protocol_id


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
        means, sums: The means and the sums over languages that publications report, as {name of the
            mean or sum: languages, or the number of all languages}.
        index: Path of the record set that is searched for neighbors, or "".
        prompts: Path of a folder of prompts, or "". If this folder is missing, English prompts are
            made from the class names of the records. A published file (*.json) must exist.
        suffix: Suffix of the English prompts that are made from class names.
        options: Options of the task that are part of the benchmark, such as its protocol.
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
    options: dict = dataclasses.field(default_factory=dict)


_FLICKR, _COCO = ("en", "de", "fr", "cs"), ("en", "ja", "ko")
_XTD = ("de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh")
_XM3600 = (*_XTD, *"ar bn cs da el fa fi fil he hi hr hu id mi nl no pt quz ro".split())
_XM3600 += tuple("sv sw te th uk vi".split())
_XFLICKRCO = ("de", "en", "es", "id", "ja", "ru", "tr", "zh")
_WIT = ("ar", "bg", "da", "el", "en", "et", "id", "ja", "ko", "tr", "vi")
_GLAMI = ("bg", "cs", "el", "es", "et", "hr", "hu", "lt", "lv", "ro", "sk", "sl", "tr")
_MTEB, _ARGMAX = {"protocol": "mteb"}, {"protocol": "argmax"}
# Languages of Babel-ImageNet with translated prompts; three more have only names of classes.
_BABEL_PROMPTED = tuple(
    (
        "af am ar as az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gd gl gu ha he "
        "hi hr hu hy id is it ja jv ka kk km kn ko ku ky lo lt lv mg mk ml mn mr ms my ne nl no "
        "om or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi "
        "xh yi zh"
    ).split()
)
_BABEL_NAMED = tuple(code for code in (*_BABEL_PROMPTED, "br", "fy", "la") if code != "en")
_BABEL = "prompts/babel_imagenet/babel_imagenet.json"


def _retrieval(name, size, metric, languages, **options):
    """Returns a benchmark of retrieval with the mean over languages, with and without English."""
    means = {"mean": languages}
    if "en" in languages:
        means["mean without en"] = tuple(code for code in languages if code != "en")
    return Benchmark("retrieval", name, size, metric, means=means, options=options)


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
    "retrieval/xtd200": Benchmark("retrieval", "xtd200/test", 1_000, "t2i_r5", means={"mean": 201}),
    "retrieval/flickr30k_200": Benchmark(
        "retrieval", "flickr30k_200/test", 1_000, "t2i_r5", means={"mean": 201}
    ),
    "retrieval/xm3600": _retrieval("xm3600/test", 3_600, "t2i_r1", _XM3600),
    "retrieval/xm3600_first": _retrieval(
        "xm3600/test", 3_600, "t2i_r1", _XM3600, captions_per_image=1
    ),
    "retrieval/xm3600_mteb": _retrieval("xm3600/test", 3_600, "t2i_ndcg10", _XM3600, **_MTEB),
    "retrieval/xflickrco": _retrieval("xflickrco/test", 2_000, "t2i_r1", _XFLICKRCO),
    "retrieval/xflickrco_mteb": _retrieval(
        "xflickrco/mteb", 2_000, "t2i_ndcg10", _XFLICKRCO, **_MTEB
    ),
    "retrieval/wit": _retrieval("wit/test", 8_553, "t2i_r1", _WIT),
    "retrieval/wit_mteb": _retrieval("wit/test", 8_553, "t2i_ndcg10", _WIT, **_MTEB),
    "retrieval/glami_mteb": _retrieval(
        "glami/test", 113_905, "t2i_ndcg10", _GLAMI, protocol="mteb-unique"
    ),
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
    "zero_shot/babel_imagenet": Benchmark(
        "zero_shot",
        "imagenet/val",
        50_000,
        "top1",
        means={"mean": _BABEL_PROMPTED},
        prompts=_BABEL,
        options={"prompt_set": "openai-english", **_ARGMAX},
    ),
    "zero_shot/babel_imagenet_names": Benchmark(
        "zero_shot",
        "imagenet/val",
        50_000,
        "top1",
        means={"mean": _BABEL_NAMED},
        prompts=_BABEL,
        options={"prompt_set": "names", **_ARGMAX},
    ),
    "multiple_choice/cvqa": Benchmark("multiple_choice", "cvqa/test", 10_374, "accuracy"),
    "multiple_choice/mvl_sib": Benchmark("multiple_choice", "mvl_sib/test", 3_012, "accuracy"),
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
    """Returns the paths that a benchmark needs and that do not exist in `data_dir`."""
    benchmark = BENCHMARKS[name]
    needed = [benchmark.records, benchmark.index]
    needed += [benchmark.prompts] if benchmark.prompts.endswith(".json") else []
    paths = [os.path.join(data_dir, path) for path in filter(None, needed)]
    return [path for path in paths if not os.path.exists(path)]


def benchmark_protocol(name):
    """Returns the protocol id of the results of a benchmark."""
    benchmark = BENCHMARKS[name]
    return protocol_id(benchmark.task, **benchmark.options)
