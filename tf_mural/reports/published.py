"""Published numbers: the tables of the paper, and results of other models.

numbers/paper.json has the paper's tables as printed; a number that contradicts another number is
marked with the reason. numbers/published.json has results of other models, each row with its
source.
"""

import dataclasses
import functools
import json
import os

from tf_mural.evaluation.benchmarks import BENCHMARKS, benchmark_protocol
from tf_mural.reports.result_tables import flatten_values

_FOLDER = os.path.join(os.path.dirname(__file__), "numbers")
SETTINGS = ("zero-shot", "fine-tune")
# The two models that the paper compares. The other rows of the paper's tables are models of other
# sizes, and ablations.
MAIN_MODELS = ("MURAL(reprod.)", "MURAL(reprod.) + ETCL")


@dataclasses.dataclass
class Published:
    """Published numbers of a model on a benchmark.

    Attributes:
        model: Name of the model.
        protocol: Id of the protocol of the numbers.
        source: Publication that prints the numbers.
        is_paper: Whether at least one of the numbers is printed in the paper.
        values: {(key, metric): number}, see `result_tables.flatten_values`.
        doubtful: {(key, metric): reason} of values that contradict other published values.
            Doubtful values are printed in tables, but never used in computations.
    """

    model: str
    protocol: str
    source: str
    is_paper: bool
    values: dict
    doubtful: dict


@functools.cache
def paper_numbers():
    """Returns the content of numbers/paper.json: {"source", "protocols", "rows"}."""
    return _read("paper.json")


@functools.cache
def other_numbers():
    """Returns the content of numbers/published.json on other models: {"protocols", "rows"}."""
    return _read("published.json")


def published_results(benchmark, setting="zero-shot"):
    """Returns all published numbers of a benchmark.

    Args:
        benchmark: Name of the benchmark, for example "retrieval/coco".
        setting: "zero-shot" or "fine-tune".

    Returns:
        A dict from model to `Published`: first the models of the paper, then other models. The dict
        is empty if the benchmark has no published numbers.
    """
    results, tables = {}, {}
    for numbers in (paper_numbers(), other_numbers()):
        protocol = BENCHMARKS[benchmark].options and benchmark_protocol(benchmark)
        protocol = protocol or numbers["protocols"].get(benchmark.split("/")[0])
        for row in numbers["rows"]:
            if (row["benchmark"], row["setting"]) != (benchmark, setting):
                continue
            model = row["model"]
            result = results.setdefault(model, Published(model, protocol, "", False, {}, {}))
            doubtful = row.get("contradictory", {})
            for cell, value in flatten_values(row["values"]).items():
                if cell not in result.values and "/".join(cell) in doubtful:
                    result.doubtful[cell] = doubtful["/".join(cell)]
                # Tables of ablations repeat numbers of other tables. A repeated number is taken
                # from the first table.
                result.values.setdefault(cell, value)
            tables.setdefault(model, []).append(row.get("source") or f"Table {row['table']}")
    for model, result in results.items():
        printed = list(dict.fromkeys(tables[model]))
        result.is_paper = printed[0].startswith("Table ")
        result.source = (
            f"{paper_numbers()['source']}, {', '.join(printed)}" if result.is_paper else printed[0]
        )
    return results


def _read(name):
    with open(os.path.join(_FOLDER, name), encoding="utf-8") as file:
        return json.load(file)
