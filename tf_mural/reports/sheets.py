"""Contact sheets: images with their captions, in whatever script."""

import dataclasses
import re
import unicodedata

from tf_mural.reports import fonts
from tf_mural.reports.direction import TO_LEFT, is_right_to_left

_TILE, _GAP = 256, 16  # pixels: width of an image on the sheet, space between two
_TEXT, _LINE, _MOST_LINES = 15, 20, 3  # pixels: height of letters, of a line; lines a caption
_INK, _FAINT = (34, 39, 46), (139, 149, 161)


@dataclasses.dataclass
class _Line:
    code: str  # language, on the first line of a caption
    runs: list
    right_to_left: bool = False


def contact_sheet(path, images, captions, columns=4):
    """Writes a PNG of images, each with its captions below.

    Fonts are those of this machine. A caption that they cannot draw is marked "no font".

    Args:
        path: of the PNG.
        images: uint8 (n, h, w, 3), drawn as wide as a tile; or a list of uint8 (h, w, 3) of any
            sizes, each drawn as large as a square tile allows.
        captions: for each image its (language, text) pairs.
        columns: images a row.

    Returns:
        Sorted codes of the languages with a caption that could not be drawn: tell them.
    """
    from PIL import Image, ImageDraw

    _check(images, captions)
    labels = [language for pairs in captions for language, _ in pairs]
    indent = 10 + int(max(map(fonts.latin(_TEXT).getlength, labels), default=0))
    missing = set()
    lines = [wrapped(pairs, _TILE - indent, missing) for pairs in captions]
    sizes = _sizes(images)
    rows = [slice(first, first + columns) for first in range(0, len(images), columns)]
    tallest = [max(height for _, height in sizes[row]) for row in rows]
    heights = [
        tall + _LINE * max(map(len, lines[row])) + 2 * _GAP
        for row, tall in zip(rows, tallest, strict=True)
    ]
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        row, column = divmod(i, columns)
        left = _GAP + column * (_TILE + _GAP)
        bottom = _GAP + sum(heights[:row]) + tallest[row]
        # Small images keep their pixels visible, as squares.
        how = Image.Resampling.NEAREST if image.shape[1] <= size[0] else Image.Resampling.LANCZOS
        picture = Image.fromarray(image).resize(size, how)
        sheet.paste(picture, (left + (_TILE - size[0]) // 2, bottom - size[1]))
        draw_lines(draw, lines[i], left, bottom + _LINE, indent)
    sheet.save(path, "PNG")
    return sorted(missing)


def _check(images, captions):
    shapes = {(image.dtype.name, image.shape[2:]) for image in images if image.ndim == 3}
    if not len(images) or shapes != {("uint8", (3,))} or any(image.ndim != 3 for image in images):
        found = f"{images.dtype} {images.shape}" if hasattr(images, "dtype") else shapes or "none"
        raise ValueError(f"images are {found}: expected uint8 (n, h, w, 3), or a list of (h, w, 3)")
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} lists of captions for {len(images)} images")


def _sizes(images):
    """(width, height) in pixels of each image on the sheet."""
    alike = hasattr(images, "shape")  # one array
    sizes = []
    for image in images:
        height, width = image.shape[:2]
        scale = _TILE / (width if alike else max(width, height))
        sizes.append((max(1, round(width * scale)), max(1, round(height * scale))))
    return sizes


def wrapped(pairs, width, missing):
    """The lines of captions at a width. Adds to `missing` the languages without a font."""
    lines = []
    for language, text in pairs:
        parts = _wrap(language, text, width)
        if parts is None:
            missing.add(language)
            lines.append(_Line(language, [(fonts.latin(_TEXT), "(no font)")]))
            continue
        rtl = is_right_to_left(text)
        lines += [_Line("" if i else language, runs, rtl) for i, runs in enumerate(parts)]
    return lines


def _wrap(language, text, width):
    """Runs of each line of a caption, or None where there is no font for it."""
    if fonts.runs(language, text, _TEXT) is None:
        return None

    def fits(line):
        return fonts.length(fonts.runs(language, line.rstrip(), _TEXT)) <= width

    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if fits(lines[-1] + word):
            lines[-1] += word
        elif fits(word):
            lines.append(word)
        else:  # longer than a line, as Chinese and Thai sentences are: broken anywhere
            for character in word:
                is_mark = unicodedata.category(character).startswith("M")
                if is_mark or fits(lines[-1] + character):
                    lines[-1] += character
                else:
                    lines.append(character)
    if len(lines) > _MOST_LINES:
        last = lines[_MOST_LINES - 1].rstrip()
        while last and not fits(last + "…"):
            last = last[:-1]
        lines[_MOST_LINES - 1 :] = [last + "…"]
    lines = [line.rstrip() for line in lines if line.strip()]
    if is_right_to_left(text):  # also those of its lines that begin with a Latin word
        lines = [line if is_right_to_left(line) else TO_LEFT + line for line in lines]
    return [fonts.runs(language, line, _TEXT) for line in lines]


def draw_lines(draw, lines, left, baseline, indent):
    """Draws what `wrapped` returned, the first line on a baseline."""
    for line in lines:
        draw.text((left, baseline), line.code, _FAINT, fonts.latin(_TEXT), anchor="ls")
        x = left + (_TILE - fonts.length(line.runs) if line.right_to_left else indent)
        for font, piece in line.runs:
            draw.text((x, baseline), piece, _INK, font, anchor="ls")
            x += font.getlength(piece)
        baseline += _LINE
