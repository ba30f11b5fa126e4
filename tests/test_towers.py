"""Two towers of one modality: a frozen second text tower as the teacher of the first."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from helpers import trainers

from tf_mural import experiment, export, models
from tf_mural.backends import tensorflow as tf_backend
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, initialization
from tf_mural.experiment.fields import field_modalities, field_towers
from tf_mural.export import presets
from tf_mural.objective import Term
from tf_mural.training import checkpoints

CONFIG = os.path.join(ROOT, "tests", "teacher_config.py")
SMALL_CONFIG = os.path.join(ROOT, "tests", "small_config.py")
IMAGE = dict(backbone="test", image_size=trainers.IMAGE_SIZE)
TEXT = dict(
    backbone="test", vocabulary_size=trainers.VOCABULARY_SIZE, max_tokens=trainers.MAX_TOKENS
)
FIELDS = {"source": "teacher", "target": "text"}


def make_encoder(seed=0, **options):
    keras.utils.set_random_seed(seed)
    options = {"towers": {"teacher": {"modality": "text", **TEXT}}, **options}
    return models.dual_encoder(IMAGE, TEXT, trainers.EMBEDDING_DIM, **options)


def tower_values(encoder, tower):
    return [v.numpy() for v in encoder.towers[tower].variables if "seed_generator" not in v.path]


def test_variables_of_a_further_tower_have_paths_of_their_own():
    encoder = make_encoder()
    plain = make_encoder(towers=None)
    paths, plain_paths = (checkpoints.variables_by_path(e).keys() for e in (encoder, plain))
    further = {path for path in paths if path.startswith("teacher/")}
    assert paths - further == set(plain_paths)
    text = checkpoints.variables_by_path(plain.towers["text"])
    assert further == {f"teacher/{path}" for path in text}
    assert encoder.modalities == {"image": "image", "text": "text", "teacher": "text"}
    assert encoder.default_tower("text") == "text"
    # The first two towers get the same initial values as without a further tower.
    for tower in ("image", "text"):
        for a, b in zip(tower_values(encoder, tower), tower_values(plain, tower), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_further_image_tower_has_the_variables_of_the_first():
    encoder = make_encoder(towers={"other": {"modality": "image", **IMAGE}})
    image = checkpoints.variables_by_path(encoder.towers["image"])
    other = checkpoints.variables_by_path(encoder.towers["other"])
    assert set(other) == {f"other/{path}" for path in image}
    with pytest.raises(UserError, match="unknown modality 'video'; known: image, text"):
        make_encoder(towers={"other": {"modality": "video"}})


@pytest.mark.parametrize("microbatch", [None, 4])
def test_the_student_is_trained_and_its_frozen_teacher_is_not(microbatch):
    encoder = make_encoder(towers={"teacher": {"modality": "text", "adapt": "frozen", **TEXT}})
    term = Term("t", "source", "target", 1.0)
    trainer = tf_backend.Trainer(encoder, [term], FIELDS, ("de", "en"), microbatch=microbatch)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(encoder.trainable_variables)
    trainer.compile(optimizer=optimizer)
    batch = trainers.make_batch("mural")
    batch = {field: batch[field] for field in FIELDS}
    before = {tower: tower_values(encoder, tower) for tower in ("text", "teacher")}
    embeddings = trainer.core.encode(trainers.to_tensors(batch), training=False)
    for field, tower in FIELDS.items():
        expected = encoder.encode(tower, batch[field]["tokens"])
        np.testing.assert_allclose(embeddings[field], expected, rtol=1e-5, atol=1e-6)
    losses = [float(trainer.train_step(trainers.to_tensors(batch))["loss"]) for _ in range(4)]
    assert losses[-1] < losses[0]
    for a, b in zip(before["teacher"], tower_values(encoder, "teacher"), strict=True):
        np.testing.assert_array_equal(a, b)
    pairs = zip(before["text"], tower_values(encoder, "text"), strict=True)
    assert sum(not np.array_equal(a, b) for a, b in pairs) > 10


def test_weights_are_saved_loaded_and_copied_to_the_teacher(tmp_path):
    tokens = trainers.make_batch("etcl")["text_a"]["tokens"]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    runs = {}
    for name, encoder in (("plain", make_encoder(1, towers=None)), ("both", make_encoder(2))):
        runs[name] = (str(tmp_path / name), encoder)
        weights = {p: v.numpy() for p, v in checkpoints.variables_by_path(encoder).items()}
        checkpoints.save_model(str(tmp_path / name), weights, {}, str(vocabulary))
    # A run with both towers hands over both.
    folder, saved = runs["both"]
    other = make_encoder(3)
    arrays, copied = initialization.initial_arrays(folder, other)
    checkpoints.load_weights(folder, other, arrays)
    assert copied == {}
    for tower in ("text", "teacher"):
        np.testing.assert_array_equal(other.encode(tower, tokens), saved.encode(tower, tokens))
    # A run without the teacher hands over its text tower to both.
    folder, saved = runs["plain"]
    arrays, copied = initialization.initial_arrays(folder, other)
    checkpoints.load_weights(folder, other, arrays)
    assert copied == {"teacher": "text"}
    for tower in ("text", "teacher"):
        np.testing.assert_array_equal(other.encode(tower, tokens), saved.encode("text", tokens))
    # Another text tower does not fit.
    larger = make_encoder(3, towers={"teacher": {"modality": "text", **TEXT, "backbone": "nano"}})
    arrays, _ = initialization.initial_arrays(folder, larger)
    with pytest.raises(UserError, match="teacher/.*(has shape|is missing)"):
        checkpoints.load_weights(folder, larger, arrays)


def test_towers_of_a_config_are_checked():
    config = config_loading.load_config("mural", "tiny", CONFIG)
    experiment.check_config(config, 1)
    assert field_towers(config)["source"] == "teacher"
    assert field_modalities(config)["source"] == "text"

    def check(message, **changes):
        config = config_loading.load_config("mural", "tiny", CONFIG)
        for name, value in changes.items():
            config.model.towers.teacher[name] = value
        with pytest.raises(UserError, match=message):
            experiment.check_config(config, 1)

    check("unknown modality .of model.towers.teacher. 'txt'; known: image, text", modality="txt")
    check("teacher.max_tokens is 7, but model.text.max_tokens is 32", max_tokens=7)
    config.sources.bitext.fields.source = "text"
    with pytest.raises(UserError, match="no field names the tower 'teacher'; remove model.towers"):
        experiment.check_config(config, 1)
    config.sources.bitext.fields.source = "techer"
    with pytest.raises(UserError, match="unknown tower .*'source'. 'techer'; .*mean 'teacher'"):
        experiment.check_config(config, 1)


@pytest.mark.slow
def test_a_run_with_a_teacher_trains_loads_exports_and_hands_over(tools, data_dir, tmp_path):
    def train(name, config, *flags):
        arguments = (f"--config={config}", "--stage=mural", f"--data_dir={data_dir}", *flags)
        done = tools.run(tmp_path, "train.py", *arguments, f"--workdir={tmp_path / name}")
        assert done.code == 0, done.err
        return done.out

    train("plain", SMALL_CONFIG)
    out = train("taught", CONFIG, f"--init={tmp_path / 'plain'}")
    assert "the tower 'teacher'" in out and "starts with the weights of 'text'" in out
    out = train("again", CONFIG, f"--init={tmp_path / 'taught'}")
    assert "the tower 'teacher'" not in out
    plain, taught, again = (
        experiment.load(str(tmp_path / name)) for name in ("plain", "taught", "again")
    )
    texts = ["a red circle", "ein roter Kreis"]
    tokens = plain.tokenizer(tf.constant(texts))
    expected = plain.encoder.encode("text", tokens)
    for model in (taught, again):
        np.testing.assert_array_equal(model.encoder.encode("teacher", tokens), expected)
        assert np.abs(model.encoder.encode("text", tokens) - expected).max() > 1e-4
        # The student embeds texts, unless another tower is selected.
        np.testing.assert_allclose(
            model.embed.embed_texts(texts), model.encoder.encode("text", tokens), atol=1e-6
        )
        embed = experiment.batch_embedder(
            model.encoder, model.tokenizer, model.preprocessing, towers={"text": "teacher"}
        )
        np.testing.assert_allclose(embed.embed_texts(texts), expected, atol=1e-6)
    check_exports(tmp_path / "taught", taught, texts, expected, tmp_path)


def check_exports(workdir, model, texts, expected, folder):
    """Exports a model to all formats, and compares the texts that its teacher embeds."""
    tokens = model.tokenizer(tf.constant(texts))
    export.export_saved_model(str(folder / "saved_model"), model)
    signatures = tf.saved_model.load(str(folder / "saved_model")).signatures
    assert set(signatures) >= {"embed_texts", "embed_images", "embed_texts_teacher"}
    actual = signatures["embed_texts_teacher"](texts=tf.constant(texts))["embeddings"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    default = signatures["serving_default"](texts=tf.constant(texts))["embeddings"]
    np.testing.assert_allclose(default, model.encoder.encode("text", tokens), atol=1e-5)

    arguments = experiment.model_arguments(experiment.read_description(str(workdir)))
    parts = (model.encoder, model.tokenizer, model.preprocessing)
    presets.save_preset(str(folder / "preset"), arguments, *parts)
    preset = experiment.load(str(folder / "preset"))
    np.testing.assert_allclose(preset.encoder.encode("teacher", tokens), expected, atol=1e-6)

    pytest.importorskip("tf2onnx", reason="pip install -r requirements-export.txt")
    import onnxruntime

    differences = export.export_onnx(str(folder / "onnx"), model)
    assert differences.keys() == {"image", "text", "teacher"}
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "teacher.onnx"))
    (actual,) = session.run(None, {"tokens": np.asarray(tokens)})
    np.testing.assert_allclose(actual, expected, atol=1e-5)
