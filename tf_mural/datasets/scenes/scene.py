"""The content of captions and phrases of `scenes`, independent of the language, and its sampling.

All sampling uses only `random.Random.random()`, whose sequence for a given seed Python guarantees.
"""

import itertools
import zlib
from dataclasses import dataclass
from random import Random

from tf_mural.errors import UserError

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "black", "white")
SIZES = ("big", "small")
BACKGROUNDS = ("plain", "striped", "dotted", "checkered")
RELATIONS = ("left of", "right of", "above", "below")
LINKS = RELATIONS + ("next to", "and")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
EVERYDAY_NOUNS = (
    "dog", "cat", "bird", "fish", "horse", "house", "tree", "book", "table", "chair", "bed",
    "window", "door", "key", "cup", "bottle", "spoon", "apple", "egg", "flower", "leaf", "car",
    "boat", "shoe", "hat", "shirt", "bag", "ball", "clock", "lamp", "box", "umbrella",
)  # fmt: skip
NOUNS = SHAPES + EVERYDAY_NOUNS
_TEST_ONE_IN = 5  # One of 5 pairs of objects belongs to the test split.


@dataclass(frozen=True)
class SceneObject:
    """An object; `size` and `color` are None if a phrase does not mention them."""

    noun: str
    size: str | None = None
    color: str | None = None


@dataclass(frozen=True)
class Phrase:
    """One object, or two objects and the link from the first to the second ("left of")."""

    first: SceneObject
    link: str | None = None
    second: SceneObject | None = None


@dataclass(frozen=True)
class Scene(Phrase):
    """Two shapes with size and color, one of `RELATIONS` between them, and the background."""

    background: str = "plain"


def choice(rng: Random, items):
    """Returns one of `items`, with equal probabilities."""
    return items[int(rng.random() * len(items))]


def object_pair(scene: Phrase) -> frozenset:
    """Returns the unordered pair of (color, shape), which determines the split of a scene."""
    return frozenset((obj.color, obj.noun) for obj in (scene.first, scene.second))


def is_test_pair(pair: frozenset) -> bool:
    """Returns whether a pair belongs to the test split, which is the same for all seeds."""
    name = "+".join(sorted(f"{color} {shape}" for color, shape in pair))
    return zlib.crc32(name.encode()) % _TEST_ONE_IN == 0


def object_pairs(split: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Returns all pairs of (color, shape) of a split; the two objects differ in color and shape."""
    objects = itertools.product(COLORS, SHAPES)
    return [
        (first, second)
        for first, second in itertools.combinations(objects, 2)
        if first[0] != second[0]
        and first[1] != second[1]
        and is_test_pair(frozenset((first, second))) == (split == "test")
    ]


def sample_scenes(split: str, count: int, seed: int) -> list[Scene]:
    """Samples `count` different scenes.

    An image has two descriptions ("a star above a moon", "a moon below a star"). To avoid that an
    image occurs twice, the order of the objects is sampled last.

    Raises:
        UserError: there are fewer than `count` different scenes.
    """
    choices = (object_pairs(split), SIZES, SIZES, RELATIONS, BACKGROUNDS)
    total = 1
    for values in choices:
        total *= len(values)
    if not 0 <= count <= total:
        raise UserError(
            f"scenes/{split}: expected a count from 0 to {total}, the number of different scenes, "
            f"got {count}"
        )
    rng = Random(f"scenes/{split}/{seed}")
    sampled = {}
    while len(sampled) < count:
        code = int(rng.random() * total)
        if code not in sampled:
            sampled[code] = _decode_scene(code, choices, swap=rng.random() < 0.5)
    return list(sampled.values())


def _decode_scene(code, choices, swap):
    """Returns the scene with the mixed-radix number `code`; `swap` exchanges the two objects."""
    values = []
    for options in choices:
        code, index = divmod(code, len(options))
        values.append(options[index])
    ((color, shape), (other_color, other_shape)), size, other_size, relation, background = values
    first = SceneObject(shape, size, color)
    second = SceneObject(other_shape, other_size, other_color)
    if swap:
        return Scene(second, OPPOSITE[relation], first, background)
    return Scene(first, relation, second, background)


def sample_phrase(rng: Random) -> Phrase:
    """Samples a phrase with at most one shape, which therefore never describes a scene."""
    if rng.random() < 0.15:
        return Phrase(_sample_object(rng, choice(rng, NOUNS), bare_probability=0.0))
    nouns = [choice(rng, EVERYDAY_NOUNS)]
    nouns.append(choice(rng, SHAPES if rng.random() < 0.6 else EVERYDAY_NOUNS))
    while nouns[0] == nouns[1]:
        nouns[1] = choice(rng, EVERYDAY_NOUNS)
    if rng.random() < 0.5:
        nouns.reverse()
    first, second = (_sample_object(rng, noun, bare_probability=0.2) for noun in nouns)
    return Phrase(first, choice(rng, LINKS), second)


def _sample_object(rng, noun, bare_probability):
    """Returns an object without attributes, or one with size (25 %), color (25 %) or both."""
    if rng.random() < bare_probability:
        return SceneObject(noun)
    kind = rng.random()
    size = choice(rng, SIZES) if kind < 0.75 else None
    color = choice(rng, COLORS) if kind >= 0.25 else None
    return SceneObject(noun, size, color)
