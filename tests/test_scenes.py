import io
import itertools
import pickle
import random
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from helpers import scene_sentences
from PIL import Image

from tf_mural.datasets import scenes
from tf_mural.datasets.scenes import drawing
from tf_mural.datasets.scenes import scene as scene_module
from tf_mural.datasets.scenes.grammar import GRAMMARS
from tf_mural.datasets.scenes.scene import Phrase, Scene, SceneObject
from tf_mural.errors import UserError


def _parse_object(words):
    *adjectives, noun = words.split()
    attributes = {"size" if w in scene_module.SIZES else "color": w for w in adjectives}
    assert noun in scene_module.NOUNS
    assert attributes.get("color", "red") in scene_module.COLORS
    return SceneObject(noun, **attributes)


def _parse_phrase(text):
    """Returns the `Phrase` or `Scene` of a text such as those of `scene_sentences.SCENES`."""
    first, *remaining = text.split(", ")
    if not remaining:
        return Phrase(_parse_object(first))
    link, second, *background = remaining
    phrase_class = Scene if background else Phrase
    return phrase_class(_parse_object(first), link, _parse_object(second), *background)


def _records(split, **options):
    return [record for unit in scenes.plan(None, split, **options) for record in scenes.read(unit)]


@pytest.fixture(scope="module")
def bitext():
    return _records("bitext")


# --- sentences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", GRAMMARS)
def test_captions_equal_those_written_by_hand(language):
    captions = tuple(
        GRAMMARS[language].caption(_parse_phrase(text)) for text in scene_sentences.SCENES
    )
    assert captions == scene_sentences.CAPTIONS[language]


@pytest.mark.parametrize("language", GRAMMARS)
def test_phrases_equal_those_written_by_hand(language):
    phrases = scene_sentences.PHRASES[language]
    assert {text: GRAMMARS[language].phrase(_parse_phrase(text)) for text in phrases} == phrases


def test_the_sentences_by_hand_cover_all_words_with_twenty_per_language():
    words = " ".join(scene_sentences.SCENES)
    expected = scene_module.SHAPES + scene_module.COLORS + scene_module.SIZES
    for word in expected + scene_module.RELATIONS + scene_module.BACKGROUNDS:
        assert word in words
    assert set(scene_sentences.CAPTIONS) == set(scene_sentences.PHRASES) == set(scenes.LANGUAGES)
    for language in scenes.LANGUAGES:
        assert (
            len(scene_sentences.CAPTIONS[language]) + len(scene_sentences.PHRASES[language]) >= 20
        )
        assert len(scene_sentences.PHRASES[language]) >= 6


def _all_phrases(language):
    """Yields phrases that combine every object of a language with every position and every link."""
    grammar, other = GRAMMARS[language], SceneObject("dog")
    for noun in scene_module.NOUNS:
        for size in (None, *scene_module.SIZES):
            for color in (None, *scene_module.COLORS):
                obj = SceneObject(noun, size, color)
                yield grammar.phrase(Phrase(obj))
                for link in scene_module.LINKS if obj != other else ():
                    yield grammar.phrase(Phrase(obj, link, other))
                    yield grammar.phrase(Phrase(other, link, obj))


# A legacy encoding contains only the characters of one country. Legacy encodings can therefore
# distinguish simplified Chinese from Japanese, which share Unicode blocks.
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
def test_texts_contain_only_letters_of_their_language(language):
    texts = list(_all_phrases(language))
    grammar = GRAMMARS[language]
    captions = [grammar.caption(_parse_phrase(text)) for text in scene_sentences.SCENES]
    for text in texts:
        assert re.fullmatch(f"[ {LETTERS[language]}]+", text.lower()), text
        assert text == unicodedata.normalize("NFC", " ".join(text.split()))
        text.encode(ENCODINGS.get(language, "utf-8"))
    for text in captions:
        assert text.endswith("。" if language in ("zh", "ja") else ".")
        assert text[0].upper() == text[0]


def test_different_phrases_have_different_texts():
    for language in GRAMMARS:
        texts = list(_all_phrases(language))
        assert len(set(texts)) == len(texts), language


# --- records --------------------------------------------------------------------------------------


