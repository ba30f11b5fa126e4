"""The ledger of a conversion: counts of the used and the unused input, with the reasons.

For records, kept + dropped = read. For the other parts of the input (files, columns, rows, members
of archives, language codes), used + ignored = read.
"""

import collections
import dataclasses

from tf_mural.data.records import InputParts, Skipped, keep_texts
from tf_mural.data.text_cleaning import is_blank, valid_unicode
from tf_mural.errors import UserError

MAX_EXAMPLES = 5  # number of examples that the ledger stores for each reason
# All ignored columns are named, because a table has few columns.
_MAX_PART_EXAMPLES = {"columns": 40}
_IS_READ_AS = " is read as "


@dataclasses.dataclass
class Ledger:
    """Counts of one unit or of a whole conversion; the attributes are the keys in the manifest.

    Attributes:
        read, kept: numbers of records.
        dropped: Counter of dropped records, by reason.
        dropped_texts: Counter of texts that were dropped from a record, by reason.
        changed_images: Counter of the images that were encoded again, by the change.
        examples: {reason or change: list of examples}.
        parts: {kind of parts of the input: {"read", "used": counts, "ignored": {reason: count},
            "examples": {reason: list of names}, "options": {reason: option that uses the part}}}.
        changes: {change of a used part, such as "pt_BR is stored as pt" for a language code, or the
            encoding of a file that is not in UTF-8: number of such parts}.
    """

    read: int = 0
    kept: int = 0
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    dropped_texts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    changed_images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)
    changes: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add_parts(self, parts):
        """Counts an `InputParts`."""
        totals = self.parts.setdefault(parts.kind, _no_parts())
        totals["read"] += parts.count
        if parts.change:
            self.changes[valid_unicode(parts.change)] += parts.count
        if parts.ignored is None:
            totals["used"] += parts.count
            return
        totals["ignored"][parts.ignored] = totals["ignored"].get(parts.ignored, 0) + parts.count
        _add_examples(totals, parts.kind, parts.ignored, [valid_unicode(parts.example)])
        if parts.option:
            totals["options"].setdefault(parts.ignored, valid_unicode(parts.option))

    def skip(self, skipped):
        """Counts a `Skipped`; stores its example if the reason has fewer than `MAX_EXAMPLES`."""
        counter = self.dropped_texts if skipped.text_only else self.dropped
        counter[skipped.reason] += 1
        self._add_example(skipped.reason, skipped.example)

    def change_image(self, change, example):
        """Counts an image that was encoded again; `change` is the reason."""
        self.changed_images[change] += 1
        self._add_example(change, example)

    def _add_example(self, reason, example):
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            # Names of files and values in JSON may have characters that a manifest cannot have.
            examples.append(valid_unicode(example))

    def filter(self, items, vectors=None):
        """Yields the valid records of a data set, and counts all records read and dropped.

        Args:
            items: iterable of `Record`, `Skipped` and `InputParts`.
            vectors: {name: description} of the vectors of the records, see
                `records.describe_vectors`. Rows of dropped texts are dropped too.
        """
        for item in items:
            if isinstance(item, InputParts):
                self.add_parts(item)
                continue
            if isinstance(item, Skipped):
                self.read += not item.text_only
                self.skip(item)
                continue
            self.read += 1
            for _, text in item.texts:
                if _text_problem(text):
                    item = self._without_invalid_texts(item, vectors or {})
                    break
            if item is not None and (item.texts or item.images):
                yield item
            elif item is not None:
                self.skip(Skipped("neither image nor text", item.id))

    def close(self, kept, read=None):
        """Sets the number of records kept and checks that kept + dropped equals read.

        Args:
            kept: number of records written.
            read: number of records that pass 1 read, or None if there was no pass 1.

        Raises:
            UserError: the two passes read different numbers of records.
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
        for kind, totals in self.parts.items():
            ignored = sum(totals["ignored"].values())
            if totals["used"] + ignored != totals["read"]:
                raise RuntimeError(
                    f"read {totals['read']} {kind}, but used {totals['used']} and ignored {ignored}"
                )

    def merge(self, other):
        """Adds the counts of a later unit."""
        self.read += other.read
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.dropped_texts.update(other.dropped_texts)
        self.changed_images.update(other.changed_images)
        for reason, examples in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + examples)[:MAX_EXAMPLES]
        self.changes.update(other.changes)
        for kind, counts in other.parts.items():
            totals = self.parts.setdefault(kind, _no_parts())
            totals["read"] += counts["read"]
            totals["used"] += counts["used"]
            for reason, count in counts["ignored"].items():
                totals["ignored"][reason] = totals["ignored"].get(reason, 0) + count
                _add_examples(totals, kind, reason, counts["examples"][reason])
            totals["options"] = {**counts["options"], **totals["options"]}

    def to_manifest(self, label):
        """Returns the ledger as a dict for the manifest.

        Args:
            label: name of the conversion for the message.

        Raises:
            UserError: no record was kept.
        """
        self.close(self.kept)
        if self.kept == 0:
            counts = [*self.dropped.most_common(), *self.dropped_texts.most_common()]
            reasons = "; ".join(
                f"{reason}: {count:,}, such as {self.examples[reason][0]}"
                for reason, count in counts
            )
            raise UserError(
                f"{label}: nothing to write, of {self.read:,} records read ({reasons or 'none'})"
            )
        manifest = {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "dropped_texts": dict(sorted(self.dropped_texts.items())),
            "changed_images": dict(sorted(self.changed_images.items())),
            "examples": dict(sorted(self.examples.items())),
        }
        if self.parts:
            manifest["parts"] = dict(sorted(self.parts.items()))
        if self.changes:
            manifest["changes"] = dict(sorted(self.changes.items()))
        return manifest

    def _without_invalid_texts(self, record, vectors):
        """Returns the record with its valid texts, or None if no text is valid."""
        kept = []
        for position, (code, text) in enumerate(record.texts):
            if reason := _text_problem(text):
                self.skip(Skipped(reason, f"{record.id}, {code}", text_only=True))
            else:
                kept.append(position)
        if kept:
            return keep_texts(record, kept, vectors)
        self.skip(Skipped("no text left", record.id))
        return None


def _no_parts():
    return {"read": 0, "used": 0, "ignored": {}, "examples": {}, "options": {}}


def _add_examples(totals, kind, reason, names):
    limit = _MAX_PART_EXAMPLES.get(kind, MAX_EXAMPLES)
    examples = totals["examples"].setdefault(reason, [])
    examples.extend(name for name in names[: limit - len(examples)] if name not in examples)


def _text_problem(text):
    if is_blank(text):
        return "blank text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text is not valid Unicode"
    return None


def format_summary(manifests):
    """Returns a table of splits, followed by the reasons why records and texts were dropped.

    Args:
        manifests: list of manifests with ledgers.

    Returns:
        A string of several lines.
    """
    rows, notes = [], []
    for manifest in manifests:
        ledger, languages = manifest["ledger"], manifest["languages"]
        counts = [manifest[key] for key in ("records", "images", "texts")]
        counts += [len(languages), ledger["read"] - ledger["kept"]]
        rows.append([manifest["split"], *(f"{count:,}" for count in counts)])
        if languages:
            notes.append(f"{manifest['split']}: languages {' '.join(languages)}")
        for noun, key in (("records", "dropped"), ("texts", "dropped_texts")):
            for reason, count in ledger[key].items():
                example = ledger["examples"][reason][0]
                notes.append(f"{manifest['split']}: {count:,} {noun} dropped: {reason} ({example})")
        for change, count in ledger.get("changed_images", {}).items():
            example = ledger["examples"][change][0]
            notes.append(f"{manifest['split']}: {count:,} images changed: {change} ({example})")
        notes += [f"{manifest['split']}: {note}" for note in _part_notes(manifest)]
    header = ["split", "records", "images", "texts", "languages", "dropped"]
    return "\n".join([_format_table([header, *rows]), *([""] if notes else []), *notes])


def _part_notes(manifest):
    """Yields a sentence for each reason why parts were ignored, and sentences for the changes."""
    ledger = manifest["ledger"]
    for kind, totals in ledger.get("parts", {}).items():
        for reason, count in totals["ignored"].items():
            names = totals["examples"][reason]
            listed = ", ".join(names) + (", ..." if len(names) < count else "")
            noun, clause = kind, reason
            if count == 1:
                noun = kind.removesuffix("s")
                clause = reason.replace("they are", "it is").replace("their", "its")
            note = f"{count:,} {noun} ignored because {clause}: {listed}"
            if option := totals["options"].get(reason):
                note += f". To use one: --{manifest['dataset']}.{option}"
            yield note
    # A change contains "is stored as" for a language code, and "is read as" for an encoding.
    changes = ledger.get("changes", {})
    yield from (change for change in changes if _IS_READ_AS in change)
    codes = {change: count for change, count in changes.items() if _IS_READ_AS not in change}
    if codes:
        listed = "; ".join(f"{change}: {count:,}" for change, count in codes.items())
        yield f"language codes changed: {listed}"


def _format_table(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        # Numbers are aligned to the right, words to the left.
        lines.append("  ".join(c.rjust(w) if c[:1].isdigit() else c.ljust(w) for c, w in cells))
    return "\n".join(line.rstrip() for line in lines)
