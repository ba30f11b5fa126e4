"""Which way letters run, and the order of pieces on a line that mixes directions.

Pillow orders the letters of one font by itself; a line in several fonts is drawn piece by piece.
"""

import unicodedata

TO_RIGHT, TO_LEFT = "\u200e", "\u200f"  # marks: invisible letters of these directions


def is_right_to_left(text):
    """Whether the first letter with a direction runs from right to left."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((d for d in directions if d in ("L", "R", "AL")), "L") != "L"


def visual_order(pieces, text):
    """Pieces from left to right. Those that run against the text keep their order among themselves.

    Within a piece Pillow orders the letters, by the direction of the first.
    """
    backwards = is_right_to_left(text)
    against, ordered = [], []
    for path, piece in pieces:
        left, right = _directions(piece)
        if left and right and is_right_to_left(piece) != backwards:
            piece = (TO_LEFT if backwards else TO_RIGHT) + piece
        if (left and not right) if backwards else (right and not left):
            against.append((path, piece))
        else:
            ordered += [*_turned(against), (path, piece)]
            against = []
    ordered += _turned(against)
    return ordered[::-1] if backwards else ordered


def _turned(pieces):
    """Pieces backwards; the space after the last of them belongs to what follows, and stays."""
    if not pieces:
        return []
    path, last = pieces[-1]
    body = last.rstrip()
    space = [(path, last[len(body) :])] if body != last else []
    return [(path, body), *reversed(pieces[:-1]), *space]


def _directions(text):
    """Whether there are letters that run to the right, and such that run to the left."""
    letters = {unicodedata.bidirectional(character) for character in text}
    return "L" in letters, bool(letters & {"R", "AL"})