def test_records_depend_on_the_seed_but_not_on_the_units():
    for split in scenes.SPLITS:
        records = _records(split, count=50, units=1)
        assert records == _records(split, count=50, units=7)
        assert records != _records(split, count=50, units=1, seed=1)
        assert [record.id for record in records[:2]] == [
            f"scenes/{split}/{i:06d}" for i in range(2)
        ]


def test_units_are_plain_data():
    units = scenes.plan(None, "test", count=10, units=3)
    assert pickle.loads(pickle.dumps(units)) == units and len(units) == 3
    assert len(_records("test", count=0)) == 0


def test_each_split_has_its_images_and_languages():
    for record in _records("train", count=40):
        languages = tuple(language for language, _ in record.texts)
        assert languages in (("en",), ("en", "de", "fr", "cs", "zh", "ja"))
        assert len(record.images) == 1
    for record in _records("test", count=5):
        assert tuple(language for language, _ in record.texts) == scenes.LANGUAGES
        assert len(record.images) == 1
    for record in _records("bitext", count=40):
        assert len(record.texts) == 2 and record.images == ()


def test_a_quarter_of_each_part_of_the_training_scenes_is_translated():
    translated = np.array([scenes.is_translated(0, i) for i in range(6000)])
    for part in np.split(translated, 4):
        assert 0.21 < part.mean() < 0.29


def test_no_test_pair_occurs_in_training_for_any_seeds():
    def pairs(split, count):
        scenes_of_seeds = (scene_module.sample_scenes(split, count, seed) for seed in (0, 1))
        return set(map(scene_module.object_pair, itertools.chain(*scenes_of_seeds)))

    train_pairs, test_pairs = pairs("train", 6000), pairs("test", 512)
    assert len(test_pairs) > 200 and not train_pairs & test_pairs
    # Each combination of color and shape occurs in training.
    assert len({obj for pair in train_pairs for obj in pair}) == 64
    assert 0.15 < len(scene_module.object_pairs("test")) / (64 * 49 / 2) < 0.25


def test_the_shapes_of_a_scene_differ_and_no_scene_occurs_twice():
    sampled = scene_module.sample_scenes("test", 512, 0)
    for s in sampled:
        assert s.first.noun != s.second.noun and s.first.color != s.second.color
    mirrored = {
        Scene(s.second, scene_module.OPPOSITE[s.link], s.first, s.background) for s in sampled
    }
    assert len(set(sampled)) == 512 and not mirrored & set(sampled)
    for language in GRAMMARS:
        assert len({GRAMMARS[language].caption(s) for s in sampled}) == 512
    for name in ("link", "background"):
        assert max(Counter(getattr(s, name) for s in sampled).values()) < 512 * 0.35


def test_impossible_splits_and_counts_are_refused():
    with pytest.raises(UserError, match="did you mean 'train'"):
        scenes.plan(None, "trian")
    with pytest.raises(UserError, match="scenes/test: expected a count from 0 to .* got 1000000"):
        scenes.plan(None, "test", count=1_000_000)
    with pytest.raises(UserError, match="units=0"):
        scenes.plan(None, "bitext", units=0)


# --- bitext ---------------------------------------------------------------------------------------


def test_bitext_covers_all_pairs_of_languages_evenly(bitext):
    counts = Counter(frozenset(language for language, _ in record.texts) for record in bitext)
    assert set(counts) == set(map(frozenset, itertools.combinations(scenes.LANGUAGES, 2)))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_at_most_two_percent_of_a_bitext_batch_share_a_text(bitext):
    rng, fractions = random.Random(0), []
    for _ in range(20):
        batch = rng.sample(bitext, 256)
        counts = Counter(text for record in batch for text in record.texts)
        repeated = (any(counts[text] > 1 for text in record.texts) for record in batch)
        fractions.append(sum(repeated) / 256)
    assert max(fractions) <= 0.02


def _words(text):
    return re.findall(r"[^\W\d_]+", text)


@pytest.mark.parametrize("language", GRAMMARS)
def test_bitext_has_every_word_of_the_captions_except_backgrounds(language, bitext):
    # Characters are compared in Chinese and Japanese, which do not separate words by spaces.
    split = list if language in ("zh", "ja") else _words
    grammar = GRAMMARS[language]
    bitext_words = {
        word
        for record in bitext
        for code, text in record.texts
        if code == language
        for word in split(text)
    }
    background = " ".join((grammar.caption_template, *grammar.backgrounds.values()))
    bitext_words |= set(split(background)) | set(split(background.title()))
    for scene in scene_module.sample_scenes("test", 512, 0):
        assert bitext_words.issuperset(split(grammar.caption(scene)))


