"""One unit of a conversion: records to a shard, and the books of what was left out."""

import collections
import dataclasses
import importlib

from tf_mural import records
from tf_mural.base import UserError
from tf_mural.conversion import workers
from tf_mural.records import Dropped

EXAMPLES = 5  # of each reason for dropping something, in the ledger


@dataclasses.dataclass
class Outcome:
    """What became of one unit; the counters go by reason."""

    shard: records.Shard | None = None
    read: int = 0
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    dropped_texts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict = dataclasses.field(default_factory=dict)


def convert_unit(module, unit, path):
    """Writes the shard of one unit. Runs in a process of its own, so it takes plain data only."""
    dataset = importlib.import_module(module)
    result = Outcome()
    result.shard = records.write_shard(path, _kept(dataset.read(unit), result))
    return result


def _kept(items, result):
    """Yields the records to write and books the rest in `result`."""

    def drop(dropped):
        counter = result.dropped_texts if dropped.text else result.dropped
        counter[dropped.reason] += 1
        examples = result.examples.setdefault(dropped.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(dropped.what)

    for item in items:
        workers.check_stop()
        result.read += not (isinstance(item, Dropped) and item.text)
        if isinstance(item, Dropped):
            drop(item)
            continue
        texts = []
        for code, text in item.texts:
            if why := _text_problem(text):
                drop(Dropped(why, f"{item.id}, {code}", text=True))
            else:
                texts.append((code, text))
        if texts or (item.images and not item.texts):
            yield dataclasses.replace(item, texts=tuple(texts))
        else:
            drop(Dropped("no text left" if item.texts else "neither image nor text", item.id))


def _text_problem(text):
    if not text.strip():
        return "blank text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text is not valid Unicode"
    return None


def ledger_of(done, label):
    """What was read, kept and dropped over all units. Raises UserError if nothing was kept."""
    dropped, dropped_texts, examples = collections.Counter(), collections.Counter(), {}
    for unit in done:
        dropped.update(unit.dropped)
        dropped_texts.update(unit.dropped_texts)
        for reason, some in unit.examples.items():
            examples[reason] = (examples.get(reason, []) + some)[:EXAMPLES]
    read, kept = sum(unit.read for unit in done), sum(unit.shard.records for unit in done)
    if kept == 0:
        reasons = "; ".join(
            f"{reason}: {count:,}, such as {examples[reason][0]}"
            for reason, count in dropped.most_common()
        )
        raise UserError(
            f"{label}: nothing to write, of {read:,} records read ({reasons or 'none'})"
        )
    return {
        "read": read,
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "dropped_texts": dict(sorted(dropped_texts.items())),
        "examples": dict(sorted(examples.items())),
    }
