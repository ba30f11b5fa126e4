"""What others measured: the numbers of the paper, and published rows of other models.

numbers/paper.json holds the paper's tables as they are printed; a cell that contradicts another one
is marked there with the reason. numbers/published.json names the source of each row.
"""

import dataclasses
import functools
import json
import os

from tf_mural.reports.results import flat

_FOLDER = os.path.join(os.path.dirname(__file__), "numbers")
SETTINGS = ("zero-shot", "fine-tune")
# What the paper compares; its other rows are models of other sizes and ablations.
MAIN = ("MURAL(reprod.)", "MURAL(reprod.) + ETCL")


@dataclasses.dataclass
class Published:
    """What is known of a model on a benchmark.

    Attributes:
        model: its name.
        protocol: id of the protocol that the numbers answer.
        source: where they are printed.
        of_paper: whether the paper prints some of them.
        values: {(key, measure): number}, see `results.flat`.
        doubtful: {(key, measure): why} of values that contradict others: shown, never counted.
    """

    model: str
    protocol: str
    source: str
    of_paper: bool
    values: dict
    doubtful: dict


@functools.cache
def paper():
    """The paper's numbers: {"source", "protocols", "rows"}, see the file."""
    return _read("paper.json")


@functools.cache
def others():
    """Published rows of other models: {"protocols", "rows"}, see the file."""
    return _read("published.json")


def published(benchmark, setting="zero-shot"):
    """All that is known of a benchmark.

    Args:
        benchmark: its name, such as "retrieval/coco".
        setting: "zero-shot" or "fine-tune".

    Returns:
        {model: Published}: the paper's models and then others. Empty where nothing is known.
    """
    found, tables = {}, {}
    for rows in (paper(), others()):
        protocol = rows["protocols"].get(benchmark.split("/")[0])
        for row in rows["rows"]:
            if (row["benchmark"], row["setting"]) != (benchmark, setting):
                continue
            model = row["model"]
            known = found.setdefault(model, Published(model, protocol, "", False, {}, {}))
            doubtful = row.get("contradictory", {})
            for place, value in flat(row["values"]).items():
                if place not in known.values and "/".join(place) in doubtful:
                    known.doubtful[place] = doubtful["/".join(place)]
                # Tables of ablations repeat numbers: the first one that prints it has it.
                known.values.setdefault(place, value)
            tables.setdefault(model, []).append(row.get("source") or f"Table {row['table']}")
    for model, known in found.items():
        printed = list(dict.fromkeys(tables[model]))
        known.of_paper = printed[0].startswith("Table ")
        known.source = (
            f"{paper()['source']}, {', '.join(printed)}" if known.of_paper else printed[0]
        )
    return found


def _read(name):
    with open(os.path.join(_FOLDER, name), encoding="utf-8") as file:
        return json.load(file)
