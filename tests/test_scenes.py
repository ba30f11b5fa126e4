import io
import itertools
import pickle
import random
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
import scenes_sentences as by_hand
from PIL import Image

from tf_mural.datasets import scenes
from tf_mural.datasets.scenes import drawing
from tf_mural.datasets.scenes import scene as meaning
from tf_mural.datasets.scenes.grammar import GRAMMARS
from tf_mural.datasets.scenes.scene import Phrase, Scene, Thing
from tf_mural.errors import UserError


def _thing(words):
    *adjectives, noun = words.split()
    said = {"size" if word in meaning.SIZES else "colour": word for word in adjectives}
    assert noun in meaning.NOUNS and said.get("colour", "red") in meaning.COLOURS
    return Thing(noun, **said)


def _meaning(text):
    first, *rest = text.split(", ")
    if not rest:
        return Phrase(_thing(first))
    link, second, *background = rest
    kind = Scene if background else Phrase
    return kind(_thing(first), link, _thing(second), *background)


def _records(split, **options):
    return [record for unit in scenes.plan(None, split, **options) for record in scenes.read(unit)]


@pytest.fixture(scope="module")
def bitext():
    return _records("bitext")


# ---- What is said


@pytest.mark.parametrize("language", GRAMMARS)
def test_captions_are_those_written_by_hand(language):
    said = tuple(GRAMMARS[language].describe(_meaning(text)) for text in by_hand.SCENES)
    assert said == by_hand.CAPTIONS[language]


@pytest.mark.parametrize("language", GRAMMARS)
def test_phrases_are_those_written_by_hand(language):
    phrases = by_hand.PHRASES[language]
    assert {text: GRAMMARS[language].phrase(_meaning(text)) for text in phrases} == phrases


def test_the_sentences_by_hand_are_twenty_a_language_and_show_everything():
    words = " ".join(by_hand.SCENES)
    everything = meaning.SHAPES + meaning.COLOURS + meaning.SIZES
    for word in everything + meaning.RELATIONS + meaning.BACKGROUNDS:
        assert word in words
    assert set(by_hand.CAPTIONS) == set(by_hand.PHRASES) == set(scenes.LANGUAGES)
    for language in scenes.LANGUAGES:
        assert len(by_hand.CAPTIONS[language]) + len(by_hand.PHRASES[language]) >= 20
        assert len(by_hand.PHRASES[language]) >= 6


def _everything_said(language):
    """Every thing a language can name, in every place of every phrase."""
    grammar, other = GRAMMARS[language], Thing("dog")
    for noun in meaning.NOUNS:
        for size in (None, *meaning.SIZES):
            for colour in (None, *meaning.COLOURS):
                thing = Thing(noun, size, colour)
                yield grammar.phrase(Phrase(thing))
                for link in meaning.LINKS if thing != other else ():
                    yield grammar.phrase(Phrase(thing, link, other))
                    yield grammar.phrase(Phrase(other, link, thing))


