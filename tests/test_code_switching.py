"""Code-switched texts: published functions, random choices, batches of a source, and errors.

The texts of the published functions are recorded by golden/record_code_switching.py.
"""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, SMALL_RUN
from golden import code_switching_case as case
from helpers import pipeline
from helpers.pipeline import CODES, NUM_RECORDS, assert_batches_equal, read_batches, words_of

from tf_mural.data import input_pipeline, records, training_data
from tf_mural.data.code_switching import WORD, CodeSwitch, CodeSwitcher
from tf_mural.data.lexicon import Lexicon
from tf_mural.data.preprocessing import Preprocessing
from tf_mural.data.records import RecordSet
from tf_mural.data.sampling import IndexSampler
from tf_mural.data.skipped_records import SkippedRecords
from tf_mural.datasets.scenes.lexicon import scenes_lexicon
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, config_validation

FIELDS = {"image": "image", "caption": "text"}


@pytest.fixture(scope="module")
def golden():
    path = os.path.join(ROOT, "tests", "golden", "code_switching.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def case_lexicon(translations=None):
    """Returns the lexicon of the recorded texts, with some translations of each word."""
    return Lexicon(
        {("en", k): {w: t[:translations] for w, t in v.items()} for k, v in case.LEXICON.items()}
    )


def make_switcher(lexicon, name=case.NAME, seed=case.SEED, languages=("en",), **options):
    options = CodeSwitch(("caption",), lexicon, **options)
    return CodeSwitcher(options, name, seed, languages)


def switch(switcher, texts, first=0):
    """Returns the code-switched texts of consecutive draws."""
    data = np.array([text.encode("utf-8") for text in texts], object)
    draws = np.arange(first, first + len(data), dtype=np.int64)
    return [text.decode("utf-8") for text in switcher(data, np.zeros(len(data), np.int64), draws)]


def translate(text, table):
    """Returns the text of a switcher that replaces all words."""
    lexicon = Lexicon({("en", "xx"): table})
    (result,) = switch(make_switcher(lexicon, probability=1.0), [text])
    return result


# --- published functions --------------------------------------------------------------------------


@pytest.mark.parametrize("probability", case.PROBABILITIES)
@pytest.mark.parametrize("name, per", [("bilingual", "text"), ("multilingual", "word")])
def test_texts_equal_those_of_litschko_et_al(golden, name, per, probability):
    switcher = make_switcher(case_lexicon(1), probability=probability, per=per)
    recorded = golden[f"{name}/{probability}"]
    assert switch(switcher, map(case.text, case.TEXT_RANGE)) == [text for text, *_ in recorded]
    switched, words = (sum(row[i] for row in recorded) for i in (1, 2))
    assert switcher.switched_share() == switched / words and (switched > 0) == (probability > 0)


@pytest.mark.parametrize("probability", case.PROBABILITIES[1:])
def test_texts_equal_those_of_cosda_ml(golden, probability):
    switcher = make_switcher(case_lexicon(), probability=probability, texts=case.TEXT_SHARE)
    texts = list(map(case.text, case.TEXT_RANGE))
    recorded = golden[f"cosda/{probability}"]
    assert switch(switcher, texts) == recorded
    assert 0 < sum(a == b for a, b in zip(texts, recorded, strict=True)) < len(texts)


def test_phrases_are_those_of_wiki_cs(golden):
    lexicon = Lexicon({("en", "de"): {k: [v] for k, v in case.PHRASES.items()}})
    switcher = make_switcher(lexicon, probability=1.0, max_words=3)
    assert switch(switcher, map(case.phrase_text, case.TEXT_RANGE)) == golden["wiki"]


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("A big, red circle.", ["A", "big", "red", "circle"]),
        ("don't “well-known” 2x – rock'n'roll'", ["don't", "well-known", "2x", "rock'n'roll"]),
        ("це м'яч і м’яч", ["це", "м'яч", "і", "м’яч"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Cafe\u0301 naïve", ["Cafe\u0301", "naïve"]),
        ("红色的 圆形。", ["红色的", "圆形"]),
        (" \t\n", []),
        ("", []),
    ],
)
def test_words_are_those_of_unicode_and_splitting_loses_nothing(text, words):
    assert WORD.findall(text) == words
    assert "".join(WORD.split(text)) == text
    assert translate(text, {"absent": ["x"]}) == text


def test_text_between_words_and_capital_letters_are_kept():
    table = {"big": ["groß"], "circle": ["Kreis"], "école": ["шкoла"], "red": ["ñ"]}
    assert translate("Big  (CIRCLE),\tRed-big École!", table) == "Groß  (Kreis),\tRed-big Шкoла!"
    assert translate("Red red", table) == "Ñ ñ"


def test_invalid_bytes_are_kept():
    switcher = make_switcher(Lexicon({("en", "de"): {"red": ["rot"]}}), probability=1.0)
    (text,) = switcher(np.array([b"red \xff red"], object), np.zeros(1, np.int64), np.arange(1))
    assert text == b"rot \xff rot"


def test_phrases_are_whole_words_and_do_not_overlap():
    lexicon = Lexicon({("en", "de"): {"art": ["KUNST"], "fine art": ["X"], "very fine": ["Y"]}})
    switcher = make_switcher(lexicon, probability=1.0, max_words=2)
    texts = ["party fine art", "very fine art", "fine, art", "Fine  ART"]
    assert switch(switcher, texts) == ["party X", "Y KUNST", "fine, KUNST", "X"]
    assert switcher.switched_share() == (2 + 3 + 1 + 2) / 10


def test_words_after_the_last_counted_word_stay():
    (text,) = switch(
        make_switcher(Lexicon({("en", "de"): {"a": ["b"]}}), probability=1.0), ["a " * 130]
    )
    assert text.split() == ["b"] * 128 + ["a"] * 2


# --- random choices -------------------------------------------------------------------------------


def test_languages_are_uniform_and_switches_are_binomial():
    languages = ("cs", "de", "fr", "ja", "zh")
    lexicon = Lexicon({("en", code): {"w": [f"{code}0", f"{code}1"]} for code in languages})
    switcher = make_switcher(lexicon, probability=0.3)
    words = " ".join(switch(switcher, ["w " * 100] * 1_000)).split()
    counts = {word: words.count(word) for word in {*words}}
    total = len(words) - counts.pop("w")
    assert len(words) == 100_000 and abs(total - 30_000) < 5 * np.sqrt(100_000 * 0.3 * 0.7)
    assert switcher.switched_share() == total / 100_000
    assert len(counts) == 10
    chi_square = sum((count - total / 10) ** 2 / (total / 10) for count in counts.values())
    assert chi_square < 35  # probability 6e-5 with 9 degrees of freedom


def test_choices_depend_on_the_seed_the_field_and_the_draw_only():
    texts = ["a big red circle is above the small blue star"] * 50
    first = switch(make_switcher(case_lexicon()), texts)
    assert first == switch(make_switcher(case_lexicon()), texts)
    assert first[20:] == switch(make_switcher(case_lexicon()), texts[20:], first=20)
    assert len({*first}) > 40
    for other in ({"seed": 8}, {"name": "captions/other"}):
        assert first != switch(make_switcher(case_lexicon(), **other), texts)
    # A change of a word does not change the choices for the other words.
    changed = switch(make_switcher(case_lexicon()), [t.replace("circle", "house") for t in texts])
    for a, b in zip(first, changed, strict=True):
        words = zip(a.split(), b.split(), strict=True)
        assert [x == y for x, y in words] == [True] * 3 + [False] + [True] * 6


def test_texts_of_languages_without_a_lexicon_stay():
    switcher = make_switcher(case_lexicon(), languages=("en", "it"), probability=1.0)
    texts = np.array([b"red star", b"red star"], object)
    english, italian = switcher(texts, np.array([0, 1]), np.array([3, 3]))
    assert english != b"red star" and italian == b"red star"
    assert switcher.targets == {"en": ("de", "fr", "ru"), "it": ()}
    assert "en to de fr ru" in switcher.describe()


def test_chosen_languages_limit_the_lexicon():
    switcher = make_switcher(case_lexicon(), languages=("en",), probability=1.0)
    assert len({w[-3:-1] for t in switch(switcher, ["big dog"] * 40) for w in t.split()}) >= 3
    lexicon = dataclasses.replace(CodeSwitch(("caption",), case_lexicon()), languages="fr")
    switcher = CodeSwitcher(lexicon, "x", 0, ("en",))
    assert switcher.targets == {"en": ("fr",)}


# --- batches --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "set"
    records.write(folder, [pipeline.make_record(i) for i in range(NUM_RECORDS)], shards=2)
    return RecordSet.open(folder)


def word_lexicon(words=range(NUM_RECORDS)):
    """Returns a lexicon of the words of `helpers.pipeline`, from English."""
    return Lexicon({("en", k): {f"en{i}": [f"{k}{i}"] for i in words} for k in ("de", "fr")})


def make_dataset(record_set, options=None, fields=FIELDS, languages=("en",), **arguments):
    """Returns a dataset of a source that is code-switched with `options`."""
    count = sum(modality == "text" for modality in fields.values())
    sampler = IndexSampler([record_set], count, languages, seed=1, name="captions")
    source = training_data.make_source(sampler, fields, False, None, options, 1)
    return input_pipeline.training_dataset(
        [source], pipeline.make_tokenizer(), Preprocessing(12, 8), CODES, 8, **arguments
    )


@pytest.fixture(scope="module")
def plain(record_set):
    """Batches of a source without code-switching."""
    return read_batches(make_dataset(record_set), 4)


@pytest.fixture(scope="module")
def switched(record_set):
    """Batches of the same source with code-switching."""
    return read_batches(make_dataset(record_set, CodeSwitch(("caption",), word_lexicon())), 4)


def without_tokens(batches):
    """Returns batches without the tokens of the captions."""
    return [
        {**batch, "caption": {k: v for k, v in batch["caption"].items() if k != "tokens"}}
        for batch in batches
    ]


def test_only_the_tokens_of_a_batch_change(plain, switched):
    pairs = [
        (a, b)
        for x, y in zip(plain, switched, strict=True)
        for a, b in zip(
            words_of(x["caption"]["tokens"]), words_of(y["caption"]["tokens"]), strict=True
        )
    ]
    assert {b[:2] for _, b in pairs} == {"de", "en", "fr"}
    assert all(a[:2] == "en" and a[2:] == b[2:] for a, b in pairs)
    assert_batches_equal(without_tokens(switched), without_tokens(plain))


def test_probability_zero_gives_the_batches_without_code_switching(record_set, plain):
    options = CodeSwitch(("caption",), word_lexicon(), probability=0.0)
    assert_batches_equal(read_batches(make_dataset(record_set, options), 4), plain)


def test_later_start_and_two_workers_give_the_same_texts(record_set, switched):
    options = CodeSwitch(("caption",), word_lexicon())
    parts = [
        read_batches(make_dataset(record_set, options, workers=(worker, 2), start_step=2), 2)
        for worker in range(2)
    ]
    joined = [
        tf.nest.map_structure(lambda *x: np.concatenate(x), *rows)
        for rows in zip(*parts, strict=True)
    ]
    assert_batches_equal(joined, switched[2:])


def test_the_share_of_texts_may_be_zero():
    texts = list(map(case.text, case.TEXT_RANGE))
    assert switch(make_switcher(case_lexicon(), texts=0.0, probability=1.0), texts) == texts


@pytest.mark.slow
def test_fields_are_switched_independently(record_set):
    fields = {"query": "text", "passage": "text"}
    options = CodeSwitch(("query", "passage"), word_lexicon())
    plain, both = (
        read_batches(make_dataset(record_set, o, fields, None), 6) for o in (None, options)
    )
    changed = {
        field: np.concatenate(
            [
                np.any(x[field]["tokens"] != y[field]["tokens"], axis=1)
                for x, y in zip(plain, both, strict=True)
            ]
        )
        for field in fields
    }
    assert all(0 < mask.sum() < len(mask) for mask in changed.values())
    assert changed["query"].tolist() != changed["passage"].tolist()


def test_unknown_switched_texts_are_counted_by_name(record_set):
    lexicon = Lexicon({("en", "de"): {"en3": ["♞"]}})
    options = CodeSwitch(("caption",), lexicon, probability=1.0)
    skipped_records = SkippedRecords(limit=1.0)
    read_batches(make_dataset(record_set, options, skipped_records=skipped_records), 4)
    (reasons,) = skipped_records.skipped.values()
    assert list(reasons) == ["the code-switched text in 'en' contains no token of the vocabulary"]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"probability": 1.5}, "probability is 1.5, expected a number from 0 to 1"),
        ({"texts": -1}, "texts is -1, expected a number from 0 to 1"),
        ({"per": "words"}, "unknown value of per: 'words'; known: word, text; did you mean 'word'"),
        ({"max_words": 4}, "max_words is 4, expected 1, 2 or 3"),
        ({"languages": ("de", "xx")}, "language of the lexicon lexicon .*'xx'; known: de, fr"),
        ({"fields": ()}, "fields is empty"),
        ({"fields": ("image",)}, "the field 'image' .* has no texts"),
        ({"fields": ("captoin",)}, "unknown field .*'captoin'.*did you mean 'caption'"),
        ({"lexicon": "nowhere"}, "no folder 'nowhere' with a lexicon: tools/lexicon.py"),
    ],
)
def test_wrong_options_are_named(record_set, options, message):
    values = {"fields": ("caption",), "lexicon": word_lexicon(), **options}
    with pytest.raises(UserError, match=message):
        make_dataset(record_set, CodeSwitch(**values))


