"""`scenes`: pictures of two shapes, drawn and described in twelve languages by our own code.

No download and no licence to mind. `train` has images with an English caption each, and in a
quarter of the records captions in five more languages; `test` has combinations of colours and
shapes that `train` never shows, in all twelve; `bitext` has short phrases of everyday things, each
in two languages, and no images. A record depends on (split, seed, index), never on the units.
"""

import itertools
import zlib
from collections.abc import Iterator
from functools import lru_cache
from random import Random

from tf_mural.data.records import Record
from tf_mural.datasets.scenes.drawing import picture
from tf_mural.datasets.scenes.grammar import GRAMMARS
from tf_mural.datasets.scenes.scene import draw_phrase, draw_scenes
from tf_mural.errors import UserError, lookup

COUNTS = {"train": 6_000, "bitext": 40_000, "test": 512}
SPLITS = tuple(COUNTS)
AUGMENTATIONS = ("crop",)  # captions say left and right
LANGUAGES = tuple(GRAMMARS)
TRAINED_LANGUAGES = ("en", "de", "fr", "cs", "zh", "ja")
TRANSLATED_ONE_IN = 4


def plan(
    raw_dir: str | None, split: str, seed: int = 0, count: int | None = None, units: int = 4
) -> list[dict]:
    """Units of about equal length, as plain data for `read`; `raw_dir` is not looked at.

    Raises UserError on an unknown split, and on a number of records or units that cannot be had.
    """
    usual = lookup(COUNTS, split, "split")
    count = usual if count is None else count
    if count < 0 or units < 1:
        raise UserError(
            f"scenes/{split}: expected count >= 0 and units >= 1, got count={count}, units={units}"
        )
    if split != "bitext":
        draw_scenes(split, count, seed)  # refuses a count above what there is, before any work
    cuts = [count * i // units for i in range(units + 1)]
    whole = {"split": split, "seed": seed, "count": count}
    return [{**whole, "start": a, "stop": b} for a, b in itertools.pairwise(cuts)]


def read(unit: dict) -> Iterator[Record]:
    """The records of one unit, in order."""
    split, seed, numbers = unit["split"], unit["seed"], range(unit["start"], unit["stop"])
    if split == "bitext":
        for index in numbers:
            yield _phrase_record(seed, index)
        return
    scenes = draw_scenes(split, unit["count"], seed)
    for index in numbers:
        yield _scene_record(split, seed, index, scenes[index])


def is_translated(seed: int, index: int) -> bool:
    """Whether a training scene has captions in all of `TRAINED_LANGUAGES`, or in English alone."""
    return zlib.crc32(f"translated/{seed}/{index}".encode()) % TRANSLATED_ONE_IN == 0


def _scene_record(split, seed, index, scene):
    if split == "test":
        languages = LANGUAGES
    else:
        languages = TRAINED_LANGUAGES if is_translated(seed, index) else ("en",)
    name = f"scenes/{split}/{index:06d}"
    return Record(
        id=name,
        images=(picture(scene, Random(f"{name}/{seed}")),),
        texts=tuple((language, GRAMMARS[language].describe(scene)) for language in languages),
    )


def _phrase_record(seed, index):
    name = f"scenes/bitext/{index:06d}"
    rng = Random(f"{name}/{seed}")
    phrase, as_sentence = draw_phrase(rng), rng.random() < 0.5
    texts = []
    for language in language_pair(seed, index):
        grammar = GRAMMARS[language]
        text = grammar.phrase(phrase)
        texts.append((language, grammar.sentence(text) if as_sentence else text))
    return Record(id=name, texts=tuple(texts))


def language_pair(seed: int, index: int) -> tuple[str, str]:
    """The two languages of a bitext record: every 66 records in a row hold every pair once."""
    block, place = divmod(index, len(LANGUAGES) * (len(LANGUAGES) - 1) // 2)
    return _shuffled_pairs(seed, block)[place]


@lru_cache(maxsize=4)
def _shuffled_pairs(seed, block):
    rng = Random(f"scenes/bitext/languages/{seed}/{block}")
    pairs = [
        pair if rng.random() < 0.5 else pair[::-1] for pair in itertools.combinations(LANGUAGES, 2)
    ]
    return sorted(pairs, key=lambda _: rng.random())
