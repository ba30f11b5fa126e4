"""The stage `distil`: its configs, the vectors that it requires, and a run from MURAL on."""

import dataclasses
import os
import shlex

import numpy as np
import pytest
from conftest import ROOT
from helpers import public_checkpoints, vector_records

import tf_mural
from tf_mural import conversion, experiment
from tf_mural.data import records
from tf_mural.data.records import RecordSet
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading, distillation, dry_run
from tf_mural.experiment.extractor import make_extractor
from tf_mural.experiment.fields import field_modalities

TEXT_VARIABLES = ("token_", "position_", "segment_", "embeddings_", "transformer_", "text_")
MIXTURE = os.path.join(ROOT, "configs", "examples", "mixture.py")


def test_the_stage_trains_only_on_texts_and_vectors():
    for size in config_loading.SIZES:
        config = config_loading.load_config("distil", size)
        assert set(field_modalities(config).values()) == {"text", "vectors"}
        assert config.model.image.adapt == "frozen" and config.init_stage == "mural"
        assert tuple(config.sources.translations.extraction.languages) == ("en",)


def test_the_width_of_the_teacher_is_that_of_the_embeddings():
    config = config_loading.load_config("distil", "tiny")
    changes = ["model.embedding_dim=512", "sources.translations.language_temperature=none"]
    config_loading.apply_overrides(config, [f"--config.{change}" for change in changes])
    assert config.model.towers.teacher.width == 512
    experiment.check_config(config, replicas=1)


def test_a_step_without_images_runs():
    config = config_loading.load_config("distil", "tiny")
    config.batch_size = 4
    _, loss = dry_run.trial_step(config)
    assert 0 < loss < 100


def test_the_mixture_has_the_terms_of_three_methods_in_one_table():
    config = config_loading.load_config("distil", "tiny", MIXTURE)
    experiment.check_config(config, replicas=1)
    losses = {name: (term.loss, term.weight) for name, term in config.terms.items()}
    assert losses == {
        **dict.fromkeys(("image_text_a", "text_a_text_b", "text_b_image"), ("contrastive", 1 / 6)),
        "source_target": ("contrastive", 1 / 4),
        "text_teacher": ("distil", 1 / 4),
    }
    assert config_loading.load_config("mural", "tiny", MIXTURE).size == "tiny"
    with pytest.raises(UserError, match="unknown stage 'etcl'; known: mural, distil"):
        config_loading.load_config("etcl", "tiny", MIXTURE)


# --- vectors of the teacher -----------------------------------------------------------------------


def write_taught(folder, name=None):
    """Writes records with the vectors "teacher", which are `name` of `vector_records`."""
    made, descriptions = [], {}
    for number in range(4):
        record = vector_records.make_record(number)
        vectors = {"teacher": record.vectors[name]} if name else {}
        made.append(dataclasses.replace(record, vectors=vectors))
    if name:
        descriptions["teacher"] = vector_records.DESCRIPTIONS[name]
    records.write(folder, made, vectors=descriptions)


@pytest.mark.parametrize(
    "taught, problem",
    [
        (None, "taught/train: there is no such record set"),
        ("", "taught/train: the records have no vectors 'teacher'"),
        ("text", "are those of texts in all languages, expected texts in en"),
    ],
)
def test_missing_vectors_are_refused_with_the_command_that_makes_them(tmp_path, taught, problem):
    config = config_loading.load_config("distil", "tiny")
    if taught is not None:
        write_taught(tmp_path / "taught" / "train", taught)
    with pytest.raises(UserError) as error:
        distillation.check_extractions(config, str(tmp_path), "runs/tiny/mural-s0")
    message = str(error.value)
    assert problem in message and "`" not in message
    assert message.endswith(
        "python tools/extract.py --model=runs/tiny/mural-s0 --name=teacher --of=texts "
        f"--languages=en --records={tmp_path}/scenes/train,{tmp_path}/scenes/bitext "
        f"--out_dir={tmp_path}/taught"
    )


def test_vectors_of_the_expected_languages_are_accepted(tmp_path):
    config = config_loading.load_config("distil", "tiny")
    for name in ("train", "bitext"):
        write_taught(tmp_path / "taught" / name, "english")
    distillation.check_extractions(config, str(tmp_path), None)
    config.sources.translations.extraction.languages = None
    with pytest.raises(UserError, match="texts in en, expected texts in all languages.*<the teach"):
        distillation.check_extractions(config, str(tmp_path), None)
    config.model.image.backbone = "hf:openai/clip"
    with pytest.raises(UserError, match="--model=hf:openai/clip --name"):
        distillation.check_extractions(config, str(tmp_path), None)


