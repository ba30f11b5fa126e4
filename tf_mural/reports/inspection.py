"""The statistics of a record set as tables for the terminal."""

from tf_mural.reports.tables import table

_BAR = 40  # characters of the longest bar of a histogram


def inspection_tables(summary):
    """What `collection.Statistics.summary` found, as text: a headline, and tables of what there is.

    Args:
        summary: the dict.
    """
    parts = [_headline(summary)]
    parts += [_languages(summary), _images(summary), _labels(summary), _scores(summary)]
    parts.append(_repeats(summary))
    return "\n\n".join(part for part in parts if part)


def shared_table(rows, names):
    """What sets have in common.

    Args:
        rows: of `collection.shared`.
        names: {folder: what to call it}.
    """
    if not rows:
        return "No image and no text (in one language) is in two of these sets."
    cells = [
        [names[r["records_of"]], names[r["in"]], _count(r["images"]), _count(r["texts"])]
        for r in rows
    ]
    return table(cells, ["records of", "that hold, of", "an image", "a text"])


def _headline(summary):
    what = [f"{_count(summary[kind])} {kind}" for kind in ("records", "images", "texts")]
    lines = [f"{summary['folder']} ({summary['dataset']}, {summary['split']}): {', '.join(what)}"]
    if summary["sampled_records"] < summary["records"]:
        read = _count(summary["sampled_records"])
        which = (
            f"{read} records drawn at random"
            if summary["sample"] == "random"
            else f"the first {read} records"
        )
        lines.append(
            f"records, images and texts of a language: of the whole set; all else: of {which}"
        )
    for kind in ("images", "texts"):
        if not summary[kind]:
            lines.append(f"It has no {kind}.")
    return "\n".join(lines)


def _languages(summary):
    languages = summary["languages"]
    if not languages:
        return None
    kinds = [kind for kind in ("records", "images", "texts") if summary[kind]]
    lines = dict(languages)
    if len(lines) > 1 and summary["all_languages"]:
        totals = {kind: summary[kind] for kind in kinds}
        lines |= {None: None, "all": totals | summary["all_languages"]}
    rows = [values and _lengths(code, values, kinds) for code, values in lines.items()]
    columns = ["language", *kinds, "characters 5 %", "50 %", "95 %", "max"]
    text = table(rows, [*columns, "words 5 %", "50 %", "95 %", "max"])
    text += "\nwords: what stands between spaces; - where the script has none"
    tokenizer = summary["tokenizer"]
    if not tokenizer:
        return f"{text}\ntokens: not counted without a vocabulary (--vocab)"
    rows = [values and _tokens(code, values) for code, values in lines.items()]
    columns = ["language", "tokens 5 %", "50 %", "95 %", "max", "a word", "a character"]
    text += f"\n\n{table(rows, [*columns, 'unknown %', 'cut %'])}"
    return (
        f"{text}\ntokens: of a vocabulary of {_count(tokenizer['size'])} pieces "
        f"({tokenizer['hash']}), [CLS] and [SEP] not counted\n"
        f"unknown: of the tokens; cut: texts of more than {tokenizer['max_tokens']} tokens with "
        "[CLS] and [SEP]"
    )


def _lengths(code, values, kinds):
    counts = [_count(values[kind]) for kind in kinds]
    lengths = [_cells(values[of], "q05", "median", "q95", "max") for of in ("characters", "words")]
    return [code, *counts, *lengths[0], *lengths[1]]


def _tokens(code, values):
    shares = ("tokens_per_word", "tokens_per_character", "unknown_percent", "cut_percent")
    found = [values.get(name) for name in shares]
    cells = [None if share is None else f"{share:.2f}" for share in found]
    return [code, *_cells(values.get("tokens"), "q05", "median", "q95", "max"), *cells]


def _cells(spread, *names):
    return [None if spread is None else _count(spread[name]) for name in names]


def _images(summary):
    sizes = summary["image_sizes"]
    if not sizes:
        return None
    names = ("min", "q05", "q25", "median", "q75", "q95", "max", "mean")
    rows = []
    for what, unit in (("width", "px"), ("height", "px"), ("aspect", "w / h"), ("bytes", "")):
        digits = 2 if what == "aspect" else 0
        spread = sizes[what]
        cells = [None if spread is None else f"{spread[name]:,.{digits}f}" for name in names]
        rows.append([f"{what} {unit}".strip(), *cells])
    columns = ["images", "min", "5 %", "25 %", "50 %", "75 %", "95 %", "max", "mean"]
    formats = [f"{kind} {_count(count)}" for kind, count in sizes["formats"].items()]
    lines = [table(rows, columns), f"formats: {', '.join(formats) or 'none'}"]
    if sizes["unreadable"]:
        why = ", ".join(f"{kind} {_count(n)}" for kind, n in sizes["unreadable"].items())
        lines.append(f"headers that cannot be read: {why} of {_count(sizes['sampled_images'])}")
    per_record = summary["images_per_record"]
    if (per_record["min"], per_record["max"]) != (1, 1):
        lines.append(
            f"images a record: {per_record['min']} to {per_record['max']}, "
            f"mean {per_record['mean']:.2f}"
        )
    return "\n".join(lines)


def _labels(summary):
    labels = summary["labels"]
    if not labels:
        return None
    names = labels["names"]
    ranked = sorted(labels["counts"].items(), key=lambda item: (item[1], int(item[0])))
    places = {"smallest": 0, "median": (len(ranked) - 1) // 2, "largest": -1}
    rows = []
    for what, place in places.items():
        label, count = ranked[place]
        name = names[int(label)] if int(label) < len(names) else None
        rows.append([what, label, name, _count(count)])
    heading = f"{_count(labels['classes'])} classes, {_count(labels['records'])} records with one"
    return f"{heading}\n{table(rows, ['class', 'label', 'name', 'records'])}"


def _scores(summary):
    scores = summary["scores"]
    if not scores:
        return None
    most = max(scores["counts"])
    rows = []
    for low, high, count in zip(
        scores["edges"], scores["edges"][1:], scores["counts"], strict=False
    ):
        rows.append([f"{low:.2f} to {high:.2f}", _count(count), "#" * round(_BAR * count / most)])
    middle = ", ".join(f"{what} {scores[what]:.2f}" for what in ("min", "mean", "median", "max"))
    return f"{table(rows, ['score', 'records', ''])}\n{middle}"


def _repeats(summary):
    rows = []
    for kind in ("images", "texts"):
        found = summary[f"same_{kind}"]
        if found["distinct"]:
            share = 100 * found["sharing_records"] / summary["sampled_records"]
            counts = [_count(found["distinct"]), _count(found["sharing_records"]), f"{share:.2f}"]
            rows.append([kind, *counts])
    if not rows:
        return None
    notes = (
        "records: those whose image (byte by byte) or text (in one language) another one has too"
    )
    if summary["sampled_records"] < summary["records"]:
        notes += ";\namong those that were read: the whole set has more"
    return table(rows, ["repeats", "different", "records", "% of records"]) + f"\n{notes}"


def _count(value):
    return f"{value:,}"
