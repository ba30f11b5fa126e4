"""The configs of configs/examples: their values, and runs from raw data to results."""

import glob
import importlib
import json
import os

import pytest
from conftest import ROOT
from PIL import Image

from tf_mural import experiment
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, stored_vectors

_WITHOUT_FINETUNE = [stage for stage in config_loading.STAGES if stage != "finetune"]
EXAMPLES = {
    "emoji": ("mural", "control", "etcl", "sixlang"),
    "emoji_trained": _WITHOUT_FINETUNE,
    "own": config_loading.STAGES,
    "photos": ("mural", "control", "etcl", "codeswitch"),
    "photos_trained": _WITHOUT_FINETUNE,
}
# Examples that train projections of trained encoders. They have no margin.
TRAINED_ENCODERS = ("emoji_trained", "photos_trained")
WITH_BITEXT = {"photos", "photos_trained"}  # examples with separate records of translations
TRIPLE_LANGUAGES = ["en", "de", "fr", "cs", "zh", "ja"]


def config_path(name):
    return os.path.join(ROOT, "configs", "examples", f"{name}.py")


def load_example(name, stage):
    return config_loading.load_config(stage, "tiny", config_path(name))


def json_of(stage):
    return json.dumps(config_loading.load_config(stage, "tiny").to_dict())


def image_sources(config):
    return [source for source in config.sources.values() if "image" in source.fields]


def test_all_examples_are_tested():
    files = {os.path.basename(path)[:-3] for path in glob.glob(config_path("*"))}
    # The example `mixture` has the data and the model of the stages of the package.
    assert files - {"__init__", "mixture"} == set(EXAMPLES)


