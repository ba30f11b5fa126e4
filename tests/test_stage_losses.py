"""Compares the sources, fields and losses of every stage with the equations of the papers.

The tables and equations of this file are written by hand from the papers (ALIGN, MURAL, ETCL) and
do not use the configs. Therefore these tests fail if a config deviates from the papers.
"""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import trainers

from tf_mural.experiment import config_loading
from tf_mural.experiment.fields import field_modalities
from tf_mural.experiment.trainer import make_terms
from tf_mural.objective import objective, unnormalized

MARGIN, SMOOTHING = 0.3, 0.1
IMAGE_TEXT = {"image": "image", "caption": "text"}
TRANSLATION = {"source": "text", "target": "text"}
TAUGHT = {"text": "text", "teacher": "teacher"}
TRIPLE = {"image": "image", "text_a": "text", "text_b": "text"}
SIX = ("en", "de", "fr", "cs", "zh", "ja")
RECORDS = {
    "tiny": {
        "captions": ("scenes/train",),
        "bitext": ("scenes/bitext",),
        "triples": ("scenes/train",),
        "photos": ("scenes/train",),
        "taught": ("taught/train", "taught/bitext"),
    },
    "b3_mini": {
        "captions": ("cc3m/train",),
        "bitext": ("ccmatrix/train",),
        "triples": ("uc2/train",),
        "photos": ("multi30k/train",),
        "taught": ("taught/train",),
    },
    "paper": {
        "captions": ("crawl/train", "cc3m/train", "cc12m/train"),
        "bitext": ("ccmatrix/train",),
        "triples": ("uc2/train",),
        "photos": ("multi30k/train",),
        "taught": ("taught/train",),
    },
}
# {stage: {source: (corpus, fields, languages, unit of an epoch, minimum languages per image)}}.
MURAL_SOURCES = {
    "captions": ("captions", IMAGE_TEXT, ("en",), "records", 0),
    "bitext": ("bitext", TRANSLATION, None, "records", 0),
}
SOURCES = {
    "align": {"captions": ("captions", IMAGE_TEXT, ("en",), "records", 0)},
    "mural": MURAL_SOURCES,
    "control": MURAL_SOURCES,
    "etcl": {"triples": ("triples", TRIPLE, SIX, "combinations", 0)},
    "sixlang": {"captions": ("triples", IMAGE_TEXT, SIX, "combinations", 2)},
    "one_language": {"captions": ("triples", IMAGE_TEXT, ("de",), "records", 0)},
    "finetune": {"captions": ("photos", IMAGE_TEXT, ("en",), "records", 0)},
    "distil": {"translations": ("taught", TAUGHT, None, "records", 0)},
    "codeswitch": MURAL_SOURCES,
}
IMAGE_CAPTION = {"image_caption": ("image", "caption", 1.0)}
MURAL_TERMS = {
    "image_caption": ("image", "caption", 1 / 2),
    "source_target": ("source", "target", 1 / 2),
}
TERMS = {
    "align": IMAGE_CAPTION,
    "mural": MURAL_TERMS,
    "control": MURAL_TERMS,
    "etcl": {
        "image_text_a": ("image", "text_a", 1 / 3),
        "text_a_text_b": ("text_a", "text_b", 1 / 3),
        "text_b_image": ("text_b", "image", 1 / 3),
    },
    "sixlang": IMAGE_CAPTION,
    "one_language": IMAGE_CAPTION,
    "finetune": IMAGE_CAPTION,
    "distil": {"text_teacher": ("text", "teacher", 1.0)},
    "codeswitch": MURAL_TERMS,
}
# {stage: total loss}. `loss(x, y)` is `pair_loss` of the embeddings of the fields x and y.
EQUATIONS = {
    "align": lambda loss: loss("image", "caption"),
    "mural": lambda loss: (loss("image", "caption") + loss("source", "target")) / 2,
    "control": lambda loss: (loss("image", "caption") + loss("source", "target")) / 2,
    "etcl": lambda loss: (
        (loss("image", "text_a") + loss("text_a", "text_b") + loss("text_b", "image")) / 3
    ),
    "sixlang": lambda loss: loss("image", "caption"),
    "one_language": lambda loss: loss("image", "caption"),
    "finetune": lambda loss: loss("image", "caption"),
    "distil": lambda loss: loss("text", "teacher"),
    "codeswitch": lambda loss: (loss("image", "caption") + loss("source", "target")) / 2,
}


def pair_loss(x, y, sigma):
    """Computes L(x -> y) + L(y -> x) as in the paper. Both losses are means over the batch.

    The logits are (x_i . y_j - m [i = j]) / sigma. The targets are (1 - eps) [i = j] + eps / N.
    """
    count, total = len(x), 0.0
    for a, b in ((x, y), (y, x)):
        for i in range(count):
            logits = [(a[i] @ b[j] - MARGIN * (i == j)) / sigma for j in range(count)]
            log_sum = np.log(np.sum(np.exp(logits)))
            for j in range(count):
                target = (1 - SMOOTHING) * (i == j) + SMOOTHING / count
                total -= target * (logits[j] - log_sum) / count
    return total


def test_every_stage_has_an_equation():
    assert set(config_loading.STAGES) == set(EQUATIONS) == set(SOURCES) == set(TERMS)


