"""Prompts: templates, class names, folders of prompts and published formats."""

import json
import os

import pytest
from conftest import ROOT

from tf_mural.errors import UserError
from tf_mural.evaluation import prompts
from tf_mural.evaluation.benchmarks import BENCHMARKS
from tf_mural.evaluation.prompts import (
    FilledTemplates,
    Prompts,
    combine,
    count_prompts,
    english,
    humanize_class,
)

PUBLISHED = os.path.join(ROOT, "..", "shared", "data", "prompts")
needs_published_files = pytest.mark.skipif(
    not os.path.isdir(PUBLISHED), reason="no ../shared/data/prompts"
)


def write_prompts(folder, **files):
    """Writes files: write_prompts(folder, classes__de="a\\nb\\n") writes classes/de.txt."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + (".tsv" if "filled" in name else ".txt"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_json(path, table):
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


# --- templates ------------------------------------------------------------------------------------


def test_every_template_is_filled_with_every_name():
    filled = FilledTemplates(["cat", ["car", "auto"], None, "", ["", "bus"]], ["a {}.", "{c}, big"])
    assert len(filled) == 5
    assert list(filled) == [
        ("a cat.", "cat, big"),
        ("a car.", "car, big", "a auto.", "auto, big"),
        (),
        (),
        ("a bus.", "bus, big"),
    ]


def test_whitespace_is_normalized_and_braces_of_names_are_kept():
    filled = FilledTemplates(["  {}  big\tdog ", "{c} %s \\1"], ["  {}     Halb  pilt \n"])
    assert list(filled) == [("{} big dog Halb pilt",), ("{c} %s \\1 Halb pilt",)]


@pytest.mark.parametrize(
    "template, expected",
    [
        ("a photo of a {}.", "a photo of a pie, a type of food."),
        ("a {} in a video game.", "a pie in a video game, a type of food."),
        ("foto de {} .", "foto de pie, a type of food."),
        ("{}の写真", "pieの写真, a type of food"),
        ("{}的照片。", "pie的照片, a type of food。"),
        ("{}", "pie, a type of food"),
        ("no. 1 {}!", "no. 1 pie, a type of food!"),
        ("e.g. {} on a plate", "e.g. pie on a plate, a type of food"),
    ],
)
def test_the_suffix_is_inserted_before_the_final_punctuation(template, expected):
    assert FilledTemplates(["pie"], [template], prompts.FOOD_SUFFIX)[0] == (expected,)


def test_a_suffix_is_never_inserted_before_the_name():
    assert FilledTemplates(["no."], ["a {}"], " (\\1)")[0] == ("a no. (\\1)",)
    assert FilledTemplates(["pie"], ["what? {}"], ", food")[0] == ("what? pie, food",)


def test_templates_without_exactly_one_placeholder_are_rejected():
    for template, count in (("a photo", 0), ("a {} and a {}", 2), ("a {name}", 0), ("{ }", 0)):
        with pytest.raises(UserError, match=f"{count} places for the name"):
            FilledTemplates(["x"], [template])
    with pytest.raises(UserError, match="no templates"):
        FilledTemplates(["x"], [])
    with pytest.raises(UserError, match="prompts in 'de': template 'a' has 0 places"):
        combine({"de": ["x"]}, {"de": ["a"]})


def test_languages_are_never_mixed():
    names = {"en": ["pie"], "de": ["Torte"], "fr": ["tarte"], "sw": [""], "cs": []}
    templates = {"en": ["a {}."], "de": ["ein {}."], "ja": ["{}"], "sw": ["{}"], "cs": ["{}"]}
    combined = combine(names, templates, {"en": ", food", "fr": ", plat"})
    assert {language: list(combined[language]) for language in combined} == {
        "en": [("a pie, food.",)]
    }
    assert combined.lacking == {
        "cs": "names of classes",
        "de": "suffix",
        "fr": "templates",
        "ja": "names of classes",
        "sw": "names of classes",
    }
    assert sorted(combine(names, templates)) == ["de", "en"]


def test_count_prompts_counts_repeated_and_identical_prompts():
    counts = count_prompts([["a", "b"], [], ["b", "a"], ["c", "c", "c"], ["d"], ["a"]])
    assert counts == {
        "classes": 5,
        "missing_classes": 1,
        "prompts": 9,
        "repeated_prompts": 2,
        "identical_classes": 2,
    }


# --- English --------------------------------------------------------------------------------------


def test_there_are_80_templates():
    assert len(prompts.TEMPLATES) == len(set(prompts.TEMPLATES)) == 80
    assert all(text.count("{}") == 1 and text.endswith(".") for text in prompts.TEMPLATES)


@needs_published_files
def test_the_templates_are_those_of_clip():
    with open(os.path.join(PUBLISHED, "openai_clip", "imagenet.json"), encoding="utf-8") as file:
        assert sorted(json.load(file)["templates"]) == sorted(prompts.TEMPLATES)


def test_class_names_become_words():
    assert humanize_class("aquarium_fish") == "aquarium fish"
    assert humanize_class("apartment_building/outdoor") == "apartment building outdoor"
    assert humanize_class("great white shark, white shark, man-eater") == "great white shark"


def test_english_prompts_use_the_names_of_a_manifest():
    filled = english(["apple_pie", "baklava"], prompts.FOOD_SUFFIX)
    assert list(filled) == ["en"] and len(filled["en"]) == 2 and len(filled["en"][1]) == 80
    assert "itap of my apple pie, a type of food." in filled["en"][0]


def test_wordnet_ids_are_rejected_as_names():
    with pytest.raises(UserError, match="classes are ids such as n01443537, no names"):
        english(["tench", "n01443537"])


@needs_published_files
def test_names_of_manifests_become_those_of_clip():
    with open(os.path.join(PUBLISHED, "openai_clip", "prompts.json"), encoding="utf-8") as file:
        table = json.load(file)
    names = {name: table[name]["classes"] for name in ("SUN397", "Food101", "CIFAR100")}
    for dataset, words in names.items():
        classes = [name.replace(" ", "_") for name in words]
        path = os.path.join(PUBLISHED, "openai_clip", "prompts.json")
        loaded = prompts.read(path, classes, dataset)
        assert [humanize_class(name) for name in classes] == words
        assert len(loaded["en"]) == len(classes)


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_has_templates_and_names(tmp_path):
    write_prompts(
        tmp_path,
        templates__en="a {}.\r\nthe {}.\r\n",
        templates__de="\ufeffein {}.\n\n",
        classes__en="pie\nbus\tcoach\ncat",
        classes__de="Torte\n\nKatze\n",
        classes__fr="tarte\nbus\nchat\n",
    )
    loaded = prompts.read(tmp_path, ["pie", "bus", "cat"])
    assert list(loaded["en"])[1] == ("a bus.", "the bus.", "a coach.", "the coach.")
    assert list(loaded["de"]) == [("ein Torte.",), (), ("ein Katze.",)]
    assert sorted(loaded) == ["de", "en"] and loaded.lacking == {"fr": "templates"}


def test_a_folder_with_suffixes_needs_one_for_every_language(tmp_path):
    write_prompts(
        tmp_path, templates__en="a {}.", templates__de="ein {}.", suffix__de=", ein Essen \r\n"
    )
    write_prompts(tmp_path, classes__en="pie", classes__de="Torte")
    loaded = prompts.read(tmp_path)
    assert {code: list(loaded[code]) for code in loaded} == {"de": [("ein Torte, ein Essen.",)]}
    assert loaded.lacking == {"en": "suffix"}
    with pytest.raises(UserError, match="must be in its folder 'suffix'"):
        prompts.read(tmp_path, suffixes={"en": ", food"})


def test_a_folder_can_have_complete_prompts(tmp_path):
    write_prompts(tmp_path, filled__ja="0\tパイの写真\n2\t猫の写真 \n0\t悪い写真\tパイ\n\n")
    loaded = prompts.read(tmp_path, ["pie", "bus", "cat", "dog"])
    assert list(loaded["ja"]) == [["パイの写真", "悪い写真 パイ"], [], ["猫の写真"], []]
    assert count_prompts(loaded["ja"])["missing_classes"] == 2
    assert len(prompts.read(tmp_path)["ja"]) == 3  # one class for each of the labels 0 to 2


def test_complete_prompts_replace_missing_templates(tmp_path):
    write_prompts(tmp_path, templates__ja="{}の写真", templates__en="a {}", classes__en="pie\ncat")
    write_prompts(tmp_path, filled__ja="0\tパイ\n1\t猫\n")
    loaded = prompts.read(tmp_path, ["pie", "cat"])
    assert list(loaded["ja"]) == [["パイ"], ["猫"]] and loaded.lacking == {}
    write_prompts(tmp_path, filled__en="0\tpie\n")
    with pytest.raises(UserError, match="'en' is in 'filled' and in 'classes'"):
        prompts.read(tmp_path, ["pie", "cat"])


def test_invalid_folders_are_rejected(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        prompts.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains neither folders of prompts"):
        prompts.read(tmp_path)
    write_prompts(tmp_path, templates__de="ein {}.", classes__de="Torte\nBus\n")
    with pytest.raises(UserError, match="2 names of classes in 'de', but the records have 3"):
        prompts.read(tmp_path, ["pie", "bus", "cat"])
    write_prompts(tmp_path, classes__de=b"K\xe4se\n")
    with pytest.raises(UserError, match=r"classes/de.txt is not UTF-8 .* at byte 1"):
        prompts.read(tmp_path)
    write_prompts(tmp_path / "b", filled__de="0\tTorte\n2\tBus\n")
    with pytest.raises(UserError, match="label 2 in filled/de.tsv: the records have 2 classes"):
        prompts.read(tmp_path / "b", ["pie", "bus"])
    for line in ("Torte", "x\tTorte", "0\t ", "-1\tTorte"):
        write_prompts(tmp_path / "c", filled__de=f"0\tTorte\n{line}\n")
        with pytest.raises(UserError, match="line 2 of filled/de.tsv: expected a label"):
            prompts.read(tmp_path / "c")


def test_names_in_another_order_are_rejected(tmp_path):
    classes = ["apple_pie", "bus", "crane", "crane bird, heron", "dog"]
    write_prompts(
        tmp_path, templates__en="a {}.", classes__en="bus\napple pie\ndog\nheron\ncrane\n"
    )
    with pytest.raises(UserError, match="another order .*: name 0 is 'bus', which is label 1"):
        prompts.read(tmp_path, classes)
    # Names are accepted if only a single one of them equals the name of another class.
    write_prompts(tmp_path, classes__en="Apple pie\nbus\ncrane bird\ncrane\ndog\n")
    assert len(prompts.read(tmp_path, classes)["en"]) == 5


# --- published formats ----------------------------------------------------------------------------


def test_the_format_of_clip_is_read(tmp_path):
    table = {"classes": ["tench", ["shark", "great white"]], "templates": ["a {}."]}
    loaded = prompts.read(write_json(tmp_path / "imagenet.json", table))
    assert list(loaded["en"]) == [("a tench.",), ("a shark.", "a great white.")]
    path = write_json(tmp_path / "prompts.json", {"Food101": table, "CIFAR100": table})
    loaded = prompts.read(path, dataset="food101", suffixes={"en": ", food"})
    assert loaded["en"][0] == ("a tench, food.",)
    with pytest.raises(UserError, match="unknown data set of .*'imagenet'; known: Food101, CIFAR"):
        prompts.read(path)
    with pytest.raises(UserError, match="expected 'classes' and 'templates'"):
        prompts.read(write_json(path, {"food101": ["x"]}), dataset="food101")
    with pytest.raises(UserError, match="expected an object"):
        prompts.read(write_json(path, []))
    path.write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        prompts.read(path)


def test_the_format_of_clip_benchmark_is_read(tmp_path):
    suffix = "_zeroshot_classification_templates.json"
    write_json(tmp_path / "en_classnames.json", {"imagenet1k": ["tench"], "pets": ["Pug"]})
    write_json(tmp_path / f"en{suffix}", {"imagenet1k": ["a {c}."], "pets": ["a pet {c}."]})
    write_json(tmp_path / "cn_classnames.json", {"imagenet1k": ["丁鲷"]})
    write_json(tmp_path / f"cn{suffix}", {"imagenet1k": ["{c}的照片。"]})
    write_json(tmp_path / "jp_classnames.json", {"imagenet1k": ["テンチ"]})
    loaded = prompts.read(tmp_path)
    assert {code: list(loaded[code]) for code in loaded} == {
        "en": [("a tench.",)],
        "zh": [("丁鲷的照片。",)],
    }
    assert loaded.lacking == {"ja": "templates"}
    assert list(prompts.read(tmp_path, dataset="pets")["en"]) == [("a pet Pug.",)]
    with pytest.raises(UserError, match="with 'food101'"):
        prompts.read(tmp_path, dataset="food101")


def test_the_format_of_babel_imagenet_is_read(tmp_path):
    path = write_json(
        tmp_path / "babel_imagenet.json", {"DE": [[2, 0], ["Hai", "Schleie"]], "FY": [[], []]}
    )
    with pytest.raises(UserError, match="nllb_dist13b_prompts.json does not exist"):
        prompts.read(path)
    write_json(
        tmp_path / "nllb_dist13b_prompts.json", {"DE": ["ein  {} ."], "FY": ["{}"], "IG": ["{}"]}
    )
    loaded = prompts.read(path, ["tench", "goldfish", "shark"])
    assert list(loaded["de"]) == [("ein Schleie .",), (), ("ein Hai .",)]
    assert loaded.lacking == {"fy": "names of classes", "ig": "names of classes"}
    assert len(prompts.read(path)["de"]) == 1000
    with pytest.raises(UserError, match="for 'DE' labels below 2 and as many names"):
        prompts.read(path, ["tench", "goldfish"])
    write_json(path, {"DE": [[0, 1], ["Hai"]]})
    with pytest.raises(UserError, match="for 'DE' labels.* another ImageNet than the 1,000"):
        prompts.read(path)


def write_babel(folder):
    """Writes Babel-ImageNet and CLIP_benchmark's English names of three classes."""
    names = {
        "DE": [[2, 0], ["Hai", "Schleie"]],
        "EN": [[0, 1, 2], ["Tinca tinca", "goldfish", "x"]],
    }
    templates = {"DE": ["ein {}.", "das {}."], "EN": ["one {}."]}
    write_json(folder / "nllb_dist13b_prompts.json", templates)
    write_json(folder / "en_classnames.json", {"imagenet1k": ["tench", "goldfish", "shark"]})
    suffix = "_zeroshot_classification_templates.json"
    write_json(folder / f"en{suffix}", {"imagenet1k": ["a {c}."]})
    return write_json(folder / "babel_imagenet.json", names)


