"""Tables of text for the terminal and for Markdown, aligned in any script."""

import io
import math
import re
import shutil
import sys

from tf_mural.progress import is_terminal

_NUMBER = re.compile(r"[+-]?\d[\d,.]*( ± [\d.]+)?( to [\d.]+)?%?|-|")
_MIN_TEXT_WIDTH = 12  # width below which a column of text is not folded
_GAP = 2  # spaces between two columns


def table(rows, columns, markdown=False):
    """Returns a table as text.

    If stdout is a terminal that is too narrow for the table, columns of text are folded. Numbers
    are never folded or shortened: if the terminal is narrower than the numbers, the lines are
    longer than the terminal is wide. In a pipe or a file, nothing is folded.

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
    is_number = [all(_NUMBER.fullmatch(line[i]) for line in cells) for i in range(len(columns))]
    if markdown:
        return _markdown_table(cells, columns, is_number)
    return _rich_table(lines, columns, is_number)


def _rich_table(lines, columns, is_number):
    """Returns the text of a table. A line is a list of strings, or None for a separator line."""
    from rich.box import Box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Columns are separated by spaces; lines of "-" are below the heading and between sections.
    box = Box("    \n    \n----\n    \n----\n----\n    \n    \n", ascii=True)
    grid = Table(box=box, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    cells = [columns, *(line for line in lines if line is not None)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    min_widths = []
    for heading, width, right in zip(columns, widths, is_number, strict=True):
        min_widths.append(width if right else min(width, _MIN_TEXT_WIDTH))
        alignment = "right" if right else "left"
        options = {"min_width": min_widths[-1], "no_wrap": right, "overflow": "fold"}
        grid.add_column(Text(heading), justify=alignment, **options)
    for line in lines:
        # `Text` prevents rich from interpreting markup such as "[red]" and names of emoji.
        grid.add_section() if line is None else grid.add_row(*map(Text, line))
    gaps = _GAP * (len(columns) - 1)
    width = sum(widths) + gaps
    if is_terminal(sys.stdout):
        width = max(min(width, shutil.get_terminal_size().columns), sum(min_widths) + gaps)
    console = Console(file=io.StringIO(), width=width, color_system=None, _environ={})
    console.print(grid)
    return "\n".join(line.rstrip(" ") for line in console.file.getvalue().splitlines())


def _markdown_table(lines, columns, is_number):
    from rich.cells import cell_len

    lines = [[cell.replace("|", "\\|") for cell in line] for line in [columns, *lines]]
    widths = [max(3, *map(cell_len, column)) for column in zip(*lines, strict=True)]
    rules = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, is_number, strict=True)]

    def align(cell, width, right):
        padding = " " * (width - cell_len(cell))
        return padding + cell if right else cell + padding

    lines = [lines[0], rules, *lines[1:]]
    rows = [map(align, line, widths, is_number) for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _format_cell(cell):
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return "-"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)