def test_a_lexicon_from_another_language_is_refused(record_set):
    options = CodeSwitch(("caption",), word_lexicon())
    message = "the texts are in de, but the lexicon lexicon has en-de, en-fr"
    with pytest.raises(UserError, match=message):
        make_dataset(record_set, options, languages=("de",))


def load_stage(*overrides):
    config = config_loading.load_config("codeswitch", "tiny")
    config_loading.apply_overrides(config, [f"--config.{value}" for value in overrides])
    return config


def test_values_of_a_config_are_checked():
    prefix = "sources.captions.code_switch"
    config_validation.check_config(load_stage(f"{prefix}.probability=1", f"{prefix}.per=text"), 1)
    with pytest.raises(UserError, match=f"{prefix}: probability is 2.0"):
        config_validation.check_config(load_stage(f"{prefix}.probability=2"), 1)
    with pytest.raises(UserError, match="unknown field .*'image_caption'"):
        config_validation.check_config(load_stage(f"{prefix}.fields=image_caption"), 1)
    config = load_stage()
    config.sources.captions.code_switch.probabilty = 0.5
    with pytest.raises(UserError, match=f"{prefix}: 'probabilty'.*did you mean 'probability'"):
        config_validation.check_config(config, 1)
    config = load_stage()
    del config.sources.captions.code_switch["lexicon"]
    with pytest.raises(UserError, match=f"{prefix} has no value 'lexicon'"):
        config_validation.check_config(config, 1)


