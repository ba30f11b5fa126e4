"""Tables of text for the terminal and for Markdown, aligned in any script."""

import math
import re
import unicodedata

_NUMBER = re.compile(r"[+-]?\d[\d,.]*( ± [\d.]+)?( to [\d.]+)?%?|-|")


def display_width(text):
    """Returns the width in terminal columns: 2 per wide character, 0 per combining character."""
    width = 0
    for character in text:
        if (
            unicodedata.category(character) in ("Mn", "Me", "Cf")
            or "\u1160" <= character <= "\u11ff"
        ):
            continue  # Hangul vowels and finals (U+1160..11FF) join the previous syllable
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


def table(rows, columns, markdown=False):
    """Returns a table as text.

    Args:
        rows: Lists of cells, one per column: strings, integers, floats (printed with one decimal),
            or None (printed as "-"). A row that is None is printed as a separator line, and left
            out in Markdown.
        columns: Headings. Columns of numbers are right-aligned.
        markdown: Whether to return a Markdown table.
    """
    lines = [None if row is None else [_format_cell(cell) for cell in row] for row in rows]
    cells = [line for line in lines if line is not None]
    for line in cells:
        if len(line) != len(columns):
            raise ValueError(f"a row of {len(line)} cells under {len(columns)} columns: {line}")
    if markdown:
        columns = [heading.replace("|", "\\|") for heading in columns]
        lines = cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    is_right = [all(_NUMBER.fullmatch(line[i]) for line in cells) for i in range(len(columns))]
    widths = [max(map(display_width, column)) for column in zip(columns, *cells, strict=True)]
    if markdown:
        widths = [max(3, width) for width in widths]
        rules = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, is_right, strict=True)]
        lines = [columns, rules, *cells]
        return "\n".join(f"| {' | '.join(_align(line, widths, is_right))} |" for line in lines)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [columns, None, *lines]
    return "\n".join(
        rule if line is None else "  ".join(_align(line, widths, is_right)).rstrip()
        for line in lines
    )


def format_duration(seconds):
    """Returns a duration in two units: "45 s", "3 min 20 s", "2 h 05 min", "3 d 04 h"."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"


def _format_cell(cell):
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return "-"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def _align(cells, widths, is_right):
    """Yields the cells of a line, padded to the widths of the columns."""
    for cell, width, right in zip(cells, widths, is_right, strict=True):
        padding = " " * (width - display_width(cell))
        yield padding + cell if right else cell + padding