# The old encodings hold the characters of one country: they tell simplified Chinese from Japanese,
# which blocks of Unicode do not.
ENCODINGS = {"zh": "gb2312", "ja": "euc_jp", "ko": "euc_kr"}
LETTERS = {
    "en": "a-z",
    "de": "a-zäöüß",
    "fr": "a-zàâçéèêëîïôûùœ'\\-",
    "cs": "a-záčďéěíňóřšťúůýž",
    "zh": "\u4e00-\u9fff",
    "ja": "\u3041-\u309f\u30a1-\u30ff\u4e00-\u9fff",
    "ko": "\uac00-\ud7a3",
    "it": "a-z'",
    "es": "a-záéíóúñ",
    "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя'",
    "tr": "abcçdefgğhıijklmnoöprsştuüvyz",
    "sw": "a-z",
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_only_letters_of_the_language(language):
    texts = list(_everything_said(language))
    grammar = GRAMMARS[language]
    captions = [grammar.describe(_meaning(text)) for text in by_hand.SCENES]
    for text in texts:
        assert re.fullmatch(f"[ {LETTERS[language]}]+", text.lower()), text
        assert text == unicodedata.normalize("NFC", " ".join(text.split()))
        text.encode(ENCODINGS.get(language, "utf-8"))
    for text in captions:
        assert text.endswith("。" if language in ("zh", "ja") else ".")
        assert text[0].upper() == text[0]


def test_different_meanings_are_different_texts():
    for language in GRAMMARS:
        texts = list(_everything_said(language))
        assert len(set(texts)) == len(texts), language


# ---- The records


def test_records_depend_on_the_seed_and_not_on_the_units():
    for split in scenes.SPLITS:
        once = _records(split, count=50, units=1)
        assert once == _records(split, count=50, units=7)
        assert once != _records(split, count=50, units=1, seed=1)
        assert [record.id for record in once[:2]] == [f"scenes/{split}/{i:06d}" for i in range(2)]


def test_units_are_plain_data():
    units = scenes.plan(None, "test", count=10, units=3)
    assert pickle.loads(pickle.dumps(units)) == units and len(units) == 3
    assert len(_records("test", count=0)) == 0


def test_fields_of_each_split():
    for record in _records("train", count=40):
        languages = tuple(language for language, _ in record.texts)
        assert languages in (("en",), ("en", "de", "fr", "cs", "zh", "ja"))
        assert len(record.images) == 1
    for record in _records("test", count=5):
        assert tuple(language for language, _ in record.texts) == scenes.LANGUAGES
        assert len(record.images) == 1
    for record in _records("bitext", count=40):
        assert len(record.texts) == 2 and record.images == ()


def test_a_quarter_of_the_training_scenes_is_translated_all_along():
    translated = np.array([scenes.is_translated(0, i) for i in range(6000)])
    for part in np.split(translated, 4):
        assert 0.21 < part.mean() < 0.29


def test_no_pair_of_the_test_is_ever_trained_on_whatever_the_seeds():
    trained = {
        meaning.pair_of(s) for seed in (0, 1) for s in meaning.draw_scenes("train", 6000, seed)
    }
    tested = {meaning.pair_of(s) for seed in (0, 1) for s in meaning.draw_scenes("test", 512, seed)}
    assert len(tested) > 200 and not trained & tested
    # Yet each coloured shape by itself has been seen.
    assert len({look for pair in trained for look in pair}) == 64
    assert 0.15 < len(meaning.pairs("test")) / (64 * 49 / 2) < 0.25


def test_the_two_shapes_of_a_scene_differ_and_every_scene_is_told_once():
    drawn = meaning.draw_scenes("test", 512, 0)
    for s in drawn:
        assert s.first.noun != s.second.noun and s.first.colour != s.second.colour
    mirrored = {Scene(s.second, meaning.OPPOSITE[s.link], s.first, s.background) for s in drawn}
    assert len(set(drawn)) == 512 and not mirrored & set(drawn)
    for language in GRAMMARS:
        assert len({GRAMMARS[language].describe(s) for s in drawn}) == 512
    for values in ("link", "background"):
        assert max(Counter(getattr(s, values) for s in drawn).values()) < 512 * 0.35


def test_asking_for_what_there_is_not():
    with pytest.raises(UserError, match="did you mean 'train'"):
        scenes.plan(None, "trian")
    with pytest.raises(UserError, match="scenes/test: 1000000 scenes asked for, expected 0 to"):
        scenes.plan(None, "test", count=1_000_000)
    with pytest.raises(UserError, match="units=0"):
        scenes.plan(None, "bitext", units=0)


# ---- The bitext


def test_bitext_covers_all_pairs_of_languages_evenly(bitext):
    counts = Counter(frozenset(language for language, _ in record.texts) for record in bitext)
    assert set(counts) == set(map(frozenset, itertools.combinations(scenes.LANGUAGES, 2)))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_bitext_rows_of_a_batch_hardly_share_a_text(bitext):
    rng, shares = random.Random(0), []
    for _ in range(20):
        rows = rng.sample(bitext, 256)
        seen = Counter(text for row in rows for text in row.texts)
        shares.append(sum(any(seen[text] > 1 for text in row.texts) for row in rows) / 256)
    assert max(shares) <= 0.02


def _words(text):
    return re.findall(r"[^\W\d_]+", text)


@pytest.mark.parametrize("language", GRAMMARS)
def test_bitext_has_every_word_of_the_captions_but_those_of_the_background(language, bitext):
    # Chinese and Japanese put no spaces between words: there it is every character.
    split = list if language in ("zh", "ja") else _words
    grammar = GRAMMARS[language]
    known = {
        word
        for record in bitext
        for code, text in record.texts
        if code == language
        for word in split(text)
    }
    background = " ".join((grammar.caption, *grammar.backgrounds.values()))
    known |= set(split(background)) | set(split(background.title()))
    for scene in meaning.draw_scenes("test", 512, 0):
        assert known.issuperset(split(grammar.describe(scene)))


def test_a_phrase_has_one_shape_at_most():
    rng = random.Random(0)
    phrases = [meaning.draw_phrase(rng) for _ in range(2000)]
    shapes = [
        sum(thing is not None and thing.noun in meaning.SHAPES for thing in (p.first, p.second))
        for p in phrases
    ]
    assert set(shapes) == {0, 1}
    assert {p.link for p in phrases} == {None, *meaning.LINKS}


# ---- The pictures


def _scenes_and_places(count=300):
    for i, scene in enumerate(meaning.draw_scenes("train", count, 3)):
        rng = random.Random(i)
        yield scene, drawing.arrange(scene, rng), rng


def test_relations_hold_and_nothing_overlaps_or_leaves_a_crop():
    for scene, (first, second), _ in _scenes_and_places():
        right, down = second.x - first.x, second.y - first.y
        along, across = {
            "left of": (right, down),
            "right of": (-right, down),
            "above": (down, right),
            "below": (-down, right),
        }[scene.link]
        assert along > first.radius + second.radius and along > 2 * abs(across)
        for place, thing in ((first, scene.first), (second, scene.second)):
            # The 64 pixels that a crop keeps begin at 0 to 8.
            for at in (place.x, place.y):
                assert 8 <= at - place.radius and at + place.radius <= 64
            assert (place.radius > 11) if thing.size == "big" else (place.radius < 7.5)


def _middle(pixels, colour):
    """The mean (x, y) of the pixels that are nearly of a colour."""
    distance = np.abs(pixels.astype(int) - drawing.COLOURS[colour]).max(-1)
    y, x = np.nonzero(distance <= drawing.SHADE_JITTER + 4)
    assert len(x) > 15
    return x.mean(), y.mean()


def test_pixels_lie_where_the_caption_says():
    for scene, places, rng in _scenes_and_places(150):
        png = drawing.draw(scene, places, rng)
        image = Image.open(io.BytesIO(png))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (72, 72))
        pixels = np.asarray(image)
        (x1, y1), (x2, y2) = (_middle(pixels, t.colour) for t in (scene.first, scene.second))
        gap = {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}
        assert gap[scene.link] > 8
        # Whatever the crop, nothing but background is cut off: the border is grey.
        border = np.ones((72, 72), bool)
        border[8:64, 8:64] = False
        grey = pixels[border].astype(int)
        assert (grey.max(-1) == grey.min(-1)).all() and 110 < grey.min() and grey.max() < 200


