"""tools/train.py from public weights: what they decide, what is kept, and what comes after."""

import json
import os
import shutil

import numpy as np
import options
import pytest
import tensorflow as tf
from golden import huggingface_case as case

from tf_mural import experiment
from tf_mural.data import tokenizers
from tf_mural.errors import UserError
from tf_mural.training import checkpoints

ALIGN, BERT = (os.path.join(case.FOLDER, name) for name in ("align", "bert"))
# Nothing moves: neither the weights nor the statistics of the batch norms.
STILL = (
    "--strategy=one",
    "--config.batch_size=8",
    "--config.evaluation.retrieval.languages=en",
    "--config.checkpoint_every=2",
    "--config.optimizer.learning_rate=0.0",
    "--config.model.image.batch_norm_momentum=1.0",
    "--config.steps=2",
    "--config.optimizer.warmup_steps=0",
)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def public(tools, data_dir, tmp_path_factory):
    """(folder, what was said) of a run from a checkpoint that is gone by now; workdir `first`."""
    folder = tmp_path_factory.mktemp("public")
    shutil.copytree(ALIGN, folder / "checkpoint")
    arguments = ("--stage=align", *STILL, f"--data_dir={data_dir}", "--workdir=first")
    done = tools.run(folder, "train.py", *arguments, "--init=hf:checkpoint")
    shutil.rmtree(folder / "checkpoint")
    return folder, done


# --- a run from ALIGN -----------------------------------------------------------------------------


def test_it_says_what_the_weights_decide(public):
    _, done = public
    assert done.code == 0 and done.err == "", done.err
    assert "align: training in first, from hf:checkpoint\n" in done.out
    (line,) = [x for x in done.out.splitlines() if x.startswith("decided by these weights: ")]
    for part in (
        "lower_case=True",
        "model.text.sizes=(2, 32, 4, 48)",
        "model.text.activation=gelu",
        "model.text.max_tokens=20",
        "model.image.padding=end",
        "model.image.image_size=33",
        "images.resize=40",
        "images.crop=33",
        "model.embedding_dim=96",
        "pretrained=hf:checkpoint",
        "vocabulary=first/vocab.txt",
    ):
        assert part in line
    # The EfficientNet is tiny's already.
    assert line.count("=") == 11
    assert "hf:checkpoint: 135 of 135 variables loaded\n" in done.out


def test_the_run_embeds_as_the_checkpoint_without_it(public):
    model = experiment.load(str(public[0] / "first"))
    encoder, tokenizer, embed = model.encoder, model.tokenizer, model.embed
    with np.load(case.OUTPUTS) as recorded:
        rows = {kind: recorded[f"align/{kind}_rows"] for kind in ("image", "text")}
        fits = recorded["align/tokens"][:, -1] == 0  # the others were cut to twelve tokens
    assert tokenizer.max_tokens == 20 and float(encoder.temperatures["shared"]) == 0.0625
    assert fits.sum() == 4
    found = embed.texts(case.TEXTS)
    np.testing.assert_allclose(found[fits], rows["text"][fits], atol=1e-5)
    # Evaluation resizes to 40 and takes the middle.
    edge = (case.RESIZE - case.CROP) // 2
    room = case.RESIZE - case.CROP - edge
    whole = np.pad(case.images(case.CROP), ((0, 0), (edge, room), (edge, room), (0, 0)))
    found = embed.images(tf.io.encode_png(image).numpy() for image in whole)
    np.testing.assert_allclose(found, rows["image"], atol=1e-5)


def test_the_folder_tells_the_whole_truth(public):
    workdir = public[0] / "first"
    model, config = read(workdir / "model.json"), read(workdir / "config.json")
    assert config["pretrained"] == model["pretrained"] == "hf:checkpoint"
    assert config["lower_case"] is model["lower_case"] is True
    assert model["model"] == config["model"] and model["images"] == {"resize": 40, "crop": 33}
    assert model["vocabulary_hash"] == tokenizers.vocabulary_hash(case.VOCABULARY) + "-lower"
    assert tokenizers.load_vocabulary(workdir / "vocab.txt") == case.VOCABULARY
    assert read(workdir / "results.json")["init"] == "hf:checkpoint"


def test_the_same_command_needs_the_checkpoint_no_more(public, tools, data_dir):
    folder, _ = public
    shutil.copytree(folder / "first", folder / "again")
    os.remove(folder / "again" / "results.json")
    os.remove(folder / "again" / "weights.npz")
    config = read(folder / "again" / "config.json")
    config["vocabulary"] = "again/vocab.txt"
    (folder / "again" / "config.json").write_text(json.dumps(config))
    arguments = ("--stage=align", *STILL, f"--data_dir={data_dir}", "--workdir=again")
    done = tools.run(folder, "train.py", *arguments, "--init=hf:checkpoint")
    assert done.code == 0 and "resuming at step 2" in done.out, done.err
    with (
        np.load(folder / "first" / "weights.npz") as one,
        np.load(folder / "again" / "weights.npz") as two,
    ):
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])


