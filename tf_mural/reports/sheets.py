"""Contact sheets and retrieval grids: images with captions in any script."""

import dataclasses
import re
import unicodedata

from tf_mural.reports import fonts

# Sizes on a contact sheet in pixels: width of an image, and space between two images.
_TILE, _GAP = 256, 16
# Font size and height of a line in pixels, and maximum number of lines per caption.
_FONT_SIZE, _LINE_HEIGHT, _MAX_LINES = 15, 20, 3
_INK, _FAINT = (34, 39, 46), (139, 149, 161)

# Sizes in a retrieval grid in pixels: side of an image, space between two images, width of a frame,
# and width of the column of queries.
_GRID_TILE, _GRID_GAP, _FRAME, _QUERY_WIDTH = 112, 12, 4, 300
_CORRECT, _WRONG = (26, 127, 55), (207, 34, 46)


@dataclasses.dataclass
class _Line:
    code: str  # language code on the first line of a caption, "" on other lines
    text: str
    font: object
    direction: str | None = None  # "rtl", or None for the direction of the letters


def contact_sheet(path, images, captions, columns=4):
    """Writes a PNG of images with their captions below.

    The texts are drawn with the fonts of this machine. A caption that cannot be drawn with these
    fonts is marked "no font".

    Args:
        path: Path of the PNG.
        images: uint8 (n, h, w, 3), scaled to the width of a tile; or a list of uint8 (h, w, 3) of
            any sizes, each scaled to fit a square tile.
        captions: (language, text) pairs of each image.
        columns: Number of images per row.

    Returns:
        Sorted codes of the languages with a caption that could not be drawn.
    """
    from PIL import Image, ImageDraw

    _check(images, captions)
    labels = [language for pairs in captions for language, _ in pairs]
    indent = 10 + int(max(map(fonts.latin_font(_FONT_SIZE).getlength, labels), default=0))
    missing = set()
    lines = [_wrap_captions(pairs, _TILE - indent, missing) for pairs in captions]
    sizes = _tile_sizes(images)
    rows = [slice(first, first + columns) for first in range(0, len(images), columns)]
    image_heights = [max(height for _, height in sizes[row]) for row in rows]
    row_heights = [
        height + _LINE_HEIGHT * max(map(len, lines[row])) + 2 * _GAP
        for row, height in zip(rows, image_heights, strict=True)
    ]
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, sum(row_heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        row, column = divmod(i, columns)
        left = _GAP + column * (_TILE + _GAP)
        bottom = _GAP + sum(row_heights[:row]) + image_heights[row]
        # Small images are enlarged without smoothing, so that their pixels are visible as squares.
        is_enlarged = image.shape[1] <= size[0]
        resample = Image.Resampling.NEAREST if is_enlarged else Image.Resampling.LANCZOS
        tile = Image.fromarray(image).resize(size, resample)
        sheet.paste(tile, (left + (_TILE - size[0]) // 2, bottom - size[1]))
        _draw_lines(draw, lines[i], left, bottom + _LINE_HEIGHT, indent)
    sheet.save(path, "PNG")
    return sorted(missing)


def retrieval_grid(path, rows):
    """Writes a PNG with a row per query: its text on the left, then the retrieved images in order.

    The frame of an image is green if the image is correct for the query, otherwise red. The texts
    are drawn with the fonts of this machine.

    Args:
        path: Path of the PNG.
        rows: List of (language, text, [(image uint8 (h, w, 3), whether it is correct)]).

    Returns:
        Sorted codes of the languages whose texts could not be drawn.
    """
    from PIL import Image, ImageDraw

    if not rows:
        raise ValueError("Expected rows. Received: none.")
    missing, step = set(), _GRID_TILE + _GRID_GAP
    latin = fonts.latin_font(_FONT_SIZE)
    indent = 10 + int(max(latin.getlength(language) for language, _, _ in rows))
    columns = max(len(images) for _, _, images in rows)
    size = (_QUERY_WIDTH + columns * step + _GRID_GAP, len(rows) * step + _GRID_GAP)
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for i, (language, text, images) in enumerate(rows):
        top = _GRID_GAP + i * step
        width = _QUERY_WIDTH - indent - 2 * _GRID_GAP
        lines = _wrap_captions([(language, text)], width, missing)
        _draw_lines(draw, lines, _GRID_GAP, top + 20, indent)
        for j, (image, is_correct) in enumerate(images):
            left = _QUERY_WIDTH + j * step
            frame = (left, top, left + _GRID_TILE, top + _GRID_TILE)
            draw.rectangle(frame, outline=_CORRECT if is_correct else _WRONG, width=_FRAME)
            side = _GRID_TILE - 2 * _FRAME
            tile = Image.fromarray(image).resize((side, side))
            grid.paste(tile, (left + _FRAME, top + _FRAME))
    grid.save(path, "PNG")
    return sorted(missing)


def _check(images, captions):
    shapes = {(image.dtype.name, image.shape[2:]) for image in images if image.ndim == 3}
    if not len(images) or shapes != {("uint8", (3,))} or any(image.ndim != 3 for image in images):
        received = (
            f"{images.dtype} {images.shape}" if hasattr(images, "dtype") else shapes or "none"
        )
        raise ValueError(
            f"images are {received}: expected uint8 (n, h, w, 3), or a list of (h, w, 3)"
        )
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} lists of captions for {len(images)} images")


def _tile_sizes(images):
    """Returns (width, height) in pixels of each image on the sheet."""
    is_array = hasattr(images, "shape")
    sizes = []
    for image in images:
        height, width = image.shape[:2]
        scale = _TILE / (width if is_array else max(width, height))
        sizes.append((max(1, round(width * scale)), max(1, round(height * scale))))
    return sizes


def _wrap_captions(pairs, width, missing):
    """Returns the lines of captions; adds languages without a font to `missing`."""
    lines = []
    for language, text in pairs:
        drawable = fonts.caption_font(language, text, _FONT_SIZE)
        if drawable is None:
            missing.add(language)
            lines.append(_Line(language, "(no font)", fonts.latin_font(_FONT_SIZE)))
            continue
        font, text = drawable
        # Without a direction, a line of Hebrew that begins with a Latin word would be drawn from
        # left to right.
        direction = "rtl" if fonts.is_right_to_left(text) else None
        wrapped = _wrap(font, text, width, direction)
        lines += [
            _Line("" if i else language, line, font, direction) for i, line in enumerate(wrapped)
        ]
    return lines


def _wrap(font, text, width, direction=None):
    """Returns the lines of a caption."""

    def fits(line):
        return font.getlength(line.rstrip(), direction=direction) <= width

    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if fits(lines[-1] + word):
            lines[-1] += word
        elif fits(word):
            lines.append(word)
        else:  # a word longer than a line, such as a Chinese sentence, is broken at any character
            for character in word:
                is_mark = unicodedata.category(character).startswith("M")
                if is_mark or fits(lines[-1] + character):
                    lines[-1] += character
                else:
                    lines.append(character)
    if len(lines) > _MAX_LINES:
        last = lines[_MAX_LINES - 1].rstrip()
        while last and not fits(last + "…"):
            last = last[:-1]
        lines[_MAX_LINES - 1 :] = [last + "…"]
    return [line.rstrip() for line in lines if line.strip()]


def _draw_lines(draw, lines, left, baseline, indent):
    """Draws the result of `_wrap_captions`, with the first line at the height `baseline`."""
    for line in lines:
        draw.text((left, baseline), line.code, _FAINT, fonts.latin_font(_FONT_SIZE), anchor="ls")
        x, anchor = (left + _TILE, "rs") if line.direction else (left + indent, "ls")
        draw.text(
            (x, baseline), line.text, _INK, line.font, anchor=anchor, direction=line.direction
        )
        baseline += _LINE_HEIGHT
