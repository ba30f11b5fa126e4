"""What a conversion says at its end."""


def summary(manifests):
    """A table of the splits, and a line for each reason for which something was left out.

    Args:
        manifests: list of manifests with ledgers.

    Returns:
        A string of several lines.
    """
    rows, notes = [], []
    for manifest in manifests:
        ledger, languages = manifest["ledger"], manifest["languages"]
        counts = [manifest[key] for key in ("records", "images", "texts")]
        dropped = ledger["read"] - ledger["kept"]
        counts += [len(languages), dropped]
        rows.append([manifest["split"], *(f"{count:,}" for count in counts)])
        if languages:
            notes.append(f"{manifest['split']}: languages {' '.join(languages)}")
        for what, key in (("records", "dropped"), ("texts", "dropped_texts")):
            for reason, count in ledger[key].items():
                example = ledger["examples"][reason][0]
                notes.append(f"{manifest['split']}: {count:,} {what} dropped: {reason} ({example})")
    heads = ["split", "records", "images", "texts", "languages", "dropped"]
    return "\n".join([_table(heads, rows), *([""] if notes else []), *notes])


def _table(heads, rows):
    rows = [heads, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        # Numbers to the right, words to the left.
        lines.append("  ".join(c.rjust(w) if c[:1].isdigit() else c.ljust(w) for c, w in cells))
    return "\n".join(line.rstrip() for line in lines)
