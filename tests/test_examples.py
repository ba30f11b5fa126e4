"""The configs of configs/examples: well formed, and trained from raw folder to results."""

import glob
import importlib
import json
import os
import subprocess
import sys

import options
import pytest
from conftest import ROOT
from PIL import Image

from tf_mural import experiment
from tf_mural.errors import UserError

EXAMPLES = {
    "emoji": ("mural", "control", "etcl", "sixlang"),
    "own": options.STAGES,
    "photos": ("mural", "control", "etcl"),
}
BITEXT = {"photos"}  # examples whose translations are records of their own
SIX = ["en", "de", "fr", "cs", "zh", "ja"]


def path_of(name):
    return os.path.join(ROOT, "configs", "examples", f"{name}.py")


def load(name, stage):
    return options.load_config(stage, "tiny", path_of(name))


def image_sources(config):
    return [source for source in config.sources.values() if "image" in source.fields]


def run(tool, cwd, *arguments, fails=False):
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "tools", tool), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )
    assert done.returncode == (2 if fails else 0), done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def test_every_example_is_tested():
    files = {os.path.basename(path)[:-3] for path in glob.glob(path_of("*"))}
    assert files - {"__init__"} == set(EXAMPLES)


@pytest.mark.parametrize("name, stage", [(n, s) for n, stages in EXAMPLES.items() for s in stages])
def test_configs_are_well_formed(name, stage):
    config = load(name, stage)
    experiment.check(config, replicas=1)
    assert (config.stage, config.size) == (stage, name)
    assert config.makes == () and config.vocabulary == f"{name}/vocab.txt"
    assert config.evaluation.retrieval.records == f"{name}/val"
    for source in config.sources.values():
        is_bitext = name in BITEXT and "image" not in source.fields
        assert list(source.records) == [f"{name}/bitext" if is_bitext else f"{name}/train"]
    for other in filter(None, (config.starts_from, config.report.control, *config.report.beside)):
        # The same file makes the runs that this one starts from and is compared with.
        before = load(name, other)
        assert before.stage == other and config.chain
        assert before.model == config.model and before.images == config.images
    for term in config.terms.values():
        assert (term.margin, term.label_smoothing) == (0.3, 0.1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_leaves_the_sizes_of_the_package_alone(name):
    stages = options.STAGES
    before = {stage: options.load_config(stage, "tiny").to_json() for stage in stages}
    for stage in EXAMPLES[name]:
        load(name, stage)
    assert before == {stage: options.load_config(stage, "tiny").to_json() for stage in stages}


def test_languages_of_the_emoji_example():
    for stage in ("mural", "control"):
        config = load("emoji", stage)
        (source,) = image_sources(config)
        assert list(source.languages) == ["en"]
        assert list(config.sources.bitext.languages) == []  # all
    for stage in ("etcl", "sixlang"):
        (source,) = image_sources(load("emoji", stage))
        assert list(source.languages) == SIX
    assert list(load("emoji", "etcl").evaluation.retrieval.trained) == SIX


def test_languages_of_the_photos_example():
    """Czech, and whatever else the captions are in, meets translations alone."""
    for stage, expected in (("mural", ["en"]), ("control", ["en"]), ("etcl", ["en", "de", "fr"])):
        config = load("photos", stage)
        (source,) = image_sources(config)
        assert list(source.languages) == expected
        assert list(config.evaluation.retrieval.trained) == ["en", "de", "fr"]
        assert list(config.evaluation.retrieval.languages) == []  # all
        if stage != "etcl":
            assert list(config.sources.bitext.languages) == []  # all


@pytest.mark.parametrize("name", ["emoji", "photos"])
def test_the_control_and_etcl_have_one_schedule(name):
    control, etcl = load(name, "control"), load(name, "etcl")
    assert control.starts_from == etcl.starts_from == "mural"
    assert (control.steps, control.batch_size) == (etcl.steps, etcl.batch_size)
    assert control.optimizer == etcl.optimizer


def test_arguments_of_the_own_example():
    own = importlib.import_module("configs.examples.own")
    mural = own.get_config("mural", "flowers", first=("de",), bitext="news/train")
    assert list(mural.sources.captions.records) == ["flowers/train"]
    assert list(mural.sources.captions.languages) == ["de"]
    assert list(mural.sources.bitext.records) == ["news/train"]
    etcl = own.get_config("etcl", "flowers", triples=["de", "fr"])
    assert list(etcl.sources.triples.languages) == ["de", "fr"]
    assert list(etcl.evaluation.retrieval.trained) == ["de", "fr"]


def test_an_unknown_stage_is_named():
    with pytest.raises(UserError, match="emoji.py.*unknown stage 'align'; known: mural, control"):
        load("emoji", "align")


@pytest.mark.parametrize(
    "body, message",
    [
        ("return None", "return the ConfigDict of that stage, got <class 'NoneType'>"),
        ("return mural.get_config()", "of that stage, got stage 'mural'"),
        ("return mural.get_config().nothing", "raised AttributeError"),
    ],
)
def test_a_file_that_gives_no_config_of_the_stage(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(f"from configs import mural\ndef get_config(stage):\n    {body}\n")
    with pytest.raises(UserError, match=message):
        options.load_config("etcl", "tiny", str(path))


# --- from a raw folder to results, by the commands ------------------------------------------------

UNSEEN = ["sw", "zh-Hant"]
# A config file as a user writes one: what differs from the example.
QUICK = """
from configs.examples import emoji

def get_config(stage):
    config = emoji.get_config(stage)
    config.batch_size, config.steps, config.optimizer.warmup_steps = 8, 2, 0
    config.images.resize, config.images.crop, config.model.image.image_size = 36, 32, 32
    return config
"""


def miniature(folder):
    """14 pictures in the layout of the emoji: 10 to train on, 4 to validate; one name is quoted."""
    (folder / "images").mkdir(parents=True)
    lines = ["\t".join(["image_id", "kind", "group", "split", *SIX, *UNSEEN])]
    for i in range(14):
        Image.new("RGB", (72, 72), (17 * i, 255 - 17 * i, 99)).save(folder / f"images/1f{i:03}.png")
        names = [f'"{code}{i}" thing' for code in (*SIX, *UNSEEN)]
        if i == 0:
            names[-1] = ""  # not named in every language
        split = "val" if i >= 10 else "train"
        lines.append("\t".join([f"1f{i:03}", "base", str(i), split, *names]))
    (folder / "names.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the miniature was converted, and ETCL trained with all it needs."""
    folder = tmp_path_factory.mktemp("emoji")
    miniature(folder / "raw")
    (folder / "quick.py").write_text(QUICK)
    table = ["image_column=image_id", "image_dir=images", "image_suffix=.png"]
    table += ["split_column=split", "quoting=none"]
    run(
        "convert.py",
        folder,
        "--dataset=table",
        f"--raw_dir={folder / 'raw'}",
        "--out_dir=data/emoji",
        *(f"--table.{option}" for option in table),
        "--augmentations=crop",
        "--vocab_size=300",
    )
    said = run("train.py", folder, "--config=quick.py", "--stage=etcl")
    return folder, said


def test_the_table_was_read_as_it_stands(trained):
    manifest = json.loads((trained[0] / "data/emoji/train/manifest.json").read_text())
    assert manifest["records"] == manifest["images"] == 10
    assert manifest["languages"] == {**dict.fromkeys([*SIX, *UNSEEN], 10), "zh-Hant": 9}
    assert manifest["augmentations"] == ["crop"]
    assert '"' in (trained[0] / "data/emoji/vocab.txt").read_text().splitlines()


def test_stages_chain_by_themselves(trained):
    folder, said = trained
    results = {
        stage: json.loads((folder / f"runs/emoji/{stage}-s0/results.json").read_text())
        for stage in ("mural", "control", "etcl")
    }
    mural = os.path.join("runs", "emoji", "mural-s0")
    assert [r["init"] for r in results.values()] == [None, mural, mural]
    assert list(results["etcl"]["beside"]) == ["mural", "control"]
    assert results["etcl"]["groups"] == {"trained": SIX, "unseen": UNSEEN}
    for stage, result in results.items():
        assert (result["stage"], result["size"], result["steps"]) == (stage, "emoji", 2)
        retrieval = result["evaluation"]["retrieval"]
        assert retrieval["counts"]["images"] == 4
        assert set(retrieval["values"]) == {*SIX, *UNSEEN}
        # A random order of 4 finds 1/4 at rank 1, and all within 5.
        assert retrieval["values"]["sw"]["chance"] == pytest.approx(75)
    assert "training that first" in said and "etcl - control" in said


def test_a_second_call_trains_nothing(trained):
    folder, _ = trained
    own = ("--config.log_every=1", "--config.vocabulary=emoji/vocab.txt")  # its own, and everyone's
    said = run("train.py", folder, "--config=quick.py", "--stage=etcl", *own)
    assert said.count("finished already") == 3 and "training in" not in said
    assert "mural, control: trained without --config.log_every=1\n" in said


def test_a_config_may_ask_for_init_instead(tmp_path):
    (tmp_path / "asks.py").write_text(
        QUICK.replace("    return", "    config.chain = False\n    return")
    )
    said = run("train.py", tmp_path, "--config=asks.py", "--stage=etcl", fails=True)
    assert said.startswith("error: stage etcl starts from the weights of mural: give --init=")
    assert not (tmp_path / "runs").exists()
