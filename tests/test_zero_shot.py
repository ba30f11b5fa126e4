"""The zero-shot classification task, its class embeddings and their cache."""

import json
import os
import re

import numpy as np
import pytest
from conftest import ROOT
from helpers.datasets import convert
from helpers.embedders import AxisEmbedder, rejecting_embed

from tf_mural.data.records import Record, RecordSet
from tf_mural.errors import UserError
from tf_mural.evaluation import zero_shot
from tf_mural.evaluation.prompts import FilledTemplates, Prompts, combine, files

CLASSES = os.path.join(ROOT, "..", "shared", "data", "inputs", "13_classes")
RESULTS = os.path.join(ROOT, "..", "shared", "paper", "results.json")


class RandomEmbedder:
    """Embeds each item as a random unit vector that depends only on the bytes of the item."""

    def embed_images(self, encoded):
        return self._rows(encoded)

    def embed_texts(self, texts):
        return self._rows(text.encode() for text in texts)

    def _rows(self, items):
        rows = [np.random.default_rng(list(item)).normal(size=8) for item in items]
        rows = np.array(rows, np.float32).reshape(-1, 8)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class CollapsedEmbedder(AxisEmbedder):
    """Embeds all items as the same vector."""

    def _rows(self, numbers):
        return np.full((len(list(numbers)), 4), 0.5, np.float32)


def records(labels, images=None):
    images = labels if images is None else images
    pairs = enumerate(zip(labels, images, strict=True))
    return [Record(f"r{i}", (b"%d" % image,), label=label) for i, (label, image) in pairs]


def prompts_for(names, *templates):
    return FilledTemplates([str(name) for name in names], templates or ["a {}."])


def test_correct_names_score_100_and_wrong_names_score_0():
    # In German, each class has the name of the next class.
    prompts = {
        "en": prompts_for(range(10), "a {}.", "the {}."),
        "de": prompts_for([*range(1, 10), 0]),
    }
    embedder = AxisEmbedder()
    result = zero_shot.run(embedder, records([0, 3, 3, 9]), prompts)
    assert (result.task, result.protocol) == ("zero_shot", "zero_shot/v1")
    assert result.values == {
        # Every wrong class scores at least as high as the correct class.
        "de": {"top1": 0.0, "top5": 0.0, "chance": 10.0},
        "en": {"top1": 100.0, "top5": 100.0, "chance": 10.0},
        "groups": {},
    }
    assert result.intervals["en"] == {"top1": (100.0, 100.0), "top5": (100.0, 100.0)}
    assert embedder.images_seen == [b"0", b"3", b"3", b"9"]  # each image once for both languages
    assert result.counts["images"] == 4
    assert result.counts["languages"]["en"] == {
        "classes": 10,
        "missing_classes": 0,
        "prompts": 20,
        "repeated_prompts": 0,
        "identical_classes": 0,
        "images": 4,
    }


def test_accuracy_is_the_share_of_correct_images():
    # 3 of 12 images are embedded as another class.
    labels = list(range(12))
    images = [1, 0, 3, *range(3, 12)]
    result = zero_shot.run(AxisEmbedder(), records(labels, images), {"en": prompts_for(labels)})
    assert result.values["en"]["top1"] == 75.0
    low, high = result.intervals["en"]["top1"]
    assert low < 75.0 < high
    again = zero_shot.run(AxisEmbedder(), records(labels, images), {"en": prompts_for(labels)})
    assert again.intervals == result.intervals