def test_stored_text_features_are_refused():
    config = load_stage("model.text.adapt=last:0")
    config.model.text.vectors = "features"
    with pytest.raises(UserError, match="the field 'caption' .* reads stored vectors"):
        config_validation.check_config(config, 1)


def test_the_control_has_the_data_and_the_schedule_of_the_stage():
    stage, control = (config_loading.load_config(n, "tiny") for n in ("codeswitch", "control"))
    del stage.sources.captions["code_switch"]
    for config in (stage, control):
        config.stage, config.report = "", {}
    assert stage.to_dict() == control.to_dict()


@pytest.mark.slow
def test_a_run_reports_its_lexicon_and_resumes_only_with_it(train, finished, tmp_path):
    folder = tmp_path / "lexicon"
    lexicon = scenes_lexicon(("de", "sw"))
    lexicon.write(folder)
    arguments = (
        *SMALL_RUN,
        "--stage=codeswitch",
        f"--init={finished[0]}",
        f"--config.sources.captions.code_switch.lexicon={folder}",
        "--config.report.compare_with=",
        "--config.report.control=none",
        "--workdir=run",
    )
    done = train(*arguments)
    assert not done.code, done.err
    assert "code-switching of captions/caption: words are replaced with probability 0.5" in done.out
    path = tmp_path / "run" / "results.json"
    results = json.loads(path.read_text())
    assert results["lexicons"] == {str(folder): lexicon.digest}
    assert 0.15 < results["switched"]["caption"] < 0.45
    path.unlink()
    (folder / "en-de.txt").write_text("red\trot\n")
    message = train(*arguments).error()
    assert "records" in message and "run" in message


def test_the_public_dataset_switches_the_named_source(tmp_path):
    from helpers import keras_trainers

    import tf_mural

    path = keras_trainers.make_records(str(tmp_path))
    table = {f"w{i}": ["x"] for i in range(16)}
    Lexicon({("en", "de"): table}).write(tmp_path / "lexicon")
    options = tf_mural.data.CodeSwitch(("text_a",), tmp_path / "lexicon", probability=1.0)
    trainer = keras_trainers.make_trainer()
    plain, switched = (
        read_batches(keras_trainers.make_dataset(path, trainer, start_step=0, code_switch=o), 2)
        for o in (None, {"triples": options})
    )
    for a, b in zip(plain, switched, strict=True):
        changed = np.any(a["text_a"]["tokens"] != b["text_a"]["tokens"], axis=1)
        english = a["text_a"]["language"] == keras_trainers.LANGUAGES.index("en")
        assert changed.tolist() == english.tolist()
        assert_batches_equal(a["text_b"], b["text_b"])
