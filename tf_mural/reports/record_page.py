"""An HTML page of records: a summary table, and images with their captions.

The page is one file that needs no other file and no network. A browser draws the captions, and
therefore chooses the fonts, joins the letters and orders the words of every script.
"""

import base64
import html
import itertools

from tf_mural import file_io

_STYLE = """
:root { color-scheme: light dark; --faint: #8b95a1; --line: #8b95a155; --cut: #c2410c; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child { text-align: left }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.5rem;
  margin-top: 2rem; align-items: start }
figure { margin: 0 } figcaption, .note { color: var(--faint); font-size: .85rem }
img, .broken { width: 16rem; max-width: 100%; max-height: 16rem; object-fit: contain;
  display: block }
img.enlarged { image-rendering: pixelated }
.broken { border: 2px dashed var(--cut); padding: 3rem 1rem; box-sizing: border-box }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .6rem; margin: .5rem 0 }
dt { color: var(--faint) }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
.cut { color: var(--cut); font-size: .85rem; unicode-bidi: isolate }
"""
# The content security policy makes browsers refuse scripts, and files from other sources.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{summary}
<main>
{records}
</main>
</body>
</html>
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_ENLARGED_BELOW = 256  # pixels; smaller images are enlarged without smoothing


def write_record_page(path, summary, samples):
    """Writes the page of a record set.

    Args:
        path: Path of the HTML file, local or remote.
        summary: Result of `dataset_stats.DatasetStats.summary`.
        samples: List of `sample_records.SampledRecord`.
    """
    page = _PAGE.format(
        policy=_POLICY,
        style=_STYLE,
        title=html.escape(f"{summary['folder']} ({summary['dataset']}, {summary['split']})"),
        summary=_summary(summary, samples),
        records="\n".join(map(_record, samples)),
    )
    with file_io.atomic_write(path) as temporary, file_io.open_file(temporary, "wb") as file:
        file.write(page.encode("utf-8", "replace"))


def _summary(summary, samples):
    """Returns the sentences and the table at the top of the page."""
    totals = [f"{summary[kind]:,} {kind}" for kind in ("records", "images", "texts")]
    sentences = [f"The record set has {', '.join(totals)}. {len(samples):,} records are shown."]
    if summary["sampled_records"] < summary["records"]:
        sentences.append(
            f"Characters, tokens and cut texts are those of {summary['sampled_records']:,} records."
        )
    tokenizer = summary["tokenizer"]
    if tokenizer:
        sentences.append(
            f"A text is cut if it has more than {tokenizer['max_tokens']} tokens with [CLS] and "
            "[SEP]."
        )
    broken = sum(sample.image is None for sample in samples)
    if broken:
        sentences.append(f"{broken:,} of the shown images cannot be decoded.")
    rows = list(summary["languages"].items())
    if len(rows) > 1 and summary["all_languages"]:
        counts = {kind: summary[kind] for kind in ("records", "images", "texts")}
        rows.append(("all", counts | summary["all_languages"]))
    return f"<p>{html.escape(' '.join(sentences))}</p>\n{_language_table(rows)}"


def _language_table(rows):
    if not rows:
        return ""
    columns = ("language", "records", "images", "texts", "characters 50 %", "max")
    columns += ("tokens 50 %", "max", "cut %")
    lines = [_table_row("th", columns)]
    for code, values in rows:
        cells = [code, *(f"{values[kind]:,}" for kind in ("records", "images", "texts"))]
        for unit in ("characters", "tokens"):
            quantiles = values.get(unit)
            cells += [f"{quantiles[q]:,}" if quantiles else "-" for q in ("median", "max")]
        share = values.get("cut_percent")
        lines.append(_table_row("td", [*cells, "-" if share is None else f"{share:.2f}"]))
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _table_row(tag, cells):
    first, *others = (html.escape(str(cell)) for cell in cells)
    cells = "".join(f"<{tag}>{cell}</{tag}>" for cell in others)
    return f"<tr><th>{first}</th>{cells}</tr>"


def _record(sample):
    """Returns the HTML of a record."""
    facts = [f"record {sample.index:,}", sample.id]
    if sample.size:
        facts.append("{} x {} pixels".format(*sample.size))
    if sample.num_images > 1:
        facts.append(f"the first of {sample.num_images:,} images")
    if sample.label:
        facts.append(f"class {sample.label}")
    parts = [_image(sample), f"<figcaption>{html.escape(', '.join(facts))}</figcaption>"]
    captions = sorted(sample.captions, key=lambda caption: caption.language)
    parts.append("<dl>")
    for language, group in itertools.groupby(captions, key=lambda caption: caption.language):
        code = html.escape(language)
        parts.append(f"<dt>{code}</dt>")
        parts += [f'<dd lang="{code}" dir="auto">{_text(caption)}</dd>' for caption in group]
    parts.append("</dl>")
    if sample.omitted:
        counts = ", ".join(f"{code} {number:,}" for code, number in sorted(sample.omitted.items()))
        parts.append(f'<p class="note">texts that are not shown: {html.escape(counts)}</p>')
    return "<figure>\n" + "\n".join(parts) + "\n</figure>"


def _image(sample):
    name = f"record {sample.index}"
    if sample.image is None:
        return f'<div class="broken" role="img" aria-label="{name}">cannot be decoded</div>'
    kind = "jpeg" if sample.image.startswith(b"\xff\xd8") else "png"
    data = base64.b64encode(sample.image).decode()
    enlarged = ' class="enlarged"' if max(sample.size) < _ENLARGED_BELOW else ""
    return f'<img{enlarged} alt="{name}" src="data:image/{kind};base64,{data}">'


def _text(caption):
    text = html.escape(caption.text)
    if not caption.is_cut:
        return text
    note = f"cut: {caption.num_tokens:,} tokens"
    return f'{text} <span class="cut" lang="en" dir="ltr">({note})</span>'