CLASSES = ["tench, Tinca tinca", "goldfish, Carassius auratus", "shark, man-eating shark"]


def test_variants_of_babel_imagenet_have_other_english_or_no_templates(tmp_path):
    path = write_babel(tmp_path)
    german = [("ein Schleie.", "das Schleie."), (), ("ein Hai.", "das Hai.")]
    plain = prompts.read(path, CLASSES)
    assert list(plain["de"]) == german and plain["en"][0] == ("one Tinca tinca.",)
    clip = prompts.read(path, CLASSES, prompt_set="openai-english")
    assert list(clip["de"]) == german and clip["en"][0] == ("a tench.",)
    names = prompts.read(path, CLASSES, prompt_set="names")
    assert list(names["de"]) == [("Schleie",), (), ("Hai",)] and names["en"][1] == ("goldfish",)
    with pytest.raises(UserError, match="unknown prompt set 'labels'; known: names, openai-englis"):
        prompts.read(path, CLASSES, prompt_set="labels")


def test_class_lists_of_another_imagenet_are_refused(tmp_path):
    path = write_babel(tmp_path)
    shifted = CLASSES[1:] + CLASSES[:1]
    with pytest.raises(UserError, match="3 of 3 English names of .* such as 'Tinca tinca' for 'go"):
        prompts.read(path, shifted)
    with pytest.raises(UserError, match="class list is that of another ImageNet, or in another o"):
        prompts.read(path, ["Tinca tinca", "abbey", "abacus", "zebra"], prompt_set="names")
    with pytest.raises(UserError, match="labels below 2 .* another ImageNet than the 1,000 of"):
        prompts.read(path, CLASSES[:2])