def test_big_things_cover_more_than_twice_as_much_as_small_ones():
    for noun in meaning.SHAPES:
        covered = {}
        for size in meaning.SIZES:
            other = Thing("square" if noun != "square" else "circle", "small", "blue")
            scene = Scene(Thing(noun, size, "red"), "left of", other, "plain")
            png = drawing.picture(scene, random.Random(0))
            pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
            covered[size] = (pixels[..., 0] - pixels[..., 2] > 100).sum()
        assert covered["big"] > 2 * covered["small"] > 40


def test_every_shape_and_background_looks_different():
    def pixels(noun, background):
        scene = Scene(
            Thing(noun, "big", "red"), "above", Thing("star", "small", "blue"), background
        )
        places = (drawing.Place(36, 24, 12.0), drawing.Place(36, 54, 6.0))
        png = drawing.draw(scene, places, random.Random(0))
        return np.asarray(Image.open(io.BytesIO(png))).astype(int)

    shapes = [pixels(noun, "plain") for noun in meaning.SHAPES]
    grounds = [pixels("circle", background) for background in meaning.BACKGROUNDS]
    for pictures in (shapes, grounds):
        for one, other in itertools.combinations(pictures, 2):
            assert (np.abs(one - other).max(-1) > 20).sum() > 40


def test_only_crops_are_allowed():
    assert scenes.AUGMENTATIONS == ("crop",)
