import json
import os

import pytest
from conftest import ROOT

from tf_mural.errors import UserError
from tf_mural.evaluation import prompts
from tf_mural.evaluation.prompts import Filled, Prompts, combine, describe, english, spoken

PUBLISHED = os.path.join(ROOT, "..", "shared", "data", "prompts")
published = pytest.mark.skipif(
    not os.path.isdir(PUBLISHED), reason="published prompts are not in ../shared/data"
)


def write(folder, **files):
    """write(folder, classes__de="a\\nb\\n") writes classes/de.txt."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + (".tsv" if "filled" in name else ".txt"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def dump(path, table):
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


# --- filling --------------------------------------------------------------------------------------


def test_every_template_is_filled_with_every_name():
    filled = Filled(["cat", ["car", "auto"], None, "", ["", "bus"]], ["a {}.", "{c}, big"])
    assert len(filled) == 5
    assert list(filled) == [
        ("a cat.", "cat, big"),
        ("a car.", "car, big", "a auto.", "auto, big"),
        (),
        (),
        ("a bus.", "bus, big"),
    ]


def test_blanks_are_tidied_and_braces_of_names_left_alone():
    filled = Filled(["  {}  big\tdog ", "{c} %s \\1"], ["  {}     Halb  pilt \n"])
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
def test_the_suffix_goes_before_the_full_stop(template, expected):
    assert Filled(["pie"], [template], prompts.FOOD_SUFFIX)[0] == (expected,)


def test_a_suffix_is_never_put_before_the_name():
    assert Filled(["no."], ["a {}"], " (\\1)")[0] == ("a no. (\\1)",)
    assert Filled(["pie"], ["what? {}"], ", food")[0] == ("what? pie, food",)


def test_templates_without_one_place_are_refused():
    for template, places in (("a photo", 0), ("a {} and a {}", 2), ("a {name}", 0), ("{ }", 0)):
        with pytest.raises(UserError, match=f"{places} places for the name"):
            Filled(["x"], [template])
    with pytest.raises(UserError, match="no templates"):
        Filled(["x"], [])
    with pytest.raises(UserError, match="prompts in 'de': template 'a' has 0 places"):
        combine({"de": ["x"]}, {"de": ["a"]})


def test_nothing_is_taken_from_another_language():
    names = {"en": ["pie"], "de": ["Torte"], "fr": ["tarte"], "sw": [""], "cs": []}
    templates = {"en": ["a {}."], "de": ["ein {}."], "ja": ["{}"], "sw": ["{}"], "cs": ["{}"]}
    found = combine(names, templates, {"en": ", food", "fr": ", plat"})
    assert {language: list(found[language]) for language in found} == {"en": [("a pie, food.",)]}
    assert found.lacking == {
        "cs": "names of classes",
        "de": "suffix",
        "fr": "templates",
        "ja": "names of classes",
        "sw": "names of classes",
    }
    assert sorted(combine(names, templates)) == ["de", "en"]


def test_describe_counts_what_is_odd():
    counts = describe([["a", "b"], [], ["b", "a"], ["c", "c", "c"], ["d"], ["a"]])
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


@published
def test_the_templates_are_those_of_clip():
    with open(os.path.join(PUBLISHED, "openai_clip", "imagenet.json"), encoding="utf-8") as file:
        assert sorted(json.load(file)["templates"]) == sorted(prompts.TEMPLATES)


def test_names_of_data_sets_as_words():
    assert spoken("aquarium_fish") == "aquarium fish"
    assert spoken("apartment_building/outdoor") == "apartment building outdoor"
    assert spoken("great white shark, white shark, man-eater") == "great white shark"


def test_english_prompts_of_a_manifest():
    found = english(["apple_pie", "baklava"], prompts.FOOD_SUFFIX)
    assert list(found) == ["en"] and len(found["en"]) == 2 and len(found["en"][1]) == 80
    assert "itap of my apple pie, a type of food." in found["en"][0]


def test_ids_are_no_names():
    with pytest.raises(UserError, match="classes are ids such as n01443537, no names"):
        english(["tench", "n01443537"])


@published
def test_names_of_manifests_are_mostly_those_of_clip():
    with open(os.path.join(PUBLISHED, "openai_clip", "prompts.json"), encoding="utf-8") as file:
        table = json.load(file)
    names = {name: table[name]["classes"] for name in ("SUN397", "Food101", "CIFAR100")}
    for name, of_set in names.items():
        raw = [one.replace(" ", "_") for one in of_set]
        read = prompts.read(os.path.join(PUBLISHED, "openai_clip", "prompts.json"), raw, name)
        assert [spoken(one) for one in raw] == of_set and len(read["en"]) == len(raw)


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_of_templates_and_names(tmp_path):
    write(
        tmp_path,
        templates__en="a {}.\r\nthe {}.\r\n",
        templates__de="\ufeffein {}.\n\n",
        classes__en="pie\nbus\tcoach\ncat",
        classes__de="Torte\n\nKatze\n",
        classes__fr="tarte\nbus\nchat\n",
    )
    found = prompts.read(tmp_path, ["pie", "bus", "cat"])
    assert list(found["en"])[1] == ("a bus.", "the bus.", "a coach.", "the coach.")
    assert list(found["de"]) == [("ein Torte.",), (), ("ein Katze.",)]
    assert sorted(found) == ["de", "en"] and found.lacking == {"fr": "templates"}


def test_a_folder_with_suffixes_wants_one_of_every_language(tmp_path):
    write(tmp_path, templates__en="a {}.", templates__de="ein {}.", suffix__de=", ein Essen \r\n")
    write(tmp_path, classes__en="pie", classes__de="Torte")
    found = prompts.read(tmp_path)
    assert {code: list(found[code]) for code in found} == {"de": [("ein Torte, ein Essen.",)]}
    assert found.lacking == {"en": "suffix"}
    with pytest.raises(UserError, match="belong into its folder 'suffix'"):
        prompts.read(tmp_path, suffixes={"en": ", food"})


def test_a_folder_of_filled_strings(tmp_path):
    write(tmp_path, filled__ja="0\tパイの写真\n2\t猫の写真 \n0\t悪い写真\tパイ\n\n")
    found = prompts.read(tmp_path, ["pie", "bus", "cat", "dog"])
    assert list(found["ja"]) == [["パイの写真", "悪い写真 パイ"], [], ["猫の写真"], []]
    assert describe(found["ja"])["missing_classes"] == 2
    assert len(prompts.read(tmp_path)["ja"]) == 3  # as far as labels go


def test_filled_strings_beside_templates(tmp_path):
    write(tmp_path, templates__ja="{}の写真", templates__en="a {}", classes__en="pie\ncat")
    write(tmp_path, filled__ja="0\tパイ\n1\t猫\n")
    found = prompts.read(tmp_path, ["pie", "cat"])
    assert list(found["ja"]) == [["パイ"], ["猫"]] and found.lacking == {}
    write(tmp_path, filled__en="0\tpie\n")
    with pytest.raises(UserError, match="'en' is in 'filled' and in 'classes'"):
        prompts.read(tmp_path, ["pie", "cat"])


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        prompts.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds neither folders of prompts"):
        prompts.read(tmp_path)
    write(tmp_path, templates__de="ein {}.", classes__de="Torte\nBus\n")
    with pytest.raises(UserError, match="2 names of classes in 'de', but the records have 3"):
        prompts.read(tmp_path, ["pie", "bus", "cat"])
    write(tmp_path, classes__de=b"K\xe4se\n")
    with pytest.raises(UserError, match=r"classes/de.txt is not UTF-8 .* at byte 1"):
        prompts.read(tmp_path)
    write(tmp_path / "b", filled__de="0\tTorte\n2\tBus\n")
    with pytest.raises(UserError, match="label 2 in filled/de.tsv: the records have 2 classes"):
        prompts.read(tmp_path / "b", ["pie", "bus"])
    for line in ("Torte", "x\tTorte", "0\t ", "-1\tTorte"):
        write(tmp_path / "c", filled__de=f"0\tTorte\n{line}\n")
        with pytest.raises(UserError, match="line 2 of filled/de.tsv: expected a label"):
            prompts.read(tmp_path / "c")


def test_names_in_another_order_are_refused(tmp_path):
    classes = ["apple_pie", "bus", "crane", "crane bird, heron", "dog"]
    write(tmp_path, templates__en="a {}.", classes__en="bus\napple pie\ndog\nheron\ncrane\n")
    with pytest.raises(UserError, match="another order .*: name 0 is 'bus', which is label 1"):
        prompts.read(tmp_path, classes)
    # One name that another class has too is no other order.
    write(tmp_path, classes__en="Apple pie\nbus\ncrane bird\ncrane\ndog\n")
    assert len(prompts.read(tmp_path, classes)["en"]) == 5


# --- published files ------------------------------------------------------------------------------


def test_names_and_templates_of_clip(tmp_path):
    one = {"classes": ["tench", ["shark", "great white"]], "templates": ["a {}."]}
    found = prompts.read(dump(tmp_path / "imagenet.json", one))
    assert list(found["en"]) == [("a tench.",), ("a shark.", "a great white.")]
    path = dump(tmp_path / "prompts.json", {"Food101": one, "CIFAR100": one})
    found = prompts.read(path, dataset="food101", suffixes={"en": ", food"})
    assert found["en"][0] == ("a tench, food.",)
    with pytest.raises(UserError, match="unknown data set of .*'imagenet'; known: Food101, CIFAR"):
        prompts.read(path)
    with pytest.raises(UserError, match="expected 'classes' and 'templates'"):
        prompts.read(dump(path, {"food101": ["x"]}), dataset="food101")
    with pytest.raises(UserError, match="expected an object"):
        prompts.read(dump(path, []))
    path.write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        prompts.read(path)


def test_names_and_templates_of_clip_benchmark(tmp_path):
    end = "_zeroshot_classification_templates.json"
    dump(tmp_path / "en_classnames.json", {"imagenet1k": ["tench"], "pets": ["Pug"]})
    dump(tmp_path / f"en{end}", {"imagenet1k": ["a {c}."], "pets": ["a pet {c}."]})
    dump(tmp_path / "cn_classnames.json", {"imagenet1k": ["丁鲷"]})
    dump(tmp_path / f"cn{end}", {"imagenet1k": ["{c}的照片。"]})
    dump(tmp_path / "jp_classnames.json", {"imagenet1k": ["テンチ"]})
    found = prompts.read(tmp_path)
    assert {code: list(found[code]) for code in found} == {
        "en": [("a tench.",)],
        "zh": [("丁鲷的照片。",)],
    }
    assert found.lacking == {"ja": "templates"}
    assert list(prompts.read(tmp_path, dataset="pets")["en"]) == [("a pet Pug.",)]
    with pytest.raises(UserError, match="with 'food101'"):
        prompts.read(tmp_path, dataset="food101")


def test_babel_imagenet(tmp_path):
    path = dump(
        tmp_path / "babel_imagenet.json", {"DE": [[2, 0], ["Hai", "Schleie"]], "FY": [[], []]}
    )
    with pytest.raises(UserError, match="nllb_dist13b_prompts.json does not exist"):
        prompts.read(path)
    dump(tmp_path / "nllb_dist13b_prompts.json", {"DE": ["ein  {} ."], "FY": ["{}"], "IG": ["{}"]})
    found = prompts.read(path, ["tench", "goldfish", "shark"])
    assert list(found["de"]) == [("ein Schleie .",), (), ("ein Hai .",)]
    assert found.lacking == {"fy": "names of classes", "ig": "names of classes"}
    assert len(prompts.read(path)["de"]) == 1000
    with pytest.raises(UserError, match="of 'DE' labels under 2 and as many names"):
        prompts.read(path, ["tench", "goldfish"])
    dump(path, {"DE": [[0, 1], ["Hai"]]})
    with pytest.raises(UserError, match="of 'DE' labels"):
        prompts.read(path)


@published
def test_the_published_files_themselves():
    folder = os.path.join(PUBLISHED, "clip_benchmark")
    found = prompts.read(folder)
    assert sorted(found) == ["ar", "en", "it", "ja", "zh"] and found.lacking == {}
    assert {code: len(found[code][0]) for code in found} == {
        "ar": 55,
        "en": 80,
        "it": 49,
        "ja": 37,
        "zh": 80,
    }
    babel = prompts.read(os.path.join(folder, "babel_imagenet.json"))
    # 93 languages with names; these have no templates.
    assert len(babel) == 90
    assert babel.lacking == {"br": "templates", "fy": "templates", "la": "templates"}
    finnish = describe(babel["fi"])
    assert (finnish["classes"], finnish["missing_classes"]) == (973, 27)
    assert finnish["prompts"] == 973 * 80
    english = describe(babel["en"])
    assert english["missing_classes"] == 0
    assert english["identical_classes"] == 4  # "missile" and "sunglasses" come twice
    assert babel["de"][1][0] == "ein schlechtes Foto von einem Goldfisch ."


def test_prompts_are_a_mapping():
    found = Prompts({"en": [["a"]]}, {"de": "suffix"})
    assert dict(found) == {"en": [["a"]]} and len(found) == 1 and "de" not in found
