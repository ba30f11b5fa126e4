"""What a caption or a phrase of `scenes` says, before any language: plain words and their draws.

Every draw comes down to `random.Random.random()`: Python promises to keep its sequence for a seed.
"""

import itertools
import zlib
from dataclasses import dataclass
from random import Random

from tf_mural.errors import UserError

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "black", "white")
SIZES = ("big", "small")
BACKGROUNDS = ("plain", "striped", "dotted", "checkered")
RELATIONS = ("left of", "right of", "above", "below")
LINKS = RELATIONS + ("next to", "and")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
EVERYDAY = (
    "dog", "cat", "bird", "fish", "horse", "house", "tree", "book", "table", "chair", "bed",
    "window", "door", "key", "cup", "bottle", "spoon", "apple", "egg", "flower", "leaf", "car",
    "boat", "shoe", "hat", "shirt", "bag", "ball", "clock", "lamp", "box", "umbrella",
)  # fmt: skip
NOUNS = SHAPES + EVERYDAY
HELD_OUT_ONE_IN = 5


@dataclass(frozen=True)
class Thing:
    """One thing and what is said of it; `size` and `colour` may be left unsaid."""

    noun: str
    size: str | None = None
    colour: str | None = None


@dataclass(frozen=True)
class Phrase:
    """A thing, or two with what links them; the link is seen from the first."""

    first: Thing
    link: str | None = None
    second: Thing | None = None


@dataclass(frozen=True)
class Scene(Phrase):
    """Two shapes with size and colour, how the first stands to the second, and the background."""

    background: str = "plain"


def one_of(rng: Random, items):
    """One of `items`, each as likely."""
    return items[int(rng.random() * len(items))]


def pair_of(scene: Phrase) -> frozenset:
    """The unordered pair of (colour, shape) that decides the split of a scene."""
    return frozenset((thing.colour, thing.noun) for thing in (scene.first, scene.second))


def is_held_out(pair: frozenset) -> bool:
    """Whether a pair is kept for the test, under every seed alike, so that seeds never leak."""
    name = "+".join(sorted(f"{colour} {shape}" for colour, shape in pair))
    return zlib.crc32(name.encode()) % HELD_OUT_ONE_IN == 0


def pairs(split: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """All pairs of (colour, shape) of a split; the two differ in colour and in shape."""
    looks = itertools.product(COLOURS, SHAPES)
    return [
        (one, other)
        for one, other in itertools.combinations(looks, 2)
        if one[0] != other[0]
        and one[1] != other[1]
        and is_held_out(frozenset((one, other))) == (split == "test")
    ]


def draw_scenes(split: str, count: int, seed: int) -> list[Scene]:
    """`count` scenes, no two of which show the same, told from either side.

    Told from the other side ("a star above a moon": "a moon below a star") a scene is the same
    picture, so sides are drawn last and never make two scenes out of one.

    Raises UserError when there are fewer than `count` of them.
    """
    choices = (pairs(split), SIZES, SIZES, RELATIONS, BACKGROUNDS)
    space = 1
    for choice in choices:
        space *= len(choice)
    if not 0 <= count <= space:
        raise UserError(
            f"scenes/{split}: {count} scenes asked for, expected 0 to {space}, which is all there "
            "are; ask for fewer"
        )
    rng = Random(f"scenes/{split}/{seed}")
    drawn = {}
    while len(drawn) < count:
        code = int(rng.random() * space)
        if code not in drawn:
            drawn[code] = _scene(code, choices, other_side=rng.random() < 0.5)
    return list(drawn.values())


def _scene(code, choices, other_side):
    values = []
    for choice in choices:
        code, index = divmod(code, len(choice))
        values.append(choice[index])
    ((colour, shape), (other_colour, other_shape)), size, other_size, relation, background = values
    first, second = Thing(shape, size, colour), Thing(other_shape, other_size, other_colour)
    if other_side:
        return Scene(second, OPPOSITE[relation], first, background)
    return Scene(first, relation, second, background)


def draw_phrase(rng: Random) -> Phrase:
    """A phrase of the bitext: everyday things, and one shape at most, so that none is a scene."""
    if rng.random() < 0.15:
        return Phrase(_thing(rng, one_of(rng, NOUNS), bare=0.0))
    nouns = [one_of(rng, EVERYDAY), one_of(rng, SHAPES if rng.random() < 0.6 else EVERYDAY)]
    while nouns[0] == nouns[1]:
        nouns[1] = one_of(rng, EVERYDAY)
    if rng.random() < 0.5:
        nouns.reverse()
    first, second = (_thing(rng, noun, bare=0.2) for noun in nouns)
    return Phrase(first, one_of(rng, LINKS), second)


def _thing(rng, noun, bare):
    """A noun: alone in `bare` of the draws, else with size (25 %), colour (25 %) or both."""
    if rng.random() < bare:
        return Thing(noun)
    kind = rng.random()
    size = one_of(rng, SIZES) if kind < 0.75 else None
    colour = one_of(rng, COLOURS) if kind >= 0.25 else None
    return Thing(noun, size, colour)
