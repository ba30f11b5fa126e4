"""The books of a conversion: what was read, and what was left out for which reason."""

import collections
import dataclasses

from tf_mural.data.records import Dropped
from tf_mural.errors import UserError

EXAMPLES = 5  # of each reason for dropping something, in the ledger


@dataclasses.dataclass
class Books:
    """What became of the records of one unit; the counters go by reason."""

    read: int = 0
    kept: int = 0
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    dropped_texts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict = dataclasses.field(default_factory=dict)

    def drop(self, dropped):
        """Books what is left out."""
        counter = self.dropped_texts if dropped.text else self.dropped
        counter[dropped.reason] += 1
        examples = self.examples.setdefault(dropped.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(dropped.what)

    def kept_of(self, items):
        """Yields the records of a data set that can stay, `Record` and `Dropped` in, and books."""
        for item in items:
            if isinstance(item, Dropped):
                self.read += not item.text
                self.drop(item)
                continue
            self.read += 1
            for _, text in item.texts:
                if _problem(text):
                    item = self._without_problems(item)
                    break
            if item is not None and (item.texts or item.images):
                yield item
            elif item is not None:
                self.drop(Dropped("neither image nor text", item.id))

    def close(self, kept, read=None):
        """Ends the books with the number of records kept, and with that read in an earlier pass.

        Raises:
            UserError: the numbers read differ.
            RuntimeError: a record was lost.
        """
        self.kept = kept
        if read is not None and read != self.read:
            raise UserError(
                f"{read:,} records were read in the first pass, {self.read:,} in the second: "
                "the input has changed; convert it again"
            )
        dropped = sum(self.dropped.values())
        if kept + dropped != self.read:
            raise RuntimeError(f"read {self.read}, but kept {kept} and dropped {dropped} records")

    def add(self, other):
        """Adds what became of a later unit."""
        self.read += other.read
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.dropped_texts.update(other.dropped_texts)
        for reason, some in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + some)[:EXAMPLES]

    def ledger(self, label):
        """The ledger of a manifest, as a dict. Raises UserError if nothing was kept."""
        self.close(self.kept)
        if self.kept == 0:
            reasons = "; ".join(
                f"{reason}: {count:,}, such as {self.examples[reason][0]}"
                for reason, count in self.dropped.most_common()
            )
            raise UserError(
                f"{label}: nothing to write, of {self.read:,} records read ({reasons or 'none'})"
            )
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "dropped_texts": dict(sorted(self.dropped_texts.items())),
            "examples": dict(sorted(self.examples.items())),
        }

    def _without_problems(self, item):
        left = []
        for code, text in item.texts:
            if why := _problem(text):
                self.drop(Dropped(why, f"{item.id}, {code}", text=True))
            else:
                left.append((code, text))
        if left:
            return dataclasses.replace(item, texts=tuple(left))
        self.drop(Dropped("no text left", item.id))
        return None


def _problem(text):
    if not text or text.isspace():
        return "blank text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text is not valid Unicode"
    return None
