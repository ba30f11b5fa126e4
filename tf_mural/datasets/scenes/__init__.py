"""`scenes`: images of two shapes, drawn and captioned in twelve languages by this package.

The data set needs no download and has no license restrictions. Each image of `train` has an English
caption, and a quarter of the images have captions in five more languages. `test` has combinations
of colors and shapes that `train` never shows, with captions in all twelve languages. `bitext` has
short phrases about everyday objects, each in two languages, without images. A record is a function
of (split, seed, index) and does not depend on the units.
"""

import itertools
import zlib
from collections.abc import Iterator
from functools import lru_cache
from random import Random

from tf_mural.data.records import Record
from tf_mural.datasets.scenes.drawing import draw_scene
from tf_mural.datasets.scenes.grammar import GRAMMARS
from tf_mural.datasets.scenes.scene import sample_phrase, sample_scenes
from tf_mural.errors import UserError, lookup

COUNTS = {"train": 6_000, "bitext": 40_000, "test": 512}
SPLITS = tuple(COUNTS)
AUGMENTATIONS = ("crop",)  # Flipped images contradict captions.
LANGUAGES = tuple(GRAMMARS)
TRAIN_LANGUAGES = ("en", "de", "fr", "cs", "zh", "ja")
_TRANSLATED_ONE_IN = 4


def plan(
    raw_dir: str | None, split: str, seed: int = 0, count: int | None = None, units: int = 4
) -> list[dict]:
    """Divides a split into units of about equal size.

    Args:
        raw_dir: not used.
        split: "train", "bitext" or "test".
        seed: seed of the records.
        count: number of records; None: the number in `COUNTS`.
        units: number of units.

    Returns:
        List of dicts for `read`.

    Raises:
        UserError: the split is unknown, or the number of records or units is not possible.
    """
    default_count = lookup(COUNTS, split, "split")
    count = default_count if count is None else count
    if count < 0 or units < 1:
        raise UserError(
            f"scenes/{split}: expected count >= 0 and units >= 1, got count={count}, units={units}"
        )
    if split != "bitext":
        sample_scenes(split, count, seed)  # raises the error for too large a count
    cuts = [count * i // units for i in range(units + 1)]
    common = {"split": split, "seed": seed, "count": count}
    return [{**common, "start": a, "stop": b} for a, b in itertools.pairwise(cuts)]


def read(unit: dict) -> Iterator[Record]:
    """Yields the records of a unit, in order."""
    split, seed, indices = unit["split"], unit["seed"], range(unit["start"], unit["stop"])
    if split == "bitext":
        for index in indices:
            yield _phrase_record(seed, index)
        return
    scenes = sample_scenes(split, unit["count"], seed)
    for index in indices:
        yield _scene_record(split, seed, index, scenes[index])


def is_translated(seed: int, index: int) -> bool:
    """Returns whether a training record has all of `TRAIN_LANGUAGES`, or only English."""
    return zlib.crc32(f"translated/{seed}/{index}".encode()) % _TRANSLATED_ONE_IN == 0


def _scene_record(split, seed, index, scene):
    if split == "test":
        languages = LANGUAGES
    else:
        languages = TRAIN_LANGUAGES if is_translated(seed, index) else ("en",)
    id = f"scenes/{split}/{index:06d}"
    return Record(
        id=id,
        images=(draw_scene(scene, Random(f"{id}/{seed}")),),
        texts=tuple((language, GRAMMARS[language].caption(scene)) for language in languages),
    )


def _phrase_record(seed, index):
    id = f"scenes/bitext/{index:06d}"
    rng = Random(f"{id}/{seed}")
    phrase, as_sentence = sample_phrase(rng), rng.random() < 0.5
    texts = []
    for language in language_pair(seed, index):
        grammar = GRAMMARS[language]
        text = grammar.phrase(phrase)
        texts.append((language, grammar.sentence(text) if as_sentence else text))
    return Record(id=id, texts=tuple(texts))


def language_pair(seed: int, index: int) -> tuple[str, str]:
    """Returns the two languages of a bitext record: 66 successive records have all 66 pairs."""
    block, position = divmod(index, len(LANGUAGES) * (len(LANGUAGES) - 1) // 2)
    return _shuffled_pairs(seed, block)[position]


@lru_cache(maxsize=4)
def _shuffled_pairs(seed, block):
    rng = Random(f"scenes/bitext/languages/{seed}/{block}")
    pairs = [
        pair if rng.random() < 0.5 else pair[::-1] for pair in itertools.combinations(LANGUAGES, 2)
    ]
    return sorted(pairs, key=lambda _: rng.random())
