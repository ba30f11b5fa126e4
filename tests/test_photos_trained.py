"""The example of photographs with trained encoders, from raw data to results."""

import json
import os

import numpy as np
import pytest
from conftest import ROOT

PHOTOS = os.path.join(ROOT, "..", "shared", "data", "flickr30k")
# A config file of a user, with other encoders and few steps.
SMALL = """
from tf_mural.configs.examples import photos_trained

photos_trained.ENCODERS = {{"image": "keras_hub:{image}", "text": "keras_hub:{text}"}}

def get_config(stage):
    config = photos_trained.get_config(stage)
    config.batch_size, config.steps, config.optimizer.warmup_steps = 8, 3, 0
    return config
"""
LANGUAGES = {"ar", "cs", "de", "en", "fr", "nl", "pt", "zh"}


def write_photos(folder, split, count):
    """Writes the captions of the first photographs of a split; the images are links."""
    with open(os.path.join(PHOTOS, f"captions.{split}.jsonl"), encoding="utf-8") as file:
        lines = [next(file) for _ in range(count)]
    folder.mkdir(exist_ok=True)
    (folder / f"captions.{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    images = folder / "flickr30k-images"
    if not images.exists():
        images.symlink_to(os.path.join(PHOTOS, "flickr30k-images"))


@pytest.fixture(scope="module")
def commands(tools, tmp_path_factory):
    """(folder, {name: output}) of the commands of `make photos` and of a run of ETCL."""
    if not os.path.isdir(PHOTOS):
        pytest.skip("no ../shared/data/flickr30k")
    from helpers import keras_hub_presets as presets

    folder, outputs = tmp_path_factory.mktemp("photos"), {}
    backbones = {"lite0": (presets.efficientnet_lite(),), "e5": presets.e5()}
    for name, (backbone, *tokenizer) in backbones.items():
        backbones[name] = presets.save(folder / name, presets.randomize(backbone), *tokenizer)
    (folder / "small.py").write_text(SMALL.format(image=backbones["lite0"], text=backbones["e5"]))
    for split, count in (("train", 24), ("val", 6)):
        write_photos(folder / "raw", split, count)

    def run(key, *arguments):
        done = tools.run(folder, *arguments)
        assert not done.code, done.err
        outputs[key] = done.out

    table = {"image_column": "id", "image_dir": "flickr30k-images", "image_suffix": ".jpg"}
    convert = ["convert.py", "--dataset=table", f"--raw_dir={folder / 'raw'}", "--out_dir=records"]
    convert += [f"--table.{key}={value}" for key, value in table.items()]
    for split, keys, *options in (
        ("train", "parallel,independent", "--table.languages=en,de,fr"),
        ("val", "parallel,independent"),
        ("bitext", "parallel", "--table.split_column="),
    ):
        file = f"--table.file=captions.{'val' if split == 'val' else 'train'}.jsonl"
        run(split, *convert, f"--split={split}", file, f"--table.texts_keys={keys}", *options)
    for name, of, out, records in (
        ("lite0", "images", "images", "records/train,records/val"),
        ("e5", "texts", "data/photos_trained", "images/train,images/val,records/bitext"),
    ):
        flags = (f"--model=keras_hub:{backbones[name]}", f"--records={records}", "--features")
        run(name, "extract.py", *flags, f"--name={name}", f"--of={of}", f"--out_dir={out}")
    run("etcl", "train.py", "--config=small.py", "--stage=etcl")
    return folder, outputs


@pytest.mark.slow
def test_stages_train_the_projections_of_stored_features(commands):
    folder, outputs = commands
    weights = {}
    for stage in ("mural", "etcl"):
        with np.load(folder / f"runs/photos_trained/{stage}-s0/weights.npz") as file:
            weights[stage] = dict(file)
    changed = {k for k, v in weights["etcl"].items() if (v != weights["mural"][k]).any()}
    # The temperature is fixed.
    assert len(changed) == 4 and all("_projection" in name for name in changed)
    assert outputs["etcl"].count("only its projection runs in a step") == 6  # 2 towers, 3 stages
    results = json.loads((folder / "runs/photos_trained/etcl-s0/results.json").read_text())
    assert set(results["evaluation"]["retrieval"]["values"]) == LANGUAGES
    assert list(results["compare_with"]) == ["mural", "control"]
    assert results["groups"]["unseen"] == ["ar", "cs", "nl", "pt", "zh"]


@pytest.mark.slow
def test_code_switched_captions_are_encoded_in_the_step(commands, tools):
    folder, _ = commands
    path = "data/photos_trained"
    arguments = (f"--records={path}/bitext", f"--out_dir={path}/lexicon", "--min_count=1")
    assert not tools.run(folder, "lexicon.py", "bitext", *arguments).code
    done = tools.run(folder, "train.py", "--config=small.py", "--stage=codeswitch")
    assert not done.code, done.err
    assert "code-switching of captions/caption: words are replaced" in done.out
    assert done.out.count("the tower 'image' reads its features") == 1
    assert "the tower 'text' reads its features" not in done.out
    run = folder / "runs/photos_trained/codeswitch-s0"
    assert 0 < json.loads((run / "results.json").read_text())["switched"]["caption"] < 1
    weights = [
        np.load(folder / f"runs/photos_trained/{n}-s0/weights.npz") for n in ("mural", "codeswitch")
    ]
    changed = [k for k in weights[1] if (weights[1][k] != weights[0][k]).any()]
    assert len(changed) == 4 and all("_projection" in name for name in changed)


@pytest.mark.slow
def test_evaluation_of_stored_features_equals_that_of_the_encoders(commands, tools):
    """The recalls differ by less than one photograph, because the features are float16."""
    folder, _ = commands
    model = "runs/photos_trained/etcl-s0"
    arguments = (f"--model={model}", "--task=retrieval", "--records=data/photos_trained/val")
    done = tools.run(folder, "evaluate.py", *arguments)
    assert not done.code, done.err
    (path,) = (folder / model / "evals").glob("retrieval*.json")
    by_encoders = json.loads(path.read_text())["values"]
    results = json.loads((folder / model / "results.json").read_text())
    for code, values in results["evaluation"]["retrieval"]["values"].items():
        difference = values["average_recall"] - by_encoders[code]["average_recall"]
        assert abs(difference) < 100 / 6, code