@needs_published_files
def test_benchmarks_of_babel_imagenet_have_the_languages_of_the_published_file():
    path = os.path.join(PUBLISHED, "clip_benchmark", "babel_imagenet.json")
    means = {name: BENCHMARKS[f"zero_shot/{name}"].means["mean"] for name in BABEL}
    loaded = prompts.read(path, prompt_set="openai-english")
    assert set(means["babel_imagenet"]) == set(loaded) and len(loaded) == 90
    assert loaded["en"][0][0] == "a bad photo of a tench." and len(loaded["en"][0]) == 80
    names = prompts.read(path, prompt_set="names")
    assert set(means["babel_imagenet_names"]) == set(names) - {"en"} and len(names) == 93


BABEL = ("babel_imagenet", "babel_imagenet_names")


@needs_published_files
def test_the_published_files_are_complete():
    folder = os.path.join(PUBLISHED, "clip_benchmark")
    loaded = prompts.read(folder)
    assert sorted(loaded) == ["ar", "en", "it", "ja", "zh"] and loaded.lacking == {}
    assert {code: len(loaded[code][0]) for code in loaded} == {
        "ar": 55,
        "en": 80,
        "it": 49,
        "ja": 37,
        "zh": 80,
    }
    babel = prompts.read(os.path.join(folder, "babel_imagenet.json"))
    # Of the 93 languages with class names, three have no templates.
    assert len(babel) == 90
    assert babel.lacking == {"br": "templates", "fy": "templates", "la": "templates"}
    finnish = count_prompts(babel["fi"])
    assert (finnish["classes"], finnish["missing_classes"]) == (973, 27)
    assert finnish["prompts"] == 973 * 80
    english = count_prompts(babel["en"])
    assert english["missing_classes"] == 0
    assert english["identical_classes"] == 4  # two classes "missile", two classes "sunglasses"
    assert babel["de"][1][0] == "ein schlechtes Foto von einem Goldfisch ."


def test_prompts_are_a_mapping():
    filled = Prompts({"en": [["a"]]}, {"de": "suffix"})
    assert dict(filled) == {"en": [["a"]]} and len(filled) == 1 and "de" not in filled


# --- languages of other conventions ---------------------------------------------------------------


def test_files_of_prompts_may_be_named_by_any_convention(tmp_path):
    text = {"classes": "cat\ndog\n", "templates": "{}\n"}
    for folder, content in text.items():
        names = ("deu_Latn", "zh_CN", "zh-TW", "en", "klingon2")
        write_prompts(tmp_path, **{f"{folder}__{name}": content for name in names})
    assert sorted(prompts.read(str(tmp_path))) == ["de", "en", "klingon2", "zh", "zh-Hant"]
    write_prompts(tmp_path, classes__de="Katze\nHund\n")
    with pytest.raises(UserError, match="classes: de and deu_Latn are both 'de': keep one of them"):
        prompts.read(str(tmp_path))
