"""Evaluations by name: a task on any records, or a benchmark, to something that can be run."""

import dataclasses
import hashlib
import os
import time

from tf_mural.data.records import RecordSet
from tf_mural.errors import UserError, lookup
from tf_mural.evaluation import TASKS, prompts
from tf_mural.evaluation.benchmarks import BENCHMARKS, Benchmark, check_options, options_of, run_of
from tf_mural.experiment.data import open_records

# Tasks whose languages are those of the records' texts, and not of prompts or of pairs.
_OF_TEXTS = (TASKS["retrieval"], TASKS["consistency"])


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One task on records that are opened, ready to be run on any `embed`.

    Attributes:
        name: as it was asked for: "retrieval", or "retrieval/coco".
        benchmark: the `Benchmark` of this name, or None.
        records: the `RecordSet` that is scored.
        options: arguments of the task, as plain data.
        handed: those that the task is handed as objects: an index, prompts.
        data: {folder: digest} of all that the result depends on.
    """

    name: str
    benchmark: Benchmark | None
    records: RecordSet
    options: dict
    handed: dict
    data: dict

    def run(self, embed, cache=None, model_id=None):
        """The `Result` of `embed`.

        Args:
            embed: see the tasks.
            cache: folder for embeddings of classes, or None; with a `model_id` that says which
                weights `embed` has.

        Raises:
            UserError: as the task.
        """
        arguments = {**self.options, **self.handed}
        if "prompts" in arguments:
            arguments |= {"cache": cache, "model_id": model_id}
        return run_of(self.name)(embed, self.records, **arguments)


class Watched:
    """An `embed` that says now and then how far it has come.

    Args:
        embed: see the tasks.
        name: what it is for.
        say: function of a line.
        every: seconds between two lines.
    """

    def __init__(self, embed, name, say, every=10):
        self._embed, self._name, self._say, self._every = embed, name, say, every

    def images(self, encoded):
        """As those of `embed`."""
        return self._embed.images(self._counted(encoded, "images"))

    def texts(self, texts):
        """As those of `embed`."""
        return self._embed.texts(self._counted(texts, "texts"))

    def _counted(self, items, kind):
        began = said = time.perf_counter()
        for count, item in enumerate(items):
            now = time.perf_counter()
            if now - said >= self._every:
                said, rate = now, count / (now - began)
                self._say(f"{self._name}: {count:,} {kind}, {rate:,.0f} a second")
            yield item


def plan(name, data_dir, records=None, **options):
    """Opens what an evaluation needs, and refuses before any work what cannot be scored.

    Args:
        name: of a benchmark, or of a task.
        data_dir: folder that record sets are under.
        records: the record set, a path or one under `data_dir`; by default the benchmark's.
        **options: arguments of the task. `index` is a record set and `prompts` a place that
            `prompts.read` takes, both found as `records` is; by default the benchmark's.

    Raises:
        UserError: an unknown name, option or language; records that are missing or not whole.
    """
    check_options(name, options)
    benchmark = BENCHMARKS.get(name)
    if not records and benchmark is None:
        raise UserError(f"say what to score {name!r} on: its option `records` is a folder of them")
    record_set = open_records(records or benchmark.records, data_dir)
    options, handed = dict(options), {}
    data = {record_set.folder: record_set.digest}
    if "index" in options_of(name):
        folder = options.pop("index", None) or (benchmark and benchmark.index)
        if not folder:
            raise UserError(f"{name}: say with the option `index` where to look neighbours up")
        handed["index"] = open_records(folder, data_dir)
        data[handed["index"].folder] = handed["index"].digest
    if "prompts" in options_of(name):
        place, handed["prompts"] = _prompts(
            options.pop("prompts", None), benchmark, record_set, data_dir
        )
        data[place] = _digest(handed["prompts"])
    if run_of(name) in _OF_TEXTS:
        for code in options.get("languages") or ():
            lookup(record_set.language_counts, code, f"language (of {record_set.folder})")
    return Evaluation(name, benchmark, record_set, options, handed, data)


def make_evaluation(config, data_dir, embed):
    """Function to {name: Result} of all that `config.evaluation` lists.

    It holds {name of a task or benchmark: its options}: `records`, a folder, and any options of the
    task. Empty ones are the task's defaults. `trained`, the languages that a report sets apart, is
    no option of a task. What cannot be scored is refused here, before any training.
    """
    planned = []
    for name, listed in config.evaluation.items():
        options = {key: value for key, value in listed.items() if value not in ((), "", None)}
        options.pop("trained", None)
        planned.append(plan(name, data_dir, **options))
    return lambda: {one.name: one.run(embed) for one in planned}


def _prompts(place, benchmark, record_set, data_dir):
    """(where they are from, `Prompts`): from files, else English from the names of the classes."""
    classes = record_set.manifest.get("classes")
    usual = os.path.join(data_dir, benchmark.prompts) if benchmark else ""
    if place:
        inside = os.path.join(data_dir, place)
        usual = inside if os.path.exists(inside) else place
    if place or os.path.isdir(usual):
        return usual, prompts.read(usual, classes, record_set.manifest["dataset"])
    if not classes:
        raise UserError(
            f"{record_set.folder} has no names of classes to make prompts of: name a folder of "
            "them, or take labelled records such as those of cifar100"
        )
    return "English prompts", prompts.english(classes, benchmark.suffix if benchmark else "")


def _digest(found):
    """A short hash of all prompts, in all languages."""
    digest = hashlib.sha256()
    for language in sorted(found):
        digest.update(f"\0{language}".encode())
        for of_class in found[language]:
            digest.update("\0".join(["", *of_class, ""]).encode())
    return digest.hexdigest()[:12]
