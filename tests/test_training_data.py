"""Tests `tf_mural.data.training_dataset`, and the stages of `ALIGN`, `MURAL` and `ETCL`."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import keras_trainers, trainers
from helpers.pipeline import assert_batches_equal, read_batches

import tf_mural
from tf_mural import experiment
from tf_mural.backends import backend_module
from tf_mural.data import Preprocessing, records
from tf_mural.errors import UserError
from tf_mural.experiment import config_loading
from tf_mural.experiment.fields import field_towers
from tf_mural.experiment.trainer import make_terms
from tf_mural.trainers import STAGES

NAMED = {"align": tf_mural.ALIGN, "mural": tf_mural.MURAL, "etcl": tf_mural.ETCL}


@pytest.fixture(scope="module")
def model():
    return keras_trainers.make_model()


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return keras_trainers.make_records(str(tmp_path_factory.mktemp("records")))


# --- the stages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", NAMED)
def test_named_trainers_have_the_terms_and_sources_of_the_configs(model, stage):
    config = config_loading.load_config(stage, "tiny")
    trainer = NAMED[stage](model)
    assert list(trainer.core.terms) == make_terms(config)
    # The order of the fields is also the same.
    assert list(trainer.core.fields.items()) == list(field_towers(config).items())
    sources = [(name, tuple(source.fields)) for name, source in config.sources.items()]
    assert list(trainer.sources.items()) == sources
    for name, source in config.sources.items():
        options = {
            "languages": None,
            "epoch_unit": "records",
            **trainer.source_options.get(name, {}),
        }
        # The languages of triples are those of the records, which a config of scenes restricts.
        languages = None if stage == "etcl" else source.languages
        assert options == {"languages": languages, "epoch_unit": source.epoch_unit}


def test_every_stage_has_a_trainer():
    assert {cls.__name__.lower() for cls in NAMED.values()} == set(STAGES)


def test_terms_can_be_changed_by_arguments(model):
    trainer = tf_mural.MURAL(
        model, weights={"source_target": 0.9}, options={"margin": 0.1}, mask_duplicates=True
    )
    terms = {term.name: term for term in trainer.core.terms}
    assert {name: term.weight for name, term in terms.items()} == {
        "image_caption": 1 / 2,
        "source_target": 0.9,
    }
    for term in terms.values():
        assert term.options == {"margin": 0.1, "label_smoothing": 0.0} and term.mask_duplicates


# --- the order of examples ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mural", "etcl"])
def test_the_batches_are_those_of_the_command(stage, data_dir):
    config = config_loading.load_config(stage, "tiny")
    config.seed, config.batch_size = 4, 8
    run = experiment.build(config, str(data_dir), backend_module().make_strategy("one"))
    expected = read_batches(run.dataset(start_step=5), 3)

    trainer = NAMED[stage](run.trainer.encoder, seed=4)
    paths = {name: str(data_dir / source.records[0]) for name, source in config.sources.items()}
    dataset = tf_mural.data.training_dataset(
        paths if stage == "mural" else paths["triples"],
        trainer,
        batch_size=8,
        languages={name: source.languages for name, source in config.sources.items()},
        start_step=5,
        tokenizer=tf_mural.data.Tokenizer(run.vocabulary_path, run.description["max_tokens"]),
        preprocessing=Preprocessing(config.images.resize, config.images.crop),
    )
    assert_batches_equal(read_batches(dataset, 3), expected)


def uncompiled_trainer(model):
    return tf_mural.ETCL(model, languages=keras_trainers.LANGUAGES, seed=3)


def test_an_iterator_starts_at_the_step_of_the_trainer(model, colors):
    trainer = uncompiled_trainer(model)
    dataset = keras_trainers.make_dataset(colors, trainer)
    first = read_batches(dataset, 4)
    trainer.step.assign(2)
    assert_batches_equal(read_batches(dataset, 2), first[2:])
    fixed = keras_trainers.make_dataset(colors, trainer, start_step=1)
    assert_batches_equal(read_batches(fixed, 3), first[1:])
    ids = [batch["image"]["id"].tolist() for batch in first]
    assert ids[0] != ids[1] and dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_language_ids_are_positions_in_the_languages_of_the_trainer(model, colors):
    trainer = tf_mural.ETCL(model, languages=("cs", "en", "de"))
    (batch,) = read_batches(keras_trainers.make_dataset(colors, trainer), 1)
    assert set(batch["text_a"]["language"]) == {1, 2}
    trainer = tf_mural.ETCL(model, languages=("en",))
    with pytest.raises(UserError, match="texts in de, but the trainer has the languages en: give"):
        keras_trainers.make_dataset(colors, trainer)


def test_the_texts_of_triples_are_in_all_languages_of_the_records_by_default(model, colors):
    dataset = keras_trainers.make_dataset(colors, tf_mural.ETCL(model), languages=None)
    (batch,) = read_batches(dataset, 1)
    texts = np.stack([batch["text_a"]["language"], batch["text_b"]["language"]])
    assert (np.sort(texts, axis=0) == [[0], [1]]).all()  # de and en in each example


def test_a_source_may_have_several_record_sets(model, colors):
    trainer = uncompiled_trainer(model)
    single = records.RecordSet.open(colors)
    mixed = keras_trainers.make_dataset([single, colors], trainer, weights=[3, 1])
    (batch,) = read_batches(mixed, 1)
    assert batch["image"]["pixels"].shape == (8, trainers.IMAGE_SIZE, trainers.IMAGE_SIZE, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(records="nowhere"), "no record set in nowhere"),
        (dict(records={"captions": "colors"}), "unknown source of the trainer: 'captions'; known"),
        (dict(languages=("de", "fr")), "unknown language .of the source 'triples'. 'fr'; known"),
        (dict(languages={"bitext": ("de",)}), "unknown source of the trainer: 'bitext'"),
        (dict(languages=("de",)), "no record has 2 of the languages de"),
        (dict(batch_size=1), "batch_size is 1, expected a number from 2"),
        (dict(tokenizer=None), "the text encoder 'text' has no tokenizer: give tokenizer="),
        (dict(preprocessing=Preprocessing(72, 64)), "64"),
        (dict(weights=[1.0, 2.0]), "has 1 record sets and weights"),
        (dict(epoch_unit="images"), "unknown epoch_unit 'images'"),
    ],
)
def test_records_that_do_not_fit_are_refused(model, colors, arguments, message):
    arguments = {"records": colors, **arguments}
    with pytest.raises(UserError, match=message):
        keras_trainers.make_dataset(
            arguments.pop("records"), uncompiled_trainer(model), **arguments
        )


def test_a_trainer_with_two_sources_needs_a_path_for_each(model, colors):
    trainer = tf_mural.MURAL(model)
    with pytest.raises(UserError, match="the trainer has the sources bitext, captions: expected"):
        keras_trainers.make_dataset(colors, trainer)
    with pytest.raises(UserError, match="no record set for the source 'bitext' of the trainer"):
        keras_trainers.make_dataset({"captions": colors}, trainer)
    trainer = tf_mural.ETCL(model, microbatch=3)
    with pytest.raises(UserError, match="microbatch of the trainer is 3, which does not divide"):
        keras_trainers.make_dataset(colors, trainer)


@pytest.mark.slow
def test_records_that_cannot_be_used_end_the_training(tmp_path):
    from helpers.images import gray_image

    damaged = [
        records.Record(str(i), (gray_image(9, 36)[:60],), (("de", f"w{i}"), ("en", f"w{i}")))
        for i in range(8)
    ]
    records.write(tmp_path / "damaged", damaged, shards=1)
    trainer = keras_trainers.make_trainer(eager=True)
    dataset = keras_trainers.make_dataset(str(tmp_path / "damaged"), trainer)
    with pytest.raises(UserError, match="records in a row cannot be used, the last one .*damaged"):
        trainer.fit(dataset, steps_per_epoch=1, verbose=0)