def test_a_phrase_has_at_most_one_shape():
    rng = random.Random(0)
    phrases = [scene_module.sample_phrase(rng) for _ in range(2000)]
    shape_counts = [
        sum(obj is not None and obj.noun in scene_module.SHAPES for obj in (p.first, p.second))
        for p in phrases
    ]
    assert set(shape_counts) == {0, 1}
    assert {p.link for p in phrases} == {None, *scene_module.LINKS}


# --- images ---------------------------------------------------------------------------------------


def _arranged_scenes(count=300):
    """Yields (scene, placements, random generator)."""
    for i, scene in enumerate(scene_module.sample_scenes("train", count, 3)):
        rng = random.Random(i)
        yield scene, drawing.arrange(scene, rng), rng


def test_relations_hold_and_shapes_neither_overlap_nor_leave_a_crop():
    for scene, (first, second), _ in _arranged_scenes():
        right, down = second.x - first.x, second.y - first.y
        along, across = {
            "left of": (right, down),
            "right of": (-right, down),
            "above": (down, right),
            "below": (-down, right),
        }[scene.link]
        assert along > first.radius + second.radius and along > 2 * abs(across)
        for placement, obj in ((first, scene.first), (second, scene.second)):
            # A random crop of 64 pixels starts at one of the pixels 0 to 8.
            for center in (placement.x, placement.y):
                assert 8 <= center - placement.radius and center + placement.radius <= 64
            assert (placement.radius > 11) if obj.size == "big" else (placement.radius < 7.5)


def _center_of_color(pixels, color):
    """Returns the mean (x, y) of the pixels that are close to a color."""
    distance = np.abs(pixels.astype(int) - drawing.COLORS[color]).max(-1)
    y, x = np.nonzero(distance <= drawing.COLOR_JITTER + 4)
    assert len(x) > 15
    return x.mean(), y.mean()


def test_the_colors_of_an_image_are_where_its_caption_says():
    for scene, placements, rng in _arranged_scenes(150):
        png = drawing.render(scene, placements, rng)
        image = Image.open(io.BytesIO(png))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (72, 72))
        pixels = np.asarray(image)
        (x1, y1), (x2, y2) = (
            _center_of_color(pixels, obj.color) for obj in (scene.first, scene.second)
        )
        gap = {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}
        assert gap[scene.link] > 8
        # The border, which a crop may cut off, has no colored pixels.
        border = np.ones((72, 72), bool)
        border[8:64, 8:64] = False
        gray = pixels[border].astype(int)
        assert (gray.max(-1) == gray.min(-1)).all() and 110 < gray.min() and gray.max() < 200


def test_big_shapes_have_more_than_twice_the_area_of_small_ones():
    for noun in scene_module.SHAPES:
        areas = {}
        for size in scene_module.SIZES:
            other = SceneObject("square" if noun != "square" else "circle", "small", "blue")
            scene = Scene(SceneObject(noun, size, "red"), "left of", other, "plain")
            png = drawing.draw_scene(scene, random.Random(0))
            pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
            areas[size] = (pixels[..., 0] - pixels[..., 2] > 100).sum()
        assert areas["big"] > 2 * areas["small"] > 40


def test_every_shape_and_background_looks_different():
    def pixels(noun, background):
        scene = Scene(
            SceneObject(noun, "big", "red"),
            "above",
            SceneObject("star", "small", "blue"),
            background,
        )
        placements = (drawing.Placement(36, 24, 12.0), drawing.Placement(36, 54, 6.0))
        png = drawing.render(scene, placements, random.Random(0))
        return np.asarray(Image.open(io.BytesIO(png))).astype(int)

    shapes = [pixels(noun, "plain") for noun in scene_module.SHAPES]
    backgrounds = [pixels("circle", background) for background in scene_module.BACKGROUNDS]
    for images in (shapes, backgrounds):
        for first, second in itertools.combinations(images, 2):
            assert (np.abs(first - second).max(-1) > 20).sum() > 40


def test_the_only_augmentation_is_cropping():
    assert scenes.AUGMENTATIONS == ("crop",)
