"""Tables of the statistics of record sets, for the terminal."""

from tf_mural.reports.tables import table

_BAR_WIDTH = 40  # length of the longest bar of a histogram, in characters


def format_stats(summary):
    """Returns the statistics of a record set as text: a headline and tables.

    Args:
        summary: Result of `dataset_stats.DatasetStats.summary`.
    """
    parts = [_headline(summary)]
    parts += [_language_tables(summary), _image_table(summary), _label_table(summary)]
    parts += [_score_table(summary), _role_line(summary), _vectors_table(summary)]
    parts.append(_duplicate_table(summary))
    return "\n\n".join(part for part in parts if part)


def format_shared_records(rows, names):
    """Returns a table of the numbers of records that share an image or a text with another set.

    Args:
        rows: Result of `dataset_stats.shared_records`.
        names: {folder: name of the set}.
    """
    if not rows:
        return "No image and no text (in one language) is in two of these sets."
    cells = [
        [names[r["records_of"]], names[r["in"]], _count(r["images"]), _count(r["texts"])]
        for r in rows
    ]
    return table(cells, ["records of", "that share, with", "an image", "a text"])


def _headline(summary):
    totals = [f"{_count(summary[kind])} {kind}" for kind in ("records", "images", "texts")]
    lines = [f"{summary['folder']} ({summary['dataset']}, {summary['split']}): {', '.join(totals)}"]
    if summary["sampled_records"] < summary["records"]:
        count = _count(summary["sampled_records"])
        sample = (
            f"{count} records drawn at random"
            if summary["sample"] == "random"
            else f"the first {count} records"
        )
        lines.append(
            f"records, images and texts of a language: of the whole set; other numbers: of {sample}"
        )
    for kind in ("images", "texts"):
        if not summary[kind]:
            lines.append(f"It has no {kind}.")
    return "\n".join(lines)


def _language_tables(summary):
    languages = summary["languages"]
    if not languages:
        return None
    kinds = [kind for kind in ("records", "images", "texts") if summary[kind]]
    lines = dict(languages)
    if len(lines) > 1 and summary["all_languages"]:
        totals = {kind: summary[kind] for kind in kinds}
        lines |= {None: None, "all": totals | summary["all_languages"]}
    rows = [values and _length_row(code, values, kinds) for code, values in lines.items()]
    columns = ["language", *kinds, "characters 5 %", "50 %", "95 %", "max"]
    text = table(rows, [*columns, "words 5 %", "50 %", "95 %", "max"])
    text += "\nwords: separated by spaces; - if the script has no spaces between words"
    tokenizer = summary["tokenizer"]
    if not tokenizer:
        return f"{text}\ntokens: not counted without a vocabulary"
    rows = [values and _token_row(code, values) for code, values in lines.items()]
    columns = ["language", "tokens 5 %", "50 %", "95 %", "max", "per word", "per character"]
    text += f"\n\n{table(rows, [*columns, 'unknown %', 'cut %'])}"
    return (
        f"{text}\ntokens: of a vocabulary of {_count(tokenizer['size'])} pieces "
        f"({tokenizer['hash']}), [CLS] and [SEP] not counted\n"
        f"unknown: of the tokens; cut: texts of more than {tokenizer['max_tokens']} tokens with "
        "[CLS] and [SEP]"
    )


def _length_row(code, values, kinds):
    counts = [_count(values[kind]) for kind in kinds]
    lengths = [
        _quantile_cells(values[unit], "q05", "median", "q95", "max")
        for unit in ("characters", "words")
    ]
    return [code, *counts, *lengths[0], *lengths[1]]


def _token_row(code, values):
    names = ("tokens_per_word", "tokens_per_character", "unknown_percent", "cut_percent")
    ratios = [values.get(name) for name in names]
    cells = [None if ratio is None else f"{ratio:.2f}" for ratio in ratios]
    return [code, *_quantile_cells(values.get("tokens"), "q05", "median", "q95", "max"), *cells]


def _quantile_cells(quantiles, *names):
    return [None if quantiles is None else _count(quantiles[name]) for name in names]