@pytest.mark.parametrize("name, stage", [(n, s) for n, stages in EXAMPLES.items() for s in stages])
def test_config_of_an_example_is_valid(name, stage):
    config = load_example(name, stage)
    experiment.check_config(config, replicas=1)
    assert (config.stage, config.size) == (stage, name)
    assert config.auto_convert == () and config.vocabulary == f"{name}/vocab.txt"
    assert config.evaluation.retrieval.records == f"{name}/val"
    for source in config.sources.values():
        is_bitext = name in WITH_BITEXT and "image" not in source.fields
        folder = "taught/train" if stage == "distil" else "bitext" if is_bitext else "train"
        assert list(source.records) == [f"{name}/{folder}"]
    related = (config.init_stage, config.report.control, *config.report.compare_with)
    for other in filter(None, related):
        # The file of the example also defines the stages that this stage refers to.
        other_config = load_example(name, other)
        assert other_config.stage == other and config.train_dependencies
        if stage == "distil":  # a tower without variables, and no training of the image tower
            config.model.towers, config.model.image.adapt = {}, other_config.model.image.adapt
        if stage == "codeswitch":  # the text encoder reads no stored features
            config.model.text.vectors = other_config.model.text.vectors
        assert other_config.model == config.model and other_config.images == config.images
    for term in config.terms.values():
        if term.loss == "contrastive":
            margin = 0.0 if name in TRAINED_ENCODERS else 0.3
            assert (term.margin, term.label_smoothing) == (margin, 0.1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_do_not_change_the_configs_of_the_package(name):
    stages = config_loading.STAGES
    before = {stage: json_of(stage) for stage in stages}
    for stage in EXAMPLES[name]:
        load_example(name, stage)
    assert before == {stage: json_of(stage) for stage in stages}


@pytest.mark.parametrize("name", ["emoji", "emoji_trained"])
def test_emoji_examples_have_images_with_texts_in_six_languages(name):
    for stage in ("mural", "control"):
        config = load_example(name, stage)
        (source,) = image_sources(config)
        assert list(source.languages) == ["en"]
        assert config.sources.bitext.languages is None  # all languages
    for stage in ("etcl", "sixlang"):
        (source,) = image_sources(load_example(name, stage))
        assert list(source.languages) == TRIPLE_LANGUAGES
    assert list(load_example(name, "etcl").evaluation.retrieval.trained) == TRIPLE_LANGUAGES


@pytest.mark.parametrize("name", ["photos", "photos_trained"])
def test_photos_examples_have_image_captions_in_three_languages(name):
    """Czech, and other languages of the captions, occur only in translations."""
    for stage, expected in (("mural", ["en"]), ("control", ["en"]), ("etcl", ["en", "de", "fr"])):
        config = load_example(name, stage)
        (source,) = image_sources(config)
        assert list(source.languages) == expected
        assert list(config.evaluation.retrieval.trained) == ["en", "de", "fr"]
        assert config.evaluation.retrieval.languages is None  # all languages
        if stage != "etcl":
            assert config.sources.bitext.languages is None  # all languages


@pytest.mark.parametrize("stage", _WITHOUT_FINETUNE)
@pytest.mark.parametrize("name", TRAINED_ENCODERS)
def test_trained_encoders_only_train_their_projections(name, stage):
    config = load_example(name, stage)
    for tower in ("image", "text"):
        adapt = "frozen" if (stage, tower) == ("distil", "image") else "last:0"
        assert config.model[tower].adapt == adapt
        assert config.model[tower].backbone.startswith("keras_hub:")
    # Code-switched texts change in each epoch, so their features cannot be stored.
    texts = {} if stage == "codeswitch" else {"text": "e5"}
    assert stored_vectors.stored_features(config) == {"image": "lite0", **texts}


def test_both_examples_with_trained_encoders_have_the_same_recipe():
    for stage in _WITHOUT_FINETUNE:
        emoji, photos = (load_example(name, stage) for name in TRAINED_ENCODERS)
        assert (emoji.steps, emoji.batch_size) == (photos.steps, photos.batch_size)
        assert emoji.optimizer == photos.optimizer and emoji.model == photos.model


@pytest.mark.parametrize("name", ["emoji", "emoji_trained", "photos", "photos_trained"])
def test_control_and_etcl_have_the_same_schedule(name):
    control, etcl = load_example(name, "control"), load_example(name, "etcl")
    assert control.init_stage == etcl.init_stage == "mural"
    assert (control.steps, control.batch_size) == (etcl.steps, etcl.batch_size)
    assert control.optimizer == etcl.optimizer


def test_own_example_takes_languages_and_bitext():
    own = importlib.import_module("tf_mural.configs.examples.own")
    mural = own.get_config("mural", "flowers", first=("de",), bitext="news/train")
    assert list(mural.sources.captions.records) == ["flowers/train"]
    assert list(mural.sources.captions.languages) == ["de"]
    assert list(mural.sources.bitext.records) == ["news/train"]
    distil = own.get_config("distil", "flowers", first=("de",))
    extraction = distil.sources.translations.extraction
    assert (extraction.records, extraction.languages) == (("flowers/train",), ("de",))
    etcl = own.get_config("etcl", "flowers", triples=["de", "fr"])
    assert list(etcl.sources.triples.languages) == ["de", "fr"]
    assert list(etcl.evaluation.retrieval.trained) == ["de", "fr"]


def test_unknown_stage_of_an_example_is_named():
    with pytest.raises(UserError, match="emoji.py.*unknown stage 'align'; known: mural, control"):
        load_example("emoji", "align")


@pytest.mark.parametrize(
    "body, message",
    [
        ("return None", "return the ConfigDict of that stage, got <class 'NoneType'>"),
        ("return mural.get_config()", "of that stage, got stage 'mural'"),
        ("return mural.get_config().nothing", "raised AttributeError"),
    ],
)
def test_error_names_what_get_config_returned(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(f"from tf_mural.configs import mural\ndef get_config(stage):\n    {body}\n")
    with pytest.raises(UserError, match=message):
        config_loading.load_config("etcl", "tiny", str(path))


# --- from raw data to results ---------------------------------------------------------------------

UNSEEN = ["sw", "zh-Hant"]
# A config file of a user, which changes values of the example.
QUICK = """
from tf_mural.configs.examples import emoji

def get_config(stage):
    config = emoji.get_config(stage)
    config.batch_size, config.steps, config.optimizer.warmup_steps = 8, 2, 0
    config.images.resize, config.images.crop, config.model.image.image_size = 36, 32, 32
    return config
"""


def write_raw_data(folder):
    """Writes raw data in the format of the emoji example.

    There are 10 images for training and 4 for evaluation. Their names contain quotation marks.
    """
    (folder / "images").mkdir(parents=True)
    lines = ["\t".join(["image_id", "kind", "group", "split", *TRIPLE_LANGUAGES, *UNSEEN])]
    for i in range(14):
        Image.new("RGB", (72, 72), (17 * i, 255 - 17 * i, 99)).save(folder / f"images/1f{i:03}.png")
        names = [f'"{code}{i}" thing' for code in (*TRIPLE_LANGUAGES, *UNSEEN)]
        if i == 0:
            names[-1] = ""  # the first image has no name in this language
        split = "val" if i >= 10 else "train"
        lines.append("\t".join([f"1f{i:03}", "base", str(i), split, *names]))
    (folder / "names.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tools, tmp_path_factory):
    """(folder, output): converted records, a run of ETCL, and runs of MURAL and the control."""
    folder = tmp_path_factory.mktemp("emoji")
    write_raw_data(folder / "raw")
    (folder / "quick.py").write_text(QUICK)
    table = ["image_column=image_id", "image_dir=images", "image_suffix=.png"]
    table += ["split_column=split", "quoting=none"]
    converted = tools.run(
        folder,
        "convert.py",
        "--dataset=table",
        f"--raw_dir={folder / 'raw'}",
        "--out_dir=data/emoji",
        *(f"--table.{option}" for option in table),
        "--augmentations=crop",
        "--vocab_size=300",
    )
    assert converted.code == 0, converted.err
    done = tools.run(folder, "train.py", "--config=quick.py", "--stage=etcl")
    assert done.code == 0, done.err
    return folder, done.out


@pytest.mark.slow
def test_quotes_in_the_table_are_kept(trained):
    manifest = json.loads((trained[0] / "data/emoji/train/manifest.json").read_text())
    assert manifest["records"] == manifest["images"] == 10
    assert manifest["languages"] == {
        **dict.fromkeys([*TRIPLE_LANGUAGES, *UNSEEN], 10),
        "zh-Hant": 9,
    }
    assert manifest["augmentations"] == ["crop"]
    assert '"' in (trained[0] / "data/emoji/vocab.txt").read_text().splitlines()


@pytest.mark.slow
def test_stage_trains_its_dependencies_first(trained):
    folder, output = trained
    results = {
        stage: json.loads((folder / f"runs/emoji/{stage}-s0/results.json").read_text())
        for stage in ("mural", "control", "etcl")
    }
    mural = os.path.join("runs", "emoji", "mural-s0")
    assert [r["init"] for r in results.values()] == [None, mural, mural]
    assert list(results["etcl"]["compare_with"]) == ["mural", "control"]
    assert results["etcl"]["groups"] == {"trained": TRIPLE_LANGUAGES, "unseen": UNSEEN}
    for stage, result in results.items():
        assert (result["stage"], result["size"], result["steps"]) == (stage, "emoji", 2)
        retrieval = result["evaluation"]["retrieval"]
        assert retrieval["counts"]["images"] == 4
        assert set(retrieval["values"]) == {*TRIPLE_LANGUAGES, *UNSEEN}
        # In a random ranking of 4 images, the recalls at 1, 5 and 10 are 25, 100 and 100 %.
        assert retrieval["values"]["sw"]["chance"] == pytest.approx(75)
    assert "training it first" in output and "etcl - control" in output


@pytest.mark.slow
def test_finished_stages_are_not_trained_again(trained, tools):
    folder, _ = trained
    own = ("--config.log_every=1", "--config.vocabulary=emoji/vocab.txt")
    output = tools.run(folder, "train.py", "--config=quick.py", "--stage=etcl", *own).out
    assert output.count("already finished") == 3 and "training in" not in output
    assert "mural, control: trained without --config.log_every=1\n" in output


def test_config_may_require_initial_weights(tools, tmp_path):
    (tmp_path / "requires.py").write_text(
        QUICK.replace("    return", "    config.train_dependencies = False\n    return")
    )
    message = tools.run(tmp_path, "train.py", "--config=requires.py", "--stage=etcl").error()
    assert message.startswith("stage etcl starts from the weights of mural: give --init, ")
    assert not (tmp_path / "runs").exists()