@pytest.mark.parametrize("size", RECORDS)
@pytest.mark.parametrize("stage", SOURCES)
def test_sources_have_the_records_fields_and_languages_of_the_paper(stage, size):
    config = config_loading.load_config(stage, size)
    assert set(config.sources) == set(SOURCES[stage])
    for name, (corpus, fields, languages, epoch_unit, min_languages) in SOURCES[stage].items():
        source = config.sources[name]
        assert tuple(source.records) == RECORDS[size][corpus]
        assert source.fields.to_dict() == fields
        assert (source.languages and tuple(source.languages)) == languages
        assert (source.epoch_unit, source.min_languages) == (epoch_unit, min_languages)
        # Record sets are drawn in proportion to their sizes.
        assert (source.weights, source.temperature) == (None, 1.0)
    modalities = {
        k: v for *_, fields, _, _, _ in SOURCES[stage].values() for k, v in fields.items()
    }
    modalities = {k: "vectors" if v == "teacher" else v for k, v in modalities.items()}
    assert field_modalities(config) == modalities


@pytest.mark.parametrize("size", RECORDS)
@pytest.mark.parametrize("stage", EQUATIONS)
def test_the_loss_is_that_of_the_equation(stage, size):
    config = config_loading.load_config(stage, size)
    terms = make_terms(config)
    assert {t.name: (t.x, t.y, t.weight) for t in terms} == TERMS[stage]
    rng, embeddings, batch = np.random.default_rng(0), {}, {}
    for field, modality in field_modalities(config).items():
        x = rng.normal(size=(5, 4))
        embeddings[field] = x / np.linalg.norm(x, axis=1, keepdims=True)
        # Some ids are equal. If a term masked duplicates, unlike the paper, its loss would differ.
        batch[field] = {"id": np.array([1, 1, 2, 2, 3])}
        embeddings[unnormalized(field)] = x
        if modality == "text":
            batch[field]["language"] = np.zeros(5, np.int32)
    sigma = 0.2
    # All terms share one temperature.
    scalars = {"temperature": {"shared": sigma}}
    keys = {key for term in terms for key in term.keys}
    total, logs = objective(
        {key: embeddings[key] for key in keys}, batch, terms, scalars, lambda x: x, 0, 1
    )
    assert config.model.scalars.to_dict().keys() == {"temperature"}
    assert list(config.model.scalars.temperature) == ["shared"]

    def loss(x, y):
        if stage == "distil":  # Reimers and Gurevych 2020: the squared error, mean over all values
            return np.mean((embeddings[unnormalized(x)] - embeddings[unnormalized(y)]) ** 2)
        return pair_loss(embeddings[x], embeddings[y], sigma)

    assert float(total) == pytest.approx(EQUATIONS[stage](loss), rel=1e-9)
    for name, (x, y, _) in TERMS[stage].items():
        assert float(logs[f"loss/{name}"]) == pytest.approx(loss(x, y), rel=1e-9)


# --- weights and temperature in the training step -------------------------------------------------


def gradients_with_weights(weights):
    """Returns {variable path: gradient} and the logs of an ETCL step with these term weights."""
    trainer = trainers.make_trainer("etcl")
    trainer.core.terms = tuple(
        dataclasses.replace(term, weight=weight)
        for term, weight in zip(trainer.core.terms, weights, strict=True)
    )
    batch = trainers.to_tensors(trainers.make_batch("etcl"))
    gradients, logs = trainer.core.compute_gradients(batch)
    return trainers.gradients_by_path(trainer, gradients), {k: float(v) for k, v in logs.items()}


def test_gradients_of_the_step_are_linear_in_the_weights_of_the_terms():
    weights = (0.7, 0.2, 0.1)
    total, logs = gradients_with_weights(weights)
    parts = [gradients_with_weights(np.eye(3)[i])[0] for i in range(3)]
    for path, gradient in total.items():
        expected = sum(w * part[path] for w, part in zip(weights, parts, strict=True))
        scale = max(np.abs(part[path]).max() for part in parts)
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * scale + 1e-6, err_msg=path)
    names = ("image_text_a", "text_a_text_b", "text_b_image")
    expected = sum(w * logs[f"loss/{name}"] for w, name in zip(weights, names, strict=True))
    assert logs["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("target, kept", [(3.0, 2.0), (0.001, 0.005), (0.4, 0.4)])
def test_the_temperature_after_a_step_of_gradient_descent_is_clamped(target, kept):
    """Uses the learning rate with which gradient descent would move the temperature to `target`."""
    batch = trainers.to_tensors(trainers.make_batch("mural"))
    trainer = trainers.make_trainer("mural")
    gradients, _ = trainer.core.compute_gradients(batch)
    gradient = trainers.gradients_by_path(trainer, gradients)["dual_encoder/temperature_shared"]
    trainer.compile(optimizer=keras.optimizers.SGD(float((0.2 - target) / gradient)))
    trainer.optimizer.build(trainer.encoder.trainable_variables)
    logs = trainer.train_step(batch)
    assert float(logs["temperature/shared"]) == pytest.approx(kept, rel=1e-4)
    assert float(logs["temperature_clamped"]) == (target != kept)
