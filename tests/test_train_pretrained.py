"""Training from public weights: inherited settings, files of the run, and later stages."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from golden import huggingface_case as case

from tf_mural import experiment, file_io
from tf_mural.data import tokenizers
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading

ALIGN, BERT = (os.path.join(case.FOLDER, name) for name in ("align", "bert"))
# Flags of a run that changes neither the weights nor the statistics of batch norm.
NO_CHANGE = (
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
    """(folder, output) of a run in `folder/first`; its public checkpoint is deleted at the end."""
    folder = tmp_path_factory.mktemp("public")
    shutil.copytree(ALIGN, folder / "checkpoint")
    arguments = ("--stage=align", *NO_CHANGE, f"--data_dir={data_dir}", "--workdir=first")
    done = tools.run(folder, "train.py", *arguments, "--init=hf:checkpoint")
    shutil.rmtree(folder / "checkpoint")
    return folder, done


# --- a run from ALIGN -----------------------------------------------------------------------------


def test_run_prints_the_settings_of_the_weights(public):
    _, done = public
    assert done.code == 0 and done.err == "", done.err
    assert "align: training in first, from hf:checkpoint\n" in done.out
    (line,) = [x for x in done.out.splitlines() if x.startswith("set by the initial weights: ")]
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
    # The line lists only values that differ from the config. The EfficientNet is not listed,
    # because the config of this run selects the same one ("tiny").
    assert line.count("=") == 11
    assert "hf:checkpoint: 135 of 135 variables loaded\n" in done.out


def test_model_of_the_run_embeds_like_the_deleted_checkpoint(public):
    model = experiment.load(str(public[0] / "first"))
    encoder, tokenizer, embed = model.encoder, model.tokenizer, model.embed
    with np.load(case.OUTPUTS) as recorded:
        rows = {part: recorded[f"align/{part}_rows"] for part in ("image", "text")}
        # The recorded run cut texts after twelve tokens. `fits` marks the texts that were not cut.
        fits = recorded["align/tokens"][:, -1] == 0
    assert tokenizer.max_tokens == 20 and float(encoder.scalars["temperature"]["shared"]) == 0.0625
    assert fits.sum() == 4
    embedded = embed.embed_texts(case.TEXTS)
    np.testing.assert_allclose(embedded[fits], rows["text"][fits], atol=1e-5)
    # Evaluation resizes images to 40 px and crops the central 33 px, which removes the padding.
    edge = (case.RESIZE - case.CROP) // 2
    end = case.RESIZE - case.CROP - edge
    padded = np.pad(case.images(case.CROP), ((0, 0), (edge, end), (edge, end), (0, 0)))
    embedded = embed.embed_images(tf.io.encode_png(image).numpy() for image in padded)
    np.testing.assert_allclose(embedded, rows["image"], atol=1e-5)


def test_files_of_the_run_have_the_inherited_settings(public):
    workdir = public[0] / "first"
    model, config = read(workdir / "model.json"), read(workdir / "config.json")
    assert config["pretrained"] == model["pretrained"] == "hf:checkpoint"
    assert config["lower_case"] is model["lower_case"] is True
    assert model["model"] == config["model"] and model["images"] == config["images"]
    assert (model["images"]["resize"], model["images"]["crop"]) == (40, 33)
    assert model["vocabulary_hash"] == tokenizers.vocabulary_hash(case.VOCABULARY) + "-lower"
    assert tokenizers.load_vocabulary(workdir / "vocab.txt") == case.VOCABULARY
    assert read(workdir / "results.json")["init"] == "hf:checkpoint"


@pytest.mark.slow
def test_resume_does_not_need_the_checkpoint(public, tools, data_dir):
    folder, _ = public
    shutil.copytree(folder / "first", folder / "again")
    os.remove(folder / "again" / "results.json")
    os.remove(folder / "again" / "weights.npz")
    config = read(folder / "again" / "config.json")
    config["vocabulary"] = "again/vocab.txt"
    (folder / "again" / "config.json").write_text(json.dumps(config))
    arguments = ("--stage=align", *NO_CHANGE, f"--data_dir={data_dir}", "--workdir=again")
    done = tools.run(folder, "train.py", *arguments, "--init=hf:checkpoint")
    assert done.code == 0 and "resuming at step 2" in done.out, done.err
    with (
        np.load(folder / "first" / "weights.npz") as expected,
        np.load(folder / "again" / "weights.npz") as resumed,
    ):
        for name in expected.files:
            np.testing.assert_array_equal(resumed[name], expected[name])


def test_resume_with_other_public_weights_is_refused(public, tools, data_dir):
    arguments = ("--stage=align", *NO_CHANGE, f"--data_dir={data_dir}", "--workdir=first")
    message = tools.run(public[0], "train.py", *arguments, "--init=hf:other").error()
    assert message.startswith("first has a run that did not start from hf:other but from hf:check")


@pytest.mark.slow
def test_next_stage_inherits_the_settings(public, tools, data_dir):
    folder, _ = public
    changes = [x for x in NO_CHANGE if ".model." not in x]
    arguments = ("--stage=finetune", f"--data_dir={data_dir}", "--workdir=fine", *changes)
    done = tools.run(folder, "train.py", *arguments, "--init=first")
    assert done.code == 0, (done.out, done.err)
    assert "model.text.activation=gelu" in done.out and "vocabulary=fine/vocab.txt" in done.out
    before, after = (read(folder / name / "model.json") for name in ("first", "fine"))
    for part in ("pretrained", "images", "vocabulary_hash", "lower_case", "max_tokens"):
        assert before[part] == after[part], part
    assert after["model"]["image"]["padding"] == "end"
    again = tools.run(folder, "train.py", *arguments, "--init=first")
    assert again.code == 0 and "finetune: already finished" in again.out, again.err


# --- settings and weights -------------------------------------------------------------------------


def config_with(*changes, size="tiny"):
    config = config_loading.load_config("align", size)
    config_loading.apply_overrides(config, [f"--config.{change}" for change in changes])
    return config


def test_weights_of_a_bert_do_not_change_the_image_encoder(tmp_path):
    config, workdir = config_with(), tmp_path / "run"
    note = experiment.apply_init_settings(config, f"hf:{BERT}", str(workdir))
    assert "model.text.sizes=(2, 32, 4, 48)" in note and "image" not in note
    default = config_with()
    assert config.model.image == default.model.image and config.images == default.images
    assert config.model.embedding_dim == default.model.embedding_dim
    # In this BERT, as in the config, the GELU is approximate and the vocabulary is cased.
    assert "activation" not in note and "lower_case" not in note
    assert tokenizers.load_vocabulary(workdir / "vocab.txt") == case.VOCABULARY


def test_bert_of_a_known_size_is_selected_by_name(tmp_path):
    shutil.copytree(BERT, tmp_path / "bert")
    bert_config = {
        **read(tmp_path / "bert" / "config.json"),
        "hidden_size": 768,
        "intermediate_size": 3072,
    }
    bert_config |= {
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
    }
    (tmp_path / "bert" / "config.json").write_text(json.dumps(bert_config))
    config = config_with("model.text.backbone=nano", "model.text.sizes=1,2,1,2", size="paper")
    experiment.apply_init_settings(config, f"hf:{tmp_path / 'bert'}", str(tmp_path / "run"))
    assert (config.model.text.backbone, config.model.text.sizes) == ("base", None)
    assert config.model.text.max_tokens == 64


@pytest.mark.parametrize("modality", ["image", "text"])
def test_public_backbone_and_public_weights_exclude_each_other(modality, tmp_path):
    config = config_with(f"model.{modality}.backbone=keras_hub:efficientnet_b0")
    with pytest.raises(
        UserError, match=f"model.{modality}.backbone is 'keras_hub:.*', but .* omit `config"
    ):
        experiment.apply_init_settings(config, f"hf:{ALIGN}", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def model(finished, tmp_path):
    """A copy of the model of a finished run."""
    shutil.copytree(finished[0], tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints"))
    return tmp_path / "model"


def test_run_without_public_weights_determines_no_settings(model, tmp_path):
    config = config_with()
    assert experiment.apply_init_settings(config, str(model), str(tmp_path / "run")) == ""
    assert config == config_with() and not (tmp_path / "run").exists()


def test_model_of_an_earlier_version_embeds_as_before(model, finished):
    description = read(model / "model.json")
    for part, names in (("image", ["padding"]), ("text", ["sizes", "activation"])):
        for name in names:
            del description["model"][part][name]
    del description["lower_case"], description["pretrained"]
    file_io.write_json(str(model / "model.json"), description)
    embedded, expected = (
        experiment.load(str(f)).embed.embed_texts(["A red circle"]) for f in (model, finished[0])
    )
    np.testing.assert_array_equal(embedded, expected)


@pytest.mark.parametrize(
    "part, name, initial, current",
    [("text", "activation", "gelu", "gelu_approximate"), ("image", "padding", "end", "symmetric")],
)
def test_initial_weights_of_another_function_are_refused(part, name, initial, current, model):
    description = read(model / "model.json")
    run = type("Run", (), {"description": json.loads(json.dumps(description))})
    description["model"][part][name] = initial
    file_io.write_json(str(model / "model.json"), description)
    message = (
        f"trained with model.{part}.{name}={initial}, this run has {current}: set `config.model"
    )
    with pytest.raises(UserError, match=message):
        experiment.load_initial_weights(str(model), run)


def test_unused_tensors_of_public_weights_are_named(tmp_path, data_dir, monkeypatch):
    from tf_mural import huggingface

    class Run:
        description = {}

        class trainer:
            class encoder:
                variables = ()

    names = [f"classifier.{i}" for i in range(5)]
    monkeypatch.setattr(huggingface, "read_weights", lambda checkpoint, shapes: ({}, names))
    note = experiment.load_initial_weights(f"hf:{BERT}", Run)
    assert note.endswith("classifier.0, classifier.1, classifier.2 and 2 more are not used")