def test_accuracies_equal_a_naive_implementation():
    names = [[f"name {label}", f"other {label}"] for label in range(9)]
    templates = [f"{word} {{}}" for word in "abcde"]
    numbers = np.random.default_rng(0).integers(9, size=40)
    images = [Record(f"r{i}", (b"%d" % i,), label=int(label)) for i, label in enumerate(numbers)]
    embedder, hits = RandomEmbedder(), {1: 0, 5: 0}
    for record in images:
        image, scores = embedder.embed_images(record.images)[0].astype(np.float64), []
        for class_names in names:
            total = np.zeros(8)
            for name in class_names:
                for template in templates:
                    total += embedder.embed_texts([template.replace("{}", name)])[0]
            scores.append(image @ (total / 10) / np.linalg.norm(total / 10))
        rank = sorted(scores, reverse=True).index(scores[record.label])
        for k in hits:
            hits[k] += rank < k
    values = zero_shot.run(embedder, images, {"xx": FilledTemplates(names, templates)}).values["xx"]
    assert values["top1"] == 100 * hits[1] / 40 and values["top5"] == 100 * hits[5] / 40
    assert 0 < hits[1] < hits[5] < 40


def test_a_class_is_the_normalized_mean_of_all_its_prompts_with_repetitions():
    class PlaneEmbedder:
        def embed_images(self, encoded):
            return np.array([[0.8, 0.6]] * len(list(encoded)), np.float32)

        def embed_texts(self, texts):
            return np.array([[1, 0] if "x" in text else [0, 1] for text in texts], np.float32)

    # The classes have the directions (2, 1) and (1, 2); the image (0.8, 0.6) is nearer to (2, 1).
    # Without the repeated prompts, both classes would have the direction (1, 1).
    prompts = [["x", "x", "y"], ["x", "y", "y"]]
    assert (
        zero_shot.run(PlaneEmbedder(), records([0]), {"en": prompts}).values["en"]["top1"] == 100.0
    )
    # The image has the cosine 0.8 with class 0, (1, 0), and 0.99 with class 1, (1, 1) / sqrt(2).
    # If the mean of class 1 were not normalized, its score would be 0.7.
    prompts = [["x"], ["x", "y"]]
    assert (
        zero_shot.run(PlaneEmbedder(), records([1]), {"en": prompts}).values["en"]["top1"] == 100.0
    )
    prompts = {"en": [["x", "x", "y"], ["x", "y", "y"]]}
    result = zero_shot.run(PlaneEmbedder(), records([0]), prompts)
    assert result.counts["languages"]["en"]["repeated_prompts"] == 2
    assert "top5" not in result.values["en"]  # there are only two classes


def test_a_collapsed_encoder_scores_zero():
    values = zero_shot.run(
        CollapsedEmbedder(), records(range(8)), {"en": prompts_for(range(8))}
    ).values["en"]
    assert values == {"top1": 0.0, "top5": 0.0, "chance": 12.5}


def test_classes_with_identical_prompts_are_misses_and_counted():
    prompts = {"en": prompts_for([0, 1, 2, 2, 4, 5, 6])}
    result = zero_shot.run(AxisEmbedder(), records([0, 2, 3, 4], [0, 2, 2, 4]), prompts)
    assert result.values["en"]["top1"] == 50.0 and result.values["en"]["top5"] == 100.0
    assert result.counts["languages"]["en"]["identical_classes"] == 2


def test_two_classes_of_one_name_stay_two_classes(tmp_path):
    if not os.path.exists(CLASSES):
        pytest.skip(f"no folder {os.path.normpath(CLASSES)}")
    raw = os.path.join(CLASSES, "cifar-100-binary")
    manifest = convert("cifar100", raw, tmp_path, "test")
    test_set = list(RecordSet.open(tmp_path / "test"))
    classes = ["bat, an animal", "bat, for a ball game", "owl", "kettle"]
    assert manifest["classes"] == classes and len(test_set) == 12
    label_of_image = {record.images[0]: record.label for record in test_set}
    words = ["bat|Fledermaus", "bat|Schläger", "owl|Eule", "kettle|Kessel"]

    class Oracle:
        """Embeds an image as its class, and a text as the mean of all classes that it names."""

        def embed_images(self, encoded):
            return np.eye(4, dtype=np.float32)[[label_of_image[image] for image in encoded]]

        def embed_texts(self, texts):
            rows = np.array([[bool(re.search(word, t)) for word in words] for t in texts])
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    prompts = files.read(os.path.join(CLASSES, "prompts"), manifest["classes"], "cifar100")
    result = zero_shot.run(Oracle(), test_set, prompts)
    assert result.protocol == "zero_shot/v1"
    assert {code: result.values[code]["top1"] for code in ("en", "de")} == {"en": 50, "de": 100}
    counts = result.counts["languages"]
    assert {code: counts[code]["identical_classes"] for code in counts} == {"en": 2, "de": 0}
    assert all(counts[code]["classes"] == 4 for code in counts)


