"""Trainers of the Python API with the options of terms: sizes, negatives and distillation."""

import numpy as np
import pytest
import small_config
import tensorflow as tf
from helpers import keras_trainers, trainers
from helpers.comparison import largest_error
from test_mine_negatives import MODEL, embed

import tf_mural
from configs import base
from configs.examples import own
from tf_mural import experiment, search
from tf_mural.backends import backend_module
from tf_mural.data import MinedNegatives, Preprocessing
from tf_mural.data.records import RecordSet
from tf_mural.errors import UserError
from tf_mural.experiment.config_validation import check_config
from tf_mural.experiment.run import build

PAPER = {"margin": 0.3, "label_smoothing": 0.1}
TERMS = [
    tf_mural.Term(
        "image_caption",
        "image",
        "caption",
        0.5,
        options=PAPER,
        negatives="image_caption_negatives",
        dims=(16, 4),
        mask_duplicates=True,
    ),
    tf_mural.Term("source_target", "source", "target", 0.5, "distil", {"form": "mse"}, dims=(8,)),
]
SOURCES = {
    "bitext": ("source", "target"),
    "captions": ("caption", "image"),
    "image_caption_negatives": ("image_caption_negatives",),
}


@pytest.fixture(scope="module")
def mined(data_dir, make_once):
    """Mined negatives of the training scenes."""

    def make(folder):
        source = RecordSet.open(data_dir / "scenes" / "train")
        options = search.MiningOptions("images", "texts", languages=("en",))
        parts = {"images": embed, "texts": embed}
        search.mine(source, str(folder / "train"), parts, MODEL, options, print_fn=str)

    return make_once("mined", make) / "train"


@pytest.mark.slow
def test_a_trainer_with_these_terms_takes_the_step_of_the_config(data_dir, mined):
    config = small_config.get_config("mural")
    config.terms.image_caption.dims, config.mask_duplicates = (16, 4), True
    config.terms.source_target = base.term("source", "target", 0.5, "distil", form="mse", dims=(8,))
    base.add_negatives(config, "image_caption", str(mined))
    config.evaluation = {}
    run = build(config, str(data_dir), backend_module().make_strategy("one"))
    expected_batch = next(iter(run.dataset(0)))
    expected, expected_logs = run.trainer.core.compute_gradients(expected_batch)
    assert run.negatives and len(run.language_report.passes(1)) == 2

    encoder = run.trainer.encoder
    trainer = tf_mural.Trainer(
        encoder,
        terms=TERMS,
        fields={field: run.trainer.core.fields[field] for f in SOURCES.values() for field in f},
        languages=run.trainer.core.languages,
        seed=config.seed,
        sources=SOURCES,
    )
    dataset = tf_mural.data.training_dataset(
        {
            "captions": data_dir / "scenes" / "train",
            "bitext": data_dir / "scenes" / "bitext",
            "image_caption_negatives": MinedNegatives(mined, of="captions"),
        },
        trainer,
        config.batch_size,
        languages={"captions": ["en"]},
        tokenizer=run.tokenizer,
        preprocessing=Preprocessing.from_config(config.images, config.model.image),
    )
    batch = next(iter(dataset))
    tf.nest.map_structure(np.testing.assert_array_equal, dict(batch), dict(expected_batch))
    gradients, logs = trainer.core.compute_gradients(batch)
    assert float(logs["loss"]) == pytest.approx(float(expected_logs["loss"]), rel=1e-6)
    assert set(logs) == set(expected_logs)
    actual, expected = (
        trainers.gradients_by_path(trainer, [tf.convert_to_tensor(g) for g in values])
        for values in (gradients, expected)
    )
    assert largest_error(actual, expected)[0] < 1e-4
    # The negatives are captions of other records, and change the loss.
    captions, negatives = (batch[f]["id"].numpy() for f in ("caption", "image_caption_negatives"))
    assert (captions != negatives).all()
    plain = tf_mural.Term("image_caption", "image", "caption", 0.5, options=PAPER, dims=(16, 4))
    fields = {"caption": "text", "image": "image"}
    small = tf_mural.Trainer(encoder, terms=[plain], fields=fields)
    _, plain_logs = small.core.compute_gradients({field: batch[field] for field in fields})
    assert float(logs["loss/image_caption"]) > float(plain_logs["loss/image_caption"]) + 1e-3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y": "captoin"}, r"unknown field \(of the term 't'\) 'captoin'.* did you mean 'caption'"),
        ({"negatives": "hard"}, r"unknown field \(of the term 't'\) 'hard'"),
        (
            {"dims": (16, 17)},
            "dims of the term 't' contains 17, but the embeddings have 16 columns",
        ),
        ({"y": "target"}, "compares image and target, but no source has both fields"),
        ({"options": {"form": "mse"}}, "'form'"),
        ({"loss": "distil", "options": {"margin": 0.1}}, "'margin'"),
        ({"loss": "distil", "negatives": "target"}, "takes no negatives"),
        ({"scalars": {"temperature": "own"}}, r"unknown temperature \(of the term 't'\) 'own'"),
    ],
)
def test_wrong_terms_are_refused_when_the_trainer_is_made(changes, message):
    model = keras_trainers.make_model()
    fields = {"image": "image", "caption": "text", "target": "text"}
    sources = {"captions": ("image", "caption"), "others": ("target",)}
    with pytest.raises(UserError, match=message):
        term = tf_mural.Term(
            **{"name": "t", "x": "image", "y": "caption", "weight": 1.0, **changes}
        )
        tf_mural.Trainer(model, terms=[term], fields=fields, sources=sources)


def test_negatives_of_an_unknown_source_are_refused(data_dir, mined):
    trainer = tf_mural.Trainer(
        keras_trainers.make_model(),
        terms=[tf_mural.Term("t", "image", "caption", 1.0, negatives="hard")],
        fields={"caption": "text", "hard": "text", "image": "image"},
        sources={"captions": ("caption", "image"), "negatives": ("hard",)},
    )
    records = {"captions": data_dir / "scenes" / "train"}
    records["negatives"] = MinedNegatives(mined, of="caption")
    with pytest.raises(UserError, match="source of the negatives 'negatives': 'caption'.*captions"):
        keras_trainers.make_dataset(records, trainer, languages=None)


@pytest.mark.parametrize("stage", own.STAGES)
def test_users_own_data_have_no_duplicates_among_their_negatives(stage):
    config = own.get_config(stage)
    fields = list(next(iter(config.sources.values())).fields)
    config.terms.added = base.term(*fields[:2], weight=1.0)
    for term in experiment.make_terms(config):
        assert term.mask_duplicates and term.duplicate_fields, term.name
    config.mask_duplicates = False
    assert not any(term.mask_duplicates for term in experiment.make_terms(config))


def test_wrong_sizes_and_negatives_of_a_config_are_refused(mined):
    config = small_config.get_config("mural")
    config.terms.image_caption.dims = (16, 17)
    with pytest.raises(UserError, match="image_caption.dims contains 17, but model.embedding_dim"):
        check_config(config, 1)
    config = small_config.get_config("mural")
    base.add_negatives(config, "image_caption", str(mined))
    check_config(config, 1)
    config.sources.image_caption_negatives.negatives_of = "captoins"
    with pytest.raises(UserError, match="negatives_of of sources.image_caption_neg.*'captoins'"):
        check_config(config, 1)