def test_other_public_weights_are_refused_for_it(public, tools, data_dir):
    arguments = ("--stage=align", *STILL, f"--data_dir={data_dir}", "--workdir=first")
    message = tools.run(public[0], "train.py", *arguments, "--init=hf:other").error()
    assert message.startswith("first holds a run that did not start from hf:other but from hf:chec")


def test_the_next_stage_inherits_what_was_decided(public, tools, data_dir):
    folder, _ = public
    changes = [x for x in STILL if ".model." not in x]
    arguments = ("--stage=finetune", f"--data_dir={data_dir}", "--workdir=fine", *changes)
    done = tools.run(folder, "train.py", *arguments, "--init=first")
    assert done.code == 0, (done.out, done.err)
    assert "model.text.activation=gelu" in done.out and "vocabulary=fine/vocab.txt" in done.out
    before, after = (read(folder / name / "model.json") for name in ("first", "fine"))
    for part in ("pretrained", "images", "vocabulary_hash", "lower_case", "max_tokens"):
        assert before[part] == after[part], part
    assert after["model"]["image"]["padding"] == "end"
    again = tools.run(folder, "train.py", *arguments, "--init=first")
    assert again.code == 0 and "finetune: finished already" in again.out, again.err


# --- in one process -------------------------------------------------------------------------------


def config_of(*changes, size="tiny"):
    config = options.load_config("align", size)
    options.override(config, [f"--config.{change}" for change in changes])
    return config


def test_a_bert_decides_nothing_of_the_image_tower(tmp_path):
    config, workdir = config_of(), tmp_path / "run"
    note = experiment.adopt(config, f"hf:{BERT}", str(workdir))
    assert "model.text.sizes=(2, 32, 4, 48)" in note and "image" not in note
    plain = config_of()
    assert config.model.image == plain.model.image and config.images == plain.images
    assert config.model.embedding_dim == plain.model.embedding_dim
    # Its GELU is the approximate one, and it is cased: as in the config already.
    assert "activation" not in note and "lower_case" not in note
    assert tokenizers.load_vocabulary(workdir / "vocab.txt") == case.VOCABULARY


def test_a_bert_of_a_size_that_has_a_name_goes_by_it(tmp_path):
    shutil.copytree(BERT, tmp_path / "bert")
    found = {
        **read(tmp_path / "bert" / "config.json"),
        "hidden_size": 768,
        "intermediate_size": 3072,
    }
    found |= {"num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(found))
    config = config_of("model.text.name=nano", "model.text.sizes=1,2,1,2", size="paper")
    experiment.adopt(config, f"hf:{tmp_path / 'bert'}", str(tmp_path / "run"))
    assert (config.model.text.name, config.model.text.sizes) == ("base", ())
    assert config.model.text.max_tokens == 64


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_preset_and_public_weights_are_two_answers(kind, tmp_path):
    config = config_of(f"model.{kind}.preset=efficientnet_b0")
    with pytest.raises(UserError, match=f"model.{kind}.preset is 'efficientnet_b0', but .* set --"):
        experiment.adopt(config, f"hf:{ALIGN}", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def model(finished, tmp_path):
    """A copy of a finished run's model."""
    shutil.copytree(finished[0], tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    return tmp_path / "model"


def test_a_run_that_began_from_nothing_decides_nothing(model, tmp_path):
    config = config_of()
    assert experiment.adopt(config, str(model), str(tmp_path / "run")) == ""
    assert config == config_of() and not (tmp_path / "run").exists()


def test_a_model_that_says_nothing_of_all_this_is_as_it_was(model, finished):
    description = read(model / "model.json")
    for part, names in (("image", ["padding"]), ("text", ["sizes", "activation"])):
        for name in names:
            del description["model"][part][name]
    del description["lower_case"], description["pretrained"]
    checkpoints.write_json(str(model / "model.json"), description)
    found, expected = (
        experiment.load(str(f)).embed.texts(["A red circle"]) for f in (model, finished[0])
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "part, name, theirs, ours",
    [("text", "activation", "gelu", "gelu_approximate"), ("image", "padding", "end", "symmetric")],
)
def test_weights_are_handed_over_to_the_same_function_alone(part, name, theirs, ours, model):
    description = read(model / "model.json")
    run = type("Run", (), {"description": json.loads(json.dumps(description))})
    description["model"][part][name] = theirs
    checkpoints.write_json(str(model / "model.json"), description)
    message = f"trained with model.{part}.{name}={theirs}, this run has {ours}: set --config.model"
    with pytest.raises(UserError, match=message):
        experiment.hand_over(str(model), run)


def test_heads_of_other_tasks_are_told(tmp_path, data_dir, monkeypatch):
    from tf_mural import huggingface

    class Run:
        class trainer:
            class encoder:
                variables = ()

    names = [f"classifier.{i}" for i in range(5)]
    monkeypatch.setattr(huggingface, "weights", lambda checkpoint, shapes: ({}, names))
    note = experiment.hand_over(f"hf:{BERT}", Run)
    assert note.endswith("classifier.0, classifier.1, classifier.2 and 2 more have no place here")