def test_one_image_of_one_class_is_a_hit():
    result = zero_shot.run(AxisEmbedder(), records([0]), {"en": prompts_for([0])})
    assert result.values["en"] == {"top1": 100.0, "chance": 100.0}


def test_classes_without_a_name_are_left_out_with_their_images():
    prompts = combine({"en": list("0123456"), "sw": [*"0123", "", None, "6"]}, {"en": ["a {}"]})
    assert prompts.lacking == {"sw": "templates"}
    names = {"en": list("0123456"), "sw": [*"0123", "", None, "6"]}
    prompts = combine(names, {"en": ["a {}"], "sw": ["{} b"], "ga": ["{}"]})
    images = records([0, 4, 5, 6, 1], [0, 4, 5, 6, 2])
    groups = {"partial": ["en", "sw"], "complete": ["en"], "missing": ["en", "fr"]}
    result = zero_shot.run(AxisEmbedder(), images, prompts, groups=groups)
    assert result.values["en"]["top1"] == 80.0
    assert result.values["sw"]["top1"] == pytest.approx(200 / 3)
    assert result.values["sw"]["chance"] == 20.0
    sw = result.counts["languages"]["sw"]
    assert (sw["classes"], sw["missing_classes"], sw["images"], sw["prompts"]) == (5, 2, 3, 5)
    assert result.counts["lacking"] == {"ga": "names of classes"}
    # A group has no mean if some of its languages lack classes.
    assert list(result.values["groups"]) == ["complete"]
    assert result.values["groups"]["complete"] == {"top1": 80.0, "top5": 80.0}
    assert result.counts["groups"] == {
        "partial": {"languages": 2, "missing": [], "partial": ["sw"]},
        "complete": {"languages": 1, "missing": [], "partial": []},
        "missing": {"languages": 2, "missing": ["fr"], "partial": []},
    }


def test_a_group_is_the_mean_of_its_languages_with_an_interval_over_images():
    # English is correct for all 8 images and German for none, so the mean is 50 in every resample.
    prompts = {
        "en": prompts_for(range(8)),
        "de": prompts_for([*range(1, 8), 0]),
        "fr": prompts_for(range(8)),
    }
    groups = {"two": ["en", "de"]}
    result = zero_shot.run(AxisEmbedder(), records(range(8)), prompts, groups=groups)
    assert result.values["groups"]["two"]["top1"] == 50.0
    assert result.intervals["groups"]["two"]["top1"] == (50.0, 50.0)


@pytest.mark.skipif(not os.path.exists(RESULTS), reason="no ../shared/paper/results.json")
def test_the_groups_are_those_of_the_paper():
    with open(RESULTS, encoding="utf-8") as file:
        paper = json.load(file)
    assert zero_shot.GROUPS == paper["groups"]["zero_shot_classification"]
    assert set(zero_shot.GROUPS["all"]) == set(paper["table14"]["languages"])
    # An encoder with the accuracies of Table 14 must get the group means of Table 2.
    printed = {key: value["food101"] for key, value in paper["table14"]["languages"].items()}
    num_correct = {language: round(10 * value) for language, value in printed.items()}

    class CircleEmbedder:
        def embed_images(self, encoded):
            return _circle(int(image) for image in encoded)

        def embed_texts(self, texts):
            # The boundary between the two classes separates the images that must be classified
            # correctly from those that must be misclassified.
            pairs = [text.split() for text in texts]
            return _circle(
                num_correct[code] - 0.5 + (500 if name == "0" else -500) for code, name in pairs
            )

    def _circle(positions):
        angles = np.array([position / 2000 for position in positions])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    prompts = {code: FilledTemplates(["0", "1"], [f"{code} {{}}"]) for code in printed}
    images = [Record(f"{i}", (b"%d" % i,), label=1) for i in range(1000)]
    values = zero_shot.run(CircleEmbedder(), images, prompts).values
    assert values["en"]["top1"] == pytest.approx(74.2)
    means = paper["consistency"]["table14_group_means_recomputed"]
    for group in ("all", "well_resourced", "under_resourced"):
        assert values["groups"][group]["top1"] == pytest.approx(means[group]["food101"], abs=0.006)


