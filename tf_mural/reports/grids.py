"""What a model finds: a query a row, with the images nearest to it."""

from tf_mural.reports import fonts
from tf_mural.reports.sheets import draw_lines, wrapped

_TILE, _GAP, _FRAME, _TEXT_WIDTH = 112, 12, 4, 300  # pixels
_RIGHT, _WRONG = (26, 127, 55), (207, 34, 46)


def retrieval_grid(path, rows):
    """Writes a PNG: on the left of each row the query, then what was found, the best first.

    A frame is green where an image is the query's own, else red; the fonts are those of this
    machine.

    Args:
        path: of the PNG.
        rows: list of (language, text, [(image uint8 (h, w, 3), whether it is the right one)]).

    Returns:
        Sorted codes of the languages whose texts could not be drawn.
    """
    from PIL import Image, ImageDraw

    if not rows:
        raise ValueError("Expected rows. Received: none.")
    missing, step = set(), _TILE + _GAP
    indent = 10 + int(max(fonts.latin(15).getlength(language) for language, _, _ in rows))
    columns = max(len(found) for _, _, found in rows)
    size = (_TEXT_WIDTH + columns * step + _GAP, len(rows) * step + _GAP)
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for i, (language, text, found) in enumerate(rows):
        top = _GAP + i * step
        lines = wrapped([(language, text)], _TEXT_WIDTH - indent - 2 * _GAP, missing)
        draw_lines(draw, lines, _GAP, top + 20, indent)
        for j, (image, right) in enumerate(found):
            left = _TEXT_WIDTH + j * step
            frame = (left, top, left + _TILE, top + _TILE)
            draw.rectangle(frame, outline=_RIGHT if right else _WRONG, width=_FRAME)
            inner = _TILE - 2 * _FRAME
            picture = Image.fromarray(image).resize((inner, inner))
            grid.paste(picture, (left + _FRAME, top + _FRAME))
    grid.save(path, "PNG")
    return sorted(missing)