def test_stored_features_of_the_student_do_not_come_from_a_teacher(tmp_path):
    """The features have rows of texts in all languages, the teacher only of English texts."""
    example = os.path.join(ROOT, "configs", "examples", "photos_trained.py")
    config = config_loading.load_config("distil", "tiny", example)
    config.sources.translations.records = ("taught/train",)
    write_taught(tmp_path / "taught" / "train", "english")
    distillation.check_extractions(config, str(tmp_path), None)
    write_taught(tmp_path / "taught" / "train", "text")
    with pytest.raises(UserError, match="the vectors 'teacher' are those of texts in all lang"):
        distillation.check_extractions(config, str(tmp_path), None)


# --- a run ----------------------------------------------------------------------------------------

SMALL = ("--stage=distil", "--strategy=one", "--config.batch_size=16", "--config.steps=20")
SMALL += ("--config.report.show=0", "--config.report.compare_with=", "--config.report.control=none")
SMALL += ("--config.log_every=1", "--config.evaluation.retrieval.languages=en,de")


def text_losses(output):
    lines = [line for line in output.splitlines() if line.startswith("step")]
    return [float(line.split("text_teacher ")[1].split()[0]) for line in lines]


@pytest.mark.slow
def test_texts_move_to_the_teacher_and_images_stay(tools, finished, data_dir, tmp_path):
    os.symlink(data_dir / "scenes", tmp_path / "scenes")
    arguments = (*SMALL, "--data_dir=.", "--workdir=run")
    refusal = tools.run(tmp_path, "train.py", *arguments, f"--init={finished[0]}").error()
    python, script, *flags = shlex.split(refusal[refusal.index("python tools/") :])
    done = tools.run(tmp_path, os.path.basename(script), *flags)  # the command of the message
    assert not done.code, done.err
    # Without the image encoder of the teacher, the student's texts would find no images.
    other = ("--config.init_stage=none", "--workdir=other")
    refusal = tools.run(tmp_path, "train.py", *arguments, *other).error()
    assert f"come from {finished[0]}, whose image encoder is not that of this run" in refusal
    done = tools.run(tmp_path, "train.py", *arguments, f"--init={finished[0]}")
    assert not done.code, done.err
    losses = text_losses(done.out)
    assert len(losses) == 20 and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    with (
        np.load(finished[0] / "weights.npz") as before,
        np.load(tmp_path / "run" / "weights.npz") as after,
    ):
        assert set(after.files) == set(before.files)  # the teacher has no variables
        changed = {name for name in after.files if (after[name] != before[name]).any()}
    assert changed and all(name.startswith(TEXT_VARIABLES) for name in changed), changed
    done = tools.run(
        tmp_path, "evaluate.py", "--model=run", "--records=scenes/test", "--data_dir=."
    )
    assert not done.code, done.err


@pytest.mark.slow
def test_a_new_text_encoder_learns_from_a_public_model(data_dir, tmp_path):
    public = f"hf:{public_checkpoints.siglip(str(tmp_path / 'public'))}"
    os.symlink(data_dir / "scenes", tmp_path / "scenes")
    teacher = tf_mural.Embedder.load(public)
    extractor = make_extractor(teacher, public, "teacher", "texts", languages=("en",))
    for split in ("train", "bitext"):
        source = RecordSet.open(data_dir / "scenes" / split)
        conversion.extract(source, tmp_path / "taught", split, extractor, print_fn=str)
    overrides = dict(flag.removeprefix("--config.").split("=") for flag in SMALL[2:])
    overrides |= {"init_stage": None, "model.image.backbone": public, "model.embedding_dim": 16}
    tf_mural.train(
        "distil", tmp_path / "run", overrides=overrides, data_dir=tmp_path, strategy="one"
    )
    student = tf_mural.Embedder.load(tmp_path / "run")
    pixels = list(np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8))
    images = [embedder.embed_images(pixels) for embedder in (teacher, student)]
    np.testing.assert_allclose(*images, atol=1e-5)
    assert student.embed_texts(["ein roter Kreis"], warn=False).shape == (1, 16)