def _image_table(summary):
    sizes = summary["image_sizes"]
    if not sizes:
        return None
    names = ("min", "q05", "q25", "median", "q75", "q95", "max", "mean")
    rows = []
    for size, unit in (("width", "px"), ("height", "px"), ("aspect", "w / h"), ("bytes", "")):
        digits = 2 if size == "aspect" else 0
        quantiles = sizes[size]
        cells = [None if quantiles is None else f"{quantiles[name]:,.{digits}f}" for name in names]
        rows.append([f"{size} {unit}".strip(), *cells])
    columns = ["images", "min", "5 %", "25 %", "50 %", "75 %", "95 %", "max", "mean"]
    formats = [f"{name} {_count(count)}" for name, count in sizes["formats"].items()]
    lines = [table(rows, columns), f"formats: {', '.join(formats) or 'none'}"]
    if sizes["unreadable"]:
        errors = ", ".join(f"{name} {_count(n)}" for name, n in sizes["unreadable"].items())
        lines.append(f"headers that cannot be read: {errors} of {_count(sizes['sampled_images'])}")
    per_record = summary["images_per_record"]
    if (per_record["min"], per_record["max"]) != (1, 1):
        lines.append(
            f"images per record: {per_record['min']} to {per_record['max']}, "
            f"mean {per_record['mean']:.2f}"
        )
    return "\n".join(lines)


def _label_table(summary):
    labels = summary["labels"]
    if not labels:
        return None
    names = labels["names"]
    ranked = sorted(labels["counts"].items(), key=lambda item: (item[1], int(item[0])))
    selected = {"smallest": 0, "median": (len(ranked) - 1) // 2, "largest": -1}
    rows = []
    for size, index in selected.items():
        label, count = ranked[index]
        name = names[int(label)] if int(label) < len(names) else None
        rows.append([size, label, name, _count(count)])
    heading = f"{_count(labels['classes'])} classes, {_count(labels['records'])} labelled records"
    return f"{heading}\n{table(rows, ['class', 'label', 'name', 'records'])}"


def _score_table(summary):
    scores = summary["scores"]
    if not scores:
        return None
    largest = max(scores["counts"])
    rows = []
    for low, high, count in zip(
        scores["edges"], scores["edges"][1:], scores["counts"], strict=False
    ):
        bar = "#" * round(_BAR_WIDTH * count / largest)
        rows.append([f"{low:.2f} to {high:.2f}", _count(count), bar])
    names = ("min", "mean", "median", "max")
    averages = ", ".join(f"{name} {scores[name]:.2f}" for name in names)
    return f"{table(rows, ['score', 'records', ''])}\n{averages}"


def _role_line(summary):
    roles = summary["roles"]
    if not roles:
        return None
    return f"roles of texts: {', '.join(f'{name} {_count(n)}' for name, n in roles.items())}"


def _vectors_table(summary):
    vectors = summary["vectors"]
    if not vectors:
        return None
    rows = []
    for name, values in vectors.items():
        lengths = values["lengths"]
        cells = [lengths and f"{lengths[key]:.3g}" for key in ("min", "mean", "max")]
        codes = ", ".join(values.get("languages", ()))
        owners = values["of"] + (f" in {codes}" if codes else "")
        model = values["model"].get("name")
        rows.append(
            [name, owners, _count(values["rows"]), str(values["width"]), values["dtype"], *cells]
            + [model]
        )
    columns = ["vectors", "of", "rows", "width", "dtype", "length min", "mean", "max", "model"]
    return table(rows, columns)


def _duplicate_table(summary):
    rows = []
    for kind in ("images", "texts"):
        counts = summary[f"same_{kind}"]
        if counts["distinct"]:
            share = 100 * counts["sharing_records"] / summary["sampled_records"]
            cells = [_count(counts["distinct"]), _count(counts["sharing_records"]), f"{share:.2f}"]
            rows.append([kind, *cells])
    if not rows:
        return None
    notes = (
        "records: those whose image (equal bytes) or text (in one language) is in another record"
    )
    if summary["sampled_records"] < summary["records"]:
        notes += ";\ncounted among the records read: the whole set has more"
    return table(rows, ["duplicates", "distinct", "records", "% of records"]) + f"\n{notes}"


def _count(value):
    return f"{value:,}"