def test_languages_can_be_selected():
    prompts = Prompts(
        {"en": prompts_for(range(6)), "de": prompts_for(range(6))}, {"yo": "templates"}
    )
    result = zero_shot.run(AxisEmbedder(), records([1]), prompts, languages=["de"])
    assert list(result.values) == ["de", "groups"]
    result = zero_shot.run(AxisEmbedder(), records([1]), prompts, languages=["German", "deu_Latn"])
    assert list(result.values) == ["de", "groups"]
    with pytest.raises(UserError, match=r"no prompts in yo \(yo lacks templates\); .*: de, en$"):
        zero_shot.run(AxisEmbedder(), records([1]), prompts, languages=["de", "yo"])
    with pytest.raises(UserError, match="no prompts in any language; .*: none$"):
        zero_shot.run(AxisEmbedder(), records([1]), {})


def test_class_embeddings_are_cached_by_content(tmp_path):
    prompts = {"en": prompts_for(range(6)), "de": prompts_for(range(6), "ein {}.")}
    images = records([1, 2])
    first = AxisEmbedder()
    result = zero_shot.run(first, images, prompts, cache_dir=tmp_path, model_id="a")
    assert len(first.texts_seen) == 12 and len(os.listdir(tmp_path)) == 2
    second = AxisEmbedder()
    again = zero_shot.run(second, images, prompts, cache_dir=tmp_path, model_id="a")
    assert not second.texts_seen and again == result
    other_weights, other_texts = AxisEmbedder(), AxisEmbedder()
    zero_shot.run(other_weights, images, prompts, cache_dir=tmp_path, model_id="b")
    assert len(other_weights.texts_seen) == 12
    changed = {"en": prompts_for([*range(5), "5."])}
    zero_shot.run(other_texts, images, changed, cache_dir=tmp_path, model_id="a")
    assert len(other_texts.texts_seen) == 6
    # The same strings, assigned to other classes, are embedded again.
    split = {"en": [["a 0", "a 1"], ["a 2"]]}
    zero_shot.run(AxisEmbedder(), records([0], [1]), split, cache_dir=tmp_path, model_id="a")
    split = {"en": [["a 0"], ["a 1", "a 2"]]}
    other_classes = AxisEmbedder()
    zero_shot.run(other_classes, records([0], [1]), split, cache_dir=tmp_path, model_id="a")
    assert other_classes.texts_seen
    with pytest.raises(UserError, match="needs model_id"):
        zero_shot.run(AxisEmbedder(), images, prompts, cache_dir=tmp_path)


def test_a_damaged_file_of_the_cache_is_replaced(tmp_path):
    prompts, images = {"en": prompts_for(range(6))}, records([1, 2])
    result = zero_shot.run(AxisEmbedder(), images, prompts, cache_dir=tmp_path, model_id="a")
    (path,) = tmp_path.iterdir()
    intact = path.read_bytes()
    invalid_arrays = []
    for array in (np.load(path).astype(np.float64), np.load(path)[1:], np.load(path) * np.nan):
        np.save(path, array)
        invalid_arrays.append(path.read_bytes())
    for damaged in (b"", intact[:-7], b"x" * 200, *invalid_arrays):
        path.write_bytes(damaged)
        assert (
            zero_shot.run(AxisEmbedder(), images, prompts, cache_dir=tmp_path, model_id="a")
            == result
        )
        assert path.read_bytes() == intact
    assert len(list(tmp_path.iterdir())) == 1


def test_many_prompts_are_embedded_in_chunks():
    sizes = []

    class CountingEmbedder(AxisEmbedder):
        def embed_texts(self, texts):
            sizes.append(len(texts))
            return super().embed_texts(texts)

    templates = [f"{{}} {'x' * i}" for i in range(600)]
    prompts = {"en": prompts_for(range(30), *templates)}
    assert (
        zero_shot.run(CountingEmbedder(), records(range(30)), prompts).values["en"]["top1"] == 100.0
    )
    assert len(sizes) > 1 and max(sizes) < 9000 and sum(sizes) == 18_000


def test_records_and_prompts_that_cannot_be_scored_are_rejected():
    prompts = {"en": prompts_for(range(6))}
    with pytest.raises(UserError, match="^no records: "):
        zero_shot.run(AxisEmbedder(), [], prompts)
    with pytest.raises(UserError, match="record 'a' has no label"):
        zero_shot.run(AxisEmbedder(), [Record("a", (b"0",))], prompts)
    with pytest.raises(UserError, match="record 'a' has 0 images"):
        zero_shot.run(AxisEmbedder(), [Record("a", (), label=1)], prompts)
    with pytest.raises(UserError, match="record 'r1' has label 6, .* 6 classes, from 0 to 5"):
        zero_shot.run(AxisEmbedder(), records([5, 6]), prompts)
    with pytest.raises(UserError, match="5 classes in 'de' and 6 in 'en'"):
        zero_shot.run(AxisEmbedder(), records([5]), prompts | {"de": prompts_for(range(5))})
    with pytest.raises(UserError, match="'en': no image is of a class that has a prompt"):
        zero_shot.run(AxisEmbedder(), records([1]), {"en": [["0"], []]})
    with pytest.raises(UserError, match="'en': none of the classes has a prompt"):
        zero_shot.run(AxisEmbedder(), records([1]), {"en": [[], []]})


def test_errors_of_embeddings_name_the_prompt_or_the_record():
    class NanEmbedder(AxisEmbedder):
        def _rows(self, numbers):
            rows = super()._rows(numbers)
            rows[rows[:, 3] == 1] = np.nan
            return rows

    prompts = {"en": prompts_for([0, 1, 2, 7, 3]), "de": prompts_for([0, 1, 2, 7, 7])}
    with pytest.raises(UserError, match="'en': the embedding of 'a 3.' has length nan"):
        zero_shot.run(NanEmbedder(), records([1]), prompts)
    with pytest.raises(UserError, match="record 'r1': its embedding has length nan"):
        zero_shot.run(NanEmbedder(), records([1, 2], [1, 3]), {"en": prompts["de"]})

    class ScaledEmbedder(AxisEmbedder):
        def embed_texts(self, texts):
            return 2 * super().embed_texts(texts)

    with pytest.raises(UserError, match="'en': the embedding of 'a 0.' has length 2.0"):
        zero_shot.run(ScaledEmbedder(), records([1]), {"en": prompts_for(range(6))})


def test_prompts_that_cancel_each_other_out_are_rejected():
    prompts = {"en": [["a 1", "a 2"]]}

    class OppositeEmbedder(AxisEmbedder):
        def _rows(self, numbers):
            return np.array([[1.0 if int(n) == 1 else -1.0, 0] for n in numbers], np.float32)

    with pytest.raises(UserError, match="'en': the prompts of class 0 cancel each other out"):
        zero_shot.run(OppositeEmbedder(), records([0], [1]), prompts)


def test_an_undecodable_image_is_named_by_its_record():
    class RejectingEmbedder(AxisEmbedder):
        embed_images = rejecting_embed(1, "image at position 1 cannot be read")

    with pytest.raises(UserError, match="^record 'r1': image at position 1"):
        zero_shot.run(RejectingEmbedder(), records([0, 1, 2]), {"en": prompts_for(range(6))})
